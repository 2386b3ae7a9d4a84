"""What the commands about published images share: the registry's arguments, and the client they make."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trt_action import errors

if TYPE_CHECKING:
    from trt_action.publish.reference import Reference
    from trt_action.publish.registry import Registry
    from trt_action.publish.signing import PublicKey

MAX_KEY_BYTES = 100_000


def add_registry(command: argparse.ArgumentParser) -> None:
    """How to reach the registry. A password is never an argument: others see those."""
    group = command.add_argument_group("registry")
    group.add_argument(
        "--username",
        metavar="NAME",
        help="login; the password comes from REGISTRY_PASSWORD. Default: Docker's own config (`docker login`)",
    )
    group.add_argument("--ca", metavar="FILE", help="certificates (PEM) to trust beside the system's")
    group.add_argument("--insecure", action="store_true", help="plain http where the registry has nothing else")


def reference(text: str) -> Reference:
    """The image that an argument names.

    Raises:
        SettingsError: it names none, or what the commands about images need is not installed.
    """
    with installed():
        from trt_action.publish.reference import Reference
    return Reference.parse(text)


@contextlib.contextmanager
def opened(arguments: argparse.Namespace, image: Reference) -> Iterator[Registry]:
    """A client for the image's registry, as `add_registry` was answered.

    Raises:
        SettingsError: the login is incomplete, or what the client needs is not installed.
    """
    with installed():
        import requests

        from trt_action.publish import credentials
        from trt_action.publish.registry import Registry
    password = os.environ.get("REGISTRY_PASSWORD") if arguments.username else None
    login = credentials.find(image.host, arguments.username, password, os.environ)
    with requests.Session() as session:
        yield Registry(
            session,
            image.api_host,
            credentials=login,
            ca=Path(arguments.ca) if arguments.ca else None,
            insecure=True if arguments.insecure else None,
            log=note,
        )


def public_key(path: str) -> PublicKey:
    """The key in a file, such as `cosign.pub`.

    Raises:
        SettingsError: there is no such file, or no public key in it.
    """
    from trt_action.inputs import open_regular

    with installed():
        from trt_action.publish.signing import PublicKey
    with open_regular(Path(path), noun="key", wrong=errors.SettingsError) as file:
        return PublicKey.from_pem(file.read(MAX_KEY_BYTES + 1))


def note(text: str) -> None:
    """A line for people, beside the result."""
    from trt_action.console import clean

    print(clean(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """A missing library is a clear message."""
    try:
        yield
    except ImportError as error:
        raise errors.SettingsError(
            f"This command needs the library `{error.name}`, which is not installed.",
            fix="`pip install 'trt-action[publish]'`.",
        ) from None
