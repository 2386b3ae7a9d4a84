"""TLS to a cluster: its own authority alone is trusted, and the client's key lies in a file for a moment only."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from trt_action.deploy.access import Access, Login
from trt_action.errors import SettingsError


def prepare(session: requests.Session, access: Access, login: Login) -> None:
    """Make a session's connections to the cluster what `access` and `login` say. Its environment is not asked:
    REQUESTS_CA_BUNDLE would be trusted beside the cluster's own authority.

    Raises:
        SettingsError: certificates or key cannot be used.
    """
    session.trust_env = False
    proxies = get_environ_proxies(access.server)
    session.proxies = {urlsplit(access.server).scheme: access.proxy} if access.proxy else proxies
    session.verify = not access.insecure
    if access.insecure:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    session.mount("https://", _Adapter(_context(access, login), access.server_name))


def _context(access: Access, login: Login) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=access.ca.decode("ascii") if access.ca else None)
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise SettingsError(
            f"The cluster's certificate authority ({access.origin}) is no certificate in PEM form.",
            fix="It begins with `-----BEGIN CERTIFICATE-----`.",
        ) from None
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if login.certificate and login.key is not None:
        _load(context, login, access.origin)
    return context


def _load(context: ssl.SSLContext, login: Login, origin: str) -> None:
    """The ssl module reads from files only: one that nobody else may read, gone at once."""
    with tempfile.TemporaryDirectory(prefix="trt-action-") as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_bytes(login.certificate)
        key.touch(mode=0o600)
        key.write_text(login.key.get_secret_value() if login.key else "")
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")  # an encrypted key must not ask a terminal
        except (ssl.SSLError, OSError, ValueError):
            raise SettingsError(
                f"The client certificate and its key ({origin}) cannot be used.",
                why="They are no PEM, do not belong together, or the key has a passphrase.",
                fix="`kubectl get namespaces` tries the same pair.",
            ) from None


class _Adapter(HTTPAdapter):
    """Connections with a given context. `requests` would add its own authorities to it: it is not let."""

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        self._context, self._server_name = context, server_name
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._server_name:
            kwargs |= {"server_hostname": self._server_name, "assert_hostname": self._server_name}
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Only what the context says."""
        conn.cert_reqs = "CERT_REQUIRED" if verify else "CERT_NONE"
        conn.ca_certs = conn.ca_cert_dir = None
