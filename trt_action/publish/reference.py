"""Names of images as people write them: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`, read by Docker's rules.

Grammar: https://pkg.go.dev/github.com/distribution/reference and the OCI distribution specification, "Pulling manifests".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from trt_action.errors import SettingsError
from trt_action.inputs import quote

DOCKER_HUB = "docker.io"
DOCKER_HUB_API = "registry-1.docker.io"
MAX_NAME = 255
MAX_TAG = 128
MAX_TEXT = 1_024

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_TAG = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_TAG - 1}}}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """One image: `host` as in the name (`docker.io`, `ghcr.io`, `localhost:5000`), `repository` without it."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name; `library/` and `docker.io` are filled in as Docker does.

        Raises:
            SettingsError: it is no name of an image.
        """
        if len(text) > MAX_TEXT:
            raise _bad(text, f"it has {len(text)} characters")
        rest, at, digest = text.partition("@")
        if at and not is_digest(digest):
            raise _bad(text, "what follows `@` is no digest (`sha256:` and 64 hexadecimal digits)")
        name, colon, tag = _split_tag(rest)
        if colon and not is_tag(tag):
            raise _bad(text, f"what follows the last `:` is no tag (letters, digits, `_`, `.`, `-`; at most {MAX_TAG})")
        host, repository = _split_host(name)
        if not is_host(host):
            raise _bad(text, f"{quote(host)} is no host")
        if not _REPOSITORY.fullmatch(repository):
            raise _bad(text, _why_no_repository(repository))
        if len(host) + 1 + len(repository) > MAX_NAME:
            raise _bad(text, f"host and repository have more than {MAX_NAME} characters")
        if _ID.fullmatch(name):
            raise _bad(text, "64 hexadecimal digits are the id of an image, not a name")
        return cls(host, repository, tag or None, digest or None)

    @property
    def name(self) -> str:
        """`HOST/REPOSITORY`, without tag and digest."""
        return f"{self.host}/{self.repository}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    @property
    def api_host(self) -> str:
        """Where the registry's API answers: Docker Hub's is not at its name."""
        return DOCKER_HUB_API if self.host == DOCKER_HUB else self.host

    def at(self, digest: str) -> Reference:
        """The same repository by digest alone."""
        return replace(self, tag=None, digest=digest)

    def tagged(self, tag: str) -> Reference:
        """The same repository with another tag and no digest.

        Raises:
            SettingsError: it is no tag.
        """
        if not is_tag(tag):
            raise _bad(f"{self.name}:{tag}", "that is no tag")
        return replace(self, tag=tag, digest=None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def is_digest(text: str) -> bool:
    """`sha256:` or `sha512:` and the right number of lower-case hexadecimal digits."""
    return bool(_DIGEST.fullmatch(text))


def is_tag(text: str) -> bool:
    """What a registry takes as a tag."""
    return bool(_TAG.fullmatch(text))


def is_repository(text: str) -> bool:
    """What a registry takes as the name of a repository."""
    return len(text) <= MAX_NAME and bool(_REPOSITORY.fullmatch(text))


def is_host(text: str) -> bool:
    """`host`, `host:port`, `[::1]:port`."""
    found = _HOST.fullmatch(text)
    return found is not None and len(text) <= MAX_NAME and 0 < int(found["port"] or 1) < 65_536 and _whole(text)


def is_loopback(host: str) -> bool:
    """Whether `host[:port]` is this machine, by its name alone: nothing is looked up."""
    name = host.rsplit("]", 1)[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _whole(host: str) -> bool:
    if not host.startswith("["):
        return True
    try:
        ipaddress.IPv6Address(host[1:].partition("]")[0])
    except ValueError:
        return False
    return True


def _split_tag(text: str) -> tuple[str, str, str]:
    """A colon before the last slash belongs to a port."""
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    return head + slash + name, colon, tag


def _split_host(name: str) -> tuple[str, str]:
    """The first part is a host if it looks like one: Docker's rule."""
    first, slash, rest = name.partition("/")
    if not slash or not (any(c in first for c in ".:[") or first == "localhost" or first != first.lower()):
        host, repository = DOCKER_HUB, name
    else:
        host, repository = first, rest
    if host == f"index.{DOCKER_HUB}":
        host = DOCKER_HUB
    if host == DOCKER_HUB and repository and "/" not in repository:
        repository = f"library/{repository}"
    return host, repository


def _why_no_repository(repository: str) -> str:
    if repository != repository.lower():
        return "a repository has no upper-case letters"
    return "a repository is lower-case letters and digits, joined by `/`, `.`, `_`, `__` or `-`"


def _bad(text: str, why: str) -> SettingsError:
    return SettingsError(
        f"{quote(text)} is no name of an image: {why}.",
        fix="Write it as `HOST/REPOSITORY:TAG`, for example `ghcr.io/organisation/model:1.0`.",
    )
