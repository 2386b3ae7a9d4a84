"""How a cluster is reached: from a kubeconfig, from inside the cluster, or by an address and a token.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/ and
https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from trt_action import http
from trt_action.errors import SettingsError
from trt_action.inputs import open_regular, quote
from trt_action.publish.reference import is_loopback

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_TOKEN_BYTES = 100_000
MAX_CA_BYTES = 1_000_000


@dataclass(frozen=True)
class Login:
    """Who asks: a token, a client certificate with its key (PEM), or nobody."""

    token: SecretStr | None = None
    certificate: bytes = field(default=b"", repr=False)
    key: SecretStr | None = None


@dataclass(frozen=True)
class Access:
    """One cluster as one user.

    Args:
        server: https address of the API, or http on this machine (`kubectl proxy`).
        login: asked at the start, and again when the cluster says 401: tokens end, and files get new ones.
        ca: certificates (PEM) that alone are trusted; empty: the system's.
        origin: where this comes from, in words.
    """

    server: str
    login: Callable[[], Login]
    origin: str
    namespace: str = ""
    ca: bytes = field(default=b"", repr=False)
    insecure: bool = False
    server_name: str = ""
    proxy: str = ""
    impersonate: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scheme, host, port = http.origin(self.server)
        local = scheme == "http" and is_loopback(host or "")
        if not host or not port or (scheme != "https" and not local):
            raise SettingsError(
                f"{quote(self.server)} ({self.origin}) is no https address of a cluster.",
                why="Without TLS everybody on the way could read the token; plain http is for this machine alone.",
                fix="Write it as `https://cluster.example.com:6443`.",
            )
        if self.proxy and not http.origin(self.proxy)[1]:
            raise SettingsError(
                f"`proxy-url` is {quote(self.proxy)}, which is no address of a proxy ({self.origin}).",
                fix="Write it as `http://proxy.example.com:3128`.",
            )


@dataclass(frozen=True)
class Asked:
    """What a person says about the connection; all of it may be missing. `kubeconfig` is a file, `content` its text."""

    kubeconfig: Path | None = None
    content: SecretStr | None = None
    context: str | None = None
    server: str | None = None
    token: SecretStr | None = None
    ca: bytes = b""
    insecure: bool = False


def find(asked: Asked, env: Mapping[str, str], *, mounted: Path = SERVICE_ACCOUNT) -> Access:
    """The connection that was asked for; else kubectl's own (KUBECONFIG, `~/.kube/config`), else that of the pod we
    run in.

    Args:
        mounted: where Kubernetes puts a pod's service account.

    Raises:
        SettingsError: there is none, it contradicts itself, or a file cannot be used.
    """
    from trt_action.deploy import kubeconfig

    if asked.server or asked.token:
        return _named(asked)
    if asked.content is not None:
        return kubeconfig.of_text(asked.content.get_secret_value(), asked.context, insecure=asked.insecure, env=env)
    paths = [asked.kubeconfig] if asked.kubeconfig else kubeconfig.usual(env)
    if paths:
        return kubeconfig.of_files(paths, asked.context, insecure=asked.insecure, env=env)
    if env.get("KUBERNETES_SERVICE_HOST") and (mounted / "token").exists():
        return inside(env, mounted)
    raise SettingsError(
        "No cluster is named.",
        why="There is no kubeconfig (KUBECONFIG, `~/.kube/config`), and this is no pod with a service account.",
        fix="Give `--kubeconfig FILE`, or `--server URL` with the token in KUBE_TOKEN (action: `deploy-kubeconfig`, or "
        "`deploy-server` and `deploy-token`).",
    )


def inside(env: Mapping[str, str], mounted: Path = SERVICE_ACCOUNT) -> Access:
    """From a pod. Kubernetes replaces the token's file about hourly: it is read anew for every login.

    Raises:
        SettingsError: the files of the service account cannot be read.
    """
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT", "443")
    space = mounted / "namespace"
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        login=lambda: Login(read_token(mounted / "token")),
        origin="the service account of this pod",
        namespace=space.read_text().strip() if space.is_file() else "",
        ca=read_bytes(mounted / "ca.crt", "certificate", MAX_CA_BYTES),
    )


def _named(asked: Asked) -> Access:
    missing = "token" if not asked.token else "server" if not asked.server else ""
    if missing:
        raise SettingsError(
            f"`{'server' if missing == 'token' else 'token'}` is given, and `{missing}` is not.",
            why="In a workflow this usually is a secret that does not exist in this repository, or a run of a fork.",
            fix="Give both (`deploy-server` and `deploy-token`; command line: `--server` and KUBE_TOKEN).",
        )
    if asked.context or asked.kubeconfig or asked.content:
        raise SettingsError(
            "`server` and a kubeconfig are both given.", fix="Give one of them: the kubeconfig names a server itself."
        )
    token = asked.token
    return Access(str(asked.server), lambda: Login(token), "the given server", ca=asked.ca, insecure=asked.insecure)


def read_token(path: Path) -> SecretStr:
    """A token in a file.

    Raises:
        SettingsError: there is none.
    """
    text = read_bytes(path, "token", MAX_TOKEN_BYTES).decode("utf-8", "replace").strip()
    if not text or not text.isprintable():
        raise SettingsError(f"The file {quote(path)} holds no token.", fix="Put the token alone into it.")
    return SecretStr(text)


def read_bytes(path: Path, noun: str, limit: int) -> bytes:
    """A small file.

    Raises:
        SettingsError: it is not there, or too large to be what it should be.
    """
    with open_regular(path, noun=noun, wrong=SettingsError) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise SettingsError(f"The {noun} {quote(path)} has more than {limit} bytes.", fix="Name the right file.")
    return content
