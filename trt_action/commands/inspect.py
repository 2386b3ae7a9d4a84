"""`trt-action inspect IMAGE`: what a published image tells about itself."""

from __future__ import annotations

import argparse
import json
from typing import Any

from trt_action.commands import images


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    inspect = commands.add_parser("inspect", help="what an image tells: commit, precision, GPU, numbers, who signed")
    inspect.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY:TAG or …@DIGEST")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    images.add_registry(inspect)
    inspect.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    with images.installed():
        from trt_action.publish import inspect
    with images.opened(arguments, image) as registry:
        found = inspect.inspect(registry, image.repository, image.target)
    if arguments.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print(inspect.table(found))
        images.note("As the image tells it; `trt-action verify` checks it against a key.")
    return 0
