"""`trt-action history`: the trend over commits, from the evidence of published images or from files."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import errors
from trt_action.commands import images

if TYPE_CHECKING:
    from trt_action.history import Found, Series

LIMIT, MOST = 100, 500


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    history = commands.add_parser("history", help="the trend over commits, from published images or evidence files")
    history.add_argument("image", nargs="?", metavar="IMAGE", help="HOST/REPOSITORY with images that `publish` made")
    history.add_argument(
        "--from", dest="paths", action="append", default=[], metavar="PATH",
        help="an evidence file, or a folder of them; may be given again",
    )  # fmt: skip
    history.add_argument("--limit", type=_count, default=LIMIT, metavar="N", help=f"newest images; default: {LIMIT}")
    history.add_argument("--tags", default="*", metavar="GLOB", help="only images with such a tag, e.g. 'sha-*'")
    history.add_argument("--ref", metavar="NAME", help="only runs of this branch or tag, e.g. main")
    history.add_argument("--model", metavar="NAME", help="only this model")
    history.add_argument("--format", choices=("html", "markdown", "json"), default="html")
    history.add_argument("--output", metavar="FILE", help="write here instead of to stdout")
    images.add_registry(history)
    history.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.image and not arguments.paths:
        raise errors.SettingsError(
            "Nothing says where earlier runs are.",
            fix="Name an image repository (`trt-action history ghcr.io/acme/detector`) or files (`--from reports/`).",
        )
    from trt_action import files

    found, notes = _series(arguments)
    text = _text(arguments.format, found, notes)
    for note in notes:
        images.note(note)
    if arguments.output:
        files.write_atomic(Path(arguments.output), text)
    else:
        print(text)
    return 0


def _series(arguments: argparse.Namespace) -> tuple[list[Series], list[str]]:
    with images.installed():
        from trt_action import history
    sources: list[Found] = []
    if arguments.paths:
        sources.append(history.of_files(Path(path) for path in arguments.paths))
    if arguments.image:
        image = images.reference(arguments.image)
        with images.opened(arguments, image) as registry:
            sources.append(
                history.of_registry(
                    registry, image.repository, limit=arguments.limit, pattern=arguments.tags, log=images.note
                )
            )
    points = [
        one
        for source in sources
        for one in source.points
        if arguments.ref in (None, one.ref, one.ref.removeprefix("refs/heads/"), one.ref.removeprefix("refs/tags/"))
        and arguments.model in (None, one.key.model)
    ]
    notes = [note for source in sources for note in source.all_notes()]
    if not points:
        said = " ".join(notes)[:2_000]
        raise errors.EvidenceError(
            "There is no run to show.", why=said, fix="Look at `--ref`, `--model` and `--tags`, or publish a run first."
        )
    return history.series(points), notes


def _text(form: str, found: list[Series], notes: list[str]) -> str:
    from trt_action import history

    if form == "json":
        return json.dumps({"series": [one.as_json() for one in found], "notes": notes}, indent=2)
    return history.markdown(found, notes) if form == "markdown" else history.html(found, notes)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,2}", text) or int(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no number from 1 to {MOST}")
    return int(text)
