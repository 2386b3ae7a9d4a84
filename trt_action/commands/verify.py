"""`trt-action verify IMAGE --key cosign.pub`: is the image what was measured, and did this key's owner say so?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trt_action import errors
from trt_action.commands import images

if TYPE_CHECKING:
    from trt_action.publish.verify import Verified


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    verify = commands.add_parser("verify", help="is an image signed, and its engine the one that was measured?")
    verify.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY:TAG or …@DIGEST; of an index, every image")
    verify.add_argument("--key", required=True, metavar="FILE", help="the publisher's public key, e.g. cosign.pub")
    verify.add_argument("--json", action="store_true", help="print JSON")
    images.add_registry(verify)
    verify.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    with images.installed():
        from trt_action.publish import verify
    key = images.public_key(arguments.key)
    with images.opened(arguments, image) as registry:
        found = verify.verify(registry, image.repository, image.target, key)
    if arguments.json:
        print(json.dumps([_record(one) for one in found], indent=2))
    else:
        print("\n\n".join(_table(one) for one in found))
    if all(one.ok for one in found):
        return 0
    images.note("Not verified: do not use this image.")
    return errors.VerificationError.exit_code


def _record(one: Verified) -> dict[str, Any]:
    return {"digest": one.digest, "verified": one.ok, "checks": [asdict(check) for check in one.checks]}


def _table(one: Verified) -> str:
    from trt_action.console import clean

    word = {True: "ok", False: "FAILED", None: "–"}
    return "\n".join(f"{word[check.ok]:<7} {check.name:<11} {clean(check.found)[:400]}" for check in one.checks)
