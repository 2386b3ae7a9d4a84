"""What a person asks of publishing, as texts, becomes typed and checked: the same for every door."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pydantic import SecretStr

from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote, quote_all
from trt_action.publish import tags
from trt_action.publish.reference import Reference
from trt_action.settings import units
from trt_action.settings.options import ACTION_BY_NAME
from trt_action.settings.values import BadValueError

if TYPE_CHECKING:
    import requests

    from trt_action.publish import scan
    from trt_action.publish.runtime import Mode
    from trt_action.publish.signing import Signer

Sign = Literal["auto", "key", "keyless", "false"]

SECRETS = ("registry-password", "sign-key", "sign-key-password")

_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,198}[A-Za-z0-9])?")
MAX_LABEL = 4_000


@dataclass(frozen=True)
class Wanted:
    """What is asked. Secrets show in no repr."""

    variant: str = "auto"
    base: Reference | None = None
    dockerfile: Path | None = None
    mode: Mode = "auto"
    rules: Sequence[tags.Rule] = ()
    index: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    max_size: int | None = None
    max_severity: str | None = None
    scanner_image: str = ""
    scan_ignore: Path | None = None
    sign: Sign = "auto"
    username: str | None = None
    password: SecretStr | None = None
    key: SecretStr | None = None
    key_password: SecretStr | None = None


def read(text: Callable[[str], str]) -> Wanted:
    """What is asked; `text` gives an option's text by name, empty if it was not given.

    Raises:
        SettingsError: a value that the option cannot take, a rule that is none, keys without `sign` or the reverse.
    """
    secrets = {name: SecretStr(text(name)) if text(name) else None for name in SECRETS}
    wanted = Wanted(
        variant=_choice("variant", text),
        base=Reference.parse(text("base-image").strip()) if text("base-image").strip() else None,
        dockerfile=_path(text("dockerfile")),
        mode=cast("Mode", _choice("publish-mode", text)),
        rules=tags.rules(text("tags").splitlines()) if text("tags").strip() else (),
        index=_boolean("index", text),
        labels=dict(_label(line) for line in text("labels").splitlines() if line.strip()),
        max_size=_size(text("max-image-size").strip()),
        max_severity=_choice("max-severity", text) if text("max-severity").strip() else None,
        scanner_image=str(Reference.parse(text("scanner-image").strip())) if text("scanner-image").strip() else "",
        scan_ignore=_path(text("scan-ignore")),
        sign=cast(Sign, _choice("sign", text)),
        username=text("registry-username").strip() or None,
        password=secrets["registry-password"],
        key=secrets["sign-key"],
        key_password=secrets["sign-key-password"],
    )
    if wanted.sign == "key" and wanted.key is None:
        raise SettingsError("`sign: key` was asked, and `sign-key` is empty.", fix="Give the key as a secret.")
    return wanted


def scan_of(wanted: Wanted, folder: Path) -> scan.Asked | None:
    """The scan gate; None: it was not asked for. Paths start at `folder`.

    Raises:
        SettingsError: exceptions or a scanner without the gate, or an ignore file that cannot be read.
    """
    from trt_action.publish import scan

    if wanted.max_severity is None:
        if wanted.scan_ignore or wanted.scanner_image:
            raise SettingsError(
                "`scan-ignore` and `scanner-image` have no effect without `max-severity`.",
                fix="Say what is let through, e.g. `max-severity: medium`.",
            )
        return None
    ignore = scan.read_ignore(folder / wanted.scan_ignore) if wanted.scan_ignore else ()
    return scan.Asked(wanted.max_severity, ignore, wanted.scanner_image)


def signer(wanted: Wanted, session: requests.Session, env: Mapping[str, str]) -> Signer | None:
    """Who signs; None: nobody was asked to.

    Raises:
        SettingsError: the key cannot be used, or keyless was asked and the job has no OIDC token.
    """
    from trt_action import http
    from trt_action.publish import keyless, signing

    if wanted.sign in ("auto", "key"):
        return signing.KeySigner.from_pem(wanted.key, wanted.key_password) if wanted.key else None
    if wanted.sign == "false":
        return None
    token = keyless.identity_token(session, env, http.Patience(seconds=60))
    if token is None:
        raise SettingsError(
            "`sign: keyless` was asked, and this job has no OIDC token.",
            fix="Give the job `permissions: {id-token: write}`, or sign with `sign-key`.",
        )
    return keyless.KeylessSigner(session, token)


def _choice(name: str, text: Callable[[str], str]) -> str:
    row = ACTION_BY_NAME[name]
    given = text(name).strip() or str(row.default)
    if given not in row.choices:
        near = nearest(given, row.choices)
        raise SettingsError(
            f"`{name}` is {quote(given)}, which is none of its values.",
            why=f"Allowed: {quote_all(row.choices, len(row.choices))}.",
            fix=f"Did you mean `{near}`?" if near else "Choose one of them.",
        )
    return given


def _boolean(name: str, text: Callable[[str], str]) -> bool:
    given = text(name).strip().lower()
    if given not in ("", "true", "false"):
        raise SettingsError(f"`{name}` is {quote(given)}, which is none of its values.", fix="Write `true` or `false`.")
    return given == "true"


def _path(text: str) -> Path | None:
    return Path(text.strip()) if text.strip() else None


def _label(line: str) -> tuple[str, str]:
    name, equals, value = line.strip().partition("=")
    if not equals or not _KEY.fullmatch(name) or len(value) > MAX_LABEL or not value.isprintable():
        raise SettingsError(
            f"The line {quote(line)} in `labels` is no label.",
            fix="Write `key=value` with a key such as `com.example.team`, one a line.",
        )
    return name, value


def _size(text: str) -> int | None:
    if not text:
        return None
    try:
        return units.size(text)
    except BadValueError as error:
        raise SettingsError(
            f"`max-image-size: {text[:100]}` {error.reason}.", why=f"Allowed: {error.allowed}.", fix="Write `500MB`."
        ) from None
