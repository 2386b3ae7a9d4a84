"""`trt-action prune IMAGE`: old images go, with a table of what and why; nothing is deleted without `--delete`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import errors
from trt_action.commands import images

if TYPE_CHECKING:
    from trt_action.publish.prune import Decision, Policy, Versions
    from trt_action.publish.reference import Reference

GHCR = "ghcr.io"
MAX_DEPLOYED_BYTES = 256_000_000
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    prune = commands.add_parser("prune", help="delete old images: never released, deployed or indexed ones")
    prune.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY")
    prune.add_argument("--older-than", type=_age, metavar="AGE", help="only what is older, e.g. 30d, 12h, 8w")
    prune.add_argument("--keep", type=_count, metavar="N", help="the newest N stay, whatever their age")
    prune.add_argument(
        "--pattern", default="*", metavar="GLOB", help="only images all of whose tags match, e.g. 'pr-*'"
    )
    prune.add_argument("--untagged", action="store_true", help="untagged images go too")
    prune.add_argument(
        "--deployed",
        action="append",
        default=[],
        metavar="FILE|-|DIGEST",
        help="stays: a digest, or a file (-: stdin) with digests or with what `kubectl get … -o json` prints",
    )
    prune.add_argument(
        "--protect",
        action="append",
        metavar="GLOB",
        help="what has such a tag stays; several times. Default: main, master, also behind <model>-<gpu>-<precision>-",
    )
    prune.add_argument("--delete", action="store_true", help="really delete; without it, only the table")
    prune.add_argument("--json", action="store_true", help="print JSON")
    prune.add_argument(
        "--github-packages",
        action="store_true",
        help=f"delete through GitHub's package API (GITHUB_TOKEN); always so for {GHCR}",
    )
    images.add_registry(prune)
    prune.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    with images.installed():
        from trt_action.publish import prune
    policy = prune.Policy(
        older_than=arguments.older_than,
        keep=arguments.keep,
        pattern=arguments.pattern,
        untagged=arguments.untagged,
        deployed=_deployed(arguments.deployed),
        protected=tuple(arguments.protect or prune.DEFAULT_BRANCHES),
    )
    with _versions(arguments, image) as versions:
        decisions = prune.plan(versions.stored(), policy, datetime.now(UTC))
        _print(arguments, policy, decisions)
        if arguments.delete:
            prune.prune(versions, decisions, progress=images.note)
    going = sum(one.goes for one in decisions)
    done = "deleted" if arguments.delete else "would be deleted; `--delete` does it"
    images.note(f"{going} of {len(decisions)} {done}.")
    return 0


@contextlib.contextmanager
def _versions(arguments: argparse.Namespace, image: Reference) -> Iterator[Versions]:
    from trt_action.publish.stored import RegistryVersions

    with images.opened(arguments, image) as registry:
        if not (arguments.github_packages or image.host == GHCR):
            yield RegistryVersions(registry, image.repository)
            return
        import requests
        from pydantic import SecretStr

        from trt_action.github.api import API_URL, Client
        from trt_action.github.packages import PackageVersions

        token = os.environ.get("GITHUB_TOKEN")
        if not token:
            raise errors.SettingsError(
                "GitHub's package API needs a token, and GITHUB_TOKEN is not set.",
                fix="Set it to a token that may delete packages (`permissions: {packages: write}`, admin of the package).",
            )
        with requests.Session() as session:
            api = os.environ.get("GITHUB_API_URL", API_URL)
            client = Client(session, api, SecretStr(token), log=images.note)
            yield PackageVersions(client, registry, image.repository)


def _print(arguments: argparse.Namespace, policy: Policy, decisions: Sequence[Decision]) -> None:
    from trt_action.publish.inspect import megabytes, short

    if arguments.json:
        print(json.dumps([_record(one) for one in decisions], indent=2))
        return
    for one in decisions:
        name = ", ".join(one.stored.tags) or one.stored.digest[:19]
        word = "delete" if one.goes else "keep"
        print(f"{word:<7} {one.stored.kind:<10} {short(name):<48} {megabytes(one.stored.size):>12}  {short(one.why)}")


def _record(one: Decision) -> dict[str, Any]:
    stored = one.stored
    return {
        "digest": stored.digest,
        "kind": stored.kind,
        "tags": list(stored.tags),
        "created": stored.created.isoformat() if stored.created else None,
        "size": stored.size,
        "delete": one.goes,
        "why": one.why,
    }


def _deployed(given: Sequence[str]) -> frozenset[str]:
    from trt_action.inputs import open_regular
    from trt_action.publish import prune

    found: frozenset[str] = frozenset()
    for one in given:
        if one == "-":
            text = sys.stdin.read(MAX_DEPLOYED_BYTES)
        elif "sha256:" in one:
            text = one
        else:
            with open_regular(Path(one), noun="list of what is deployed", wrong=errors.SettingsError) as file:
                text = file.read(MAX_DEPLOYED_BYTES).decode("utf-8", "replace")
        if not text.strip():
            raise errors.SettingsError(
                "The list of what is deployed is empty.",
                why="A cluster that could not be asked looks the same as one that runs nothing; nothing is deleted on a guess.",
                fix="Look at what `kubectl` says; leave `--deployed` out if nothing is deployed.",
            )
        found |= prune.deployed(text)
    return found


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no age: write 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no number")
    return int(text)
