"""What a registry's refusal means, and what to do about it.

Codes: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#error-codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from trt_action import http
from trt_action.console import clean
from trt_action.errors import RegistryError

_LOGIN = (
    "The registry did not accept the login, or was given none.",
    "Check `registry-username` and `registry-password` (or `docker login {host}`): missing, expired or mistyped.",
)
_DENIED = (
    "The login is accepted, but may not do this in this repository.",
    "Give the account or token the right to push there (on GHCR: `permissions: {{packages: write}}`, and the package "
    "must belong to this repository), or choose another image name.",
)
_MISSING = (
    "It does not exist there, or this login may not see it.",
    "Check the image's name; some registries want the repository to be created before the first push.",
)
_UNSUPPORTED = (
    "This registry does not do that, or it is switched off.",
    "Ask whoever runs the registry (to delete, CNCF distribution needs `storage.delete.enabled: true`).",
)
_DIGEST = (
    "What arrived is not what was sent: the file changed meanwhile, or something on the way alters the bytes.",
    "Run it again; if it stays, look for a proxy between here and the registry.",
)
_LARGE = ("The registry, or a proxy before it, limits the size.", "Raise its limit (nginx: `client_max_body_size 0`).")
_BUSY = ("The registry limits how often it may be asked.", "Run it again later: what was sent is kept.")
_BROKEN = ("The registry itself is in trouble.", "Look at its status or log, and run it again later.")

_BY_CODE = {
    "UNAUTHORIZED": _LOGIN,
    "DENIED": _DENIED,
    "NAME_UNKNOWN": _MISSING,
    "MANIFEST_UNKNOWN": _MISSING,
    "BLOB_UNKNOWN": _MISSING,
    "NAME_INVALID": ("The registry does not take this name.", "Choose another image name."),
    "UNSUPPORTED": _UNSUPPORTED,
    "DIGEST_INVALID": _DIGEST,
    "SIZE_INVALID": _DIGEST,
    "MANIFEST_BLOB_UNKNOWN": (
        "A layer that was there is gone: the registry's garbage collection ran meanwhile.",
        "Run it again: what is missing is sent again.",
    ),
    "TOOMANYREQUESTS": _BUSY,
}
_BY_STATUS = {
    401: _LOGIN,
    403: _DENIED,
    404: _MISSING,
    405: _UNSUPPORTED,
    413: _LARGE,
    429: _BUSY,
    501: _UNSUPPORTED,
}


def refused(host: str, request: str, status: int, content: bytes, redacted: Callable[[str], str]) -> RegistryError:
    """The error for an answer that was not wanted; `content` is its body, foreign text."""
    code, message = _told(content)
    words = ", ".join(part for part in (f"HTTP {status}", clean(code)[:60], redacted(clean(message))[:300]) if part)
    why, fix = _BY_CODE.get(code) or _BY_STATUS.get(status) or (_BROKEN if status >= 500 else ("", ""))
    if status == 401 and code == "DENIED":
        why, fix = _LOGIN
    return RegistryError(
        f"{host} refused {request}: {words}.", why=why, fix=fix.format(host=host), status=status, code=code
    )


def lost(host: str, request: str, got: http.Lost) -> RegistryError:
    """The error for a request without an answer."""
    why, fix = "", "Check the registry's name, the network and any proxy (HTTPS_PROXY, NO_PROXY), then run it again."
    if got.refused:
        why = "Nothing listens at that address and port: one of them is wrong, or the registry is not running."
        fix = "Check the host and port in the image's name, and that the registry runs; then run it again."
    if got.unknown:
        why = "DNS knows no host of that name."
        fix = (
            "Check the host in the image's name; a registry in this network needs a name that this machine can resolve."
        )
    if "certificate" in got.reason:
        why = "The registry has no TLS, or a certificate of an authority that this machine does not know."
        fix = "Name its authority's certificate, or allow plain http if the registry has no TLS on purpose."
    return RegistryError(f"{host} did not answer {request}: {got.reason}.", why=why, fix=fix)


def _told(content: bytes) -> tuple[str, str]:
    """The first error's code and message: `{"errors": [{"code", "message"}]}`, or what token servers say."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(data, dict):
        return "", ""
    errors = data.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return str(errors[0].get("code") or ""), str(errors[0].get("message") or "")
    return "", str(data.get("details") or data.get("message") or data.get("error") or "")
