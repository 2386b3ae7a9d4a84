"""`trt-action promote IMAGE VERSION`: release tags for the image that was measured for a release's commit."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from trt_action import errors
from trt_action.commands import images


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    promote = commands.add_parser("promote", help="give the image that was measured for a release its tags; no rebuild")
    promote.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY")
    promote.add_argument("version", metavar="VERSION", help="the release's Git tag, e.g. v1.2.3")
    promote.add_argument("--commit", metavar="SHA", help="the release's commit; default: what the Git tag here names")
    promote.add_argument("--key", metavar="FILE", help="public key: only what its owner has signed is released")
    promote.add_argument("--dry-run", action="store_true", help="find and check, move no tag")
    promote.add_argument("--json", action="store_true", help="print JSON")
    images.add_registry(promote)
    promote.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    with images.installed():
        from trt_action.publish import promote
        from trt_action.publish.tags import Version
    version = Version.parse(arguments.version)
    if version is None:
        raise errors.SettingsError(
            f"`{arguments.version[:100]}` is no version.",
            fix="Give a semantic version such as `v1.2.3` or `1.2.3-rc.1`.",
        )
    if image.tag or image.digest:
        raise errors.SettingsError(
            "`trt-action promote` finds the image by its commit; a tag or digest in IMAGE would have no effect.",
            fix=f"Write `{image.name}`.",
        )
    key = images.public_key(arguments.key) if arguments.key else None
    found = _candidates(arguments)
    with images.opened(arguments, image) as registry:
        done = promote.promote(
            registry, image.repository, version, found, key=key, dry_run=arguments.dry_run, progress=images.note
        )
    if arguments.json:
        print(json.dumps(promote.as_json(done), indent=2))
        return 0
    for one in done.images:
        print(f"{one.digest}  measured for {one.candidate.commit[:12]} ({one.candidate.why}), tagged {one.tag}")
    for move in done.moves:
        state = "is there" if not move.changes else "would move" if arguments.dry_run else "set"
        print(f"  {move.tag:<40} {state}" + (f", was {move.before[:19]}" if move.changes and move.before else ""))
    for note in done.notes:
        images.note(note)
    return 0


def _candidates(arguments: argparse.Namespace) -> Any:
    """From Git; without a checkout, the commit that was named."""
    from trt_action.publish import promote

    commit = arguments.commit
    try:
        return promote.candidates(Path.cwd(), commit or arguments.version)
    except errors.GitError:
        if commit and re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit):
            return [promote.Candidate(commit, "named with --commit")]
        raise
