"""`trt-action publish FOLDER IMAGE`: the engine that `run --keep` has kept becomes an image with its evidence."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import errors
from trt_action.commands import images
from trt_action.settings.options import ACTION_BY_NAME

if TYPE_CHECKING:
    from trt_action.publish.publishing import Published
    from trt_action.publish.reference import Reference
    from trt_action.publish.wanted import Wanted

FLAGS = (
    "variant",
    "base-image",
    "dockerfile",
    "publish-mode",
    "max-image-size",
    "max-severity",
    "scanner-image",
    "scan-ignore",
    "sign",
)
LISTS = {"tags": "tag", "labels": "label"}
"""Lists of the action are flags that may be given again."""
MAX_KEY_BYTES = 100_000


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    publish = commands.add_parser("publish", help="the engine that `run --keep` has kept becomes an image, tags last")
    publish.add_argument("folder", metavar="FOLDER", help="the engine with its evidence, from `trt-action run --keep`")
    publish.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY")
    publish.add_argument("--evidence", metavar="FILE", help="of the run that measured it, if FOLDER has none")
    for name in FLAGS:
        row = ACTION_BY_NAME[name]
        choices = f" One of: {', '.join(row.choices)}." if row.choices else ""
        publish.add_argument(f"--{name}", metavar=row.metavar, help=(row.help + choices).replace("%", "%%"))
    for name, flag in LISTS.items():
        text = ACTION_BY_NAME[name].help.replace("one per line", "one per flag").replace("%", "%%")
        publish.add_argument(f"--{flag}", dest=name, action="append", default=[], metavar="TEXT", help=text)
    publish.add_argument("--index", action="store_const", const="true", help=ACTION_BY_NAME["index"].help)
    publish.add_argument("--sign-key", metavar="FILE", help="private key; its passphrase comes from SIGN_KEY_PASSWORD")
    publish.add_argument("--json", action="store_true", help="print JSON")
    images.add_registry(publish)
    publish.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    if image.tag or image.digest:
        raise errors.SettingsError(
            f"`trt-action publish` makes the tags itself; `{arguments.image[:200]}` names one.",
            fix=f"Write `{image.name}`, and say which tags with `--tag`, e.g. `--tag type=raw,value=nightly`.",
        )
    with images.installed():
        from trt_action.publish import wanted
    asked = wanted.read(lambda name: _text(arguments, name))
    done = _publish(arguments, image, asked)
    if arguments.json:
        print(json.dumps(done.as_json(), indent=2))
    else:
        print(f"{done.image}@{done.digest}")
        for name in done.tags:
            print(f"  {done.image}:{name}")
    return 0


def _publish(arguments: argparse.Namespace, image: Reference, asked: Wanted) -> Published:
    import requests

    from trt_action.publish import Options, opening, publish, publishing, version, wanted

    engine = version.read(Path(arguments.folder), Path(arguments.evidence) if arguments.evidence else None)
    with requests.Session() as session:
        open_registry = opening.opener(
            session,
            image.host,
            username=asked.username,
            password=asked.password,
            env=os.environ,
            ca=Path(arguments.ca) if arguments.ca else None,
            insecure=True if arguments.insecure else None,
            log=images.note,
        )
        options = Options(
            image=image,
            rules=asked.rules,
            facts=publishing.facts_of(engine.evidence.source.ref),
            labels=asked.labels,
            variant=asked.variant,
            mode=asked.mode,
            base=asked.base,
            dockerfile=asked.dockerfile,
            max_size=asked.max_size,
            scan=wanted.scan_of(asked, Path.cwd()),
            signer=wanted.signer(asked, session, os.environ),
            index=asked.index,
            checkout=Path.cwd(),
        )
        return publish(engine, options, open_registry, log=images.note)


def _text(arguments: argparse.Namespace, name: str) -> str:
    """An option's text by its name. Secrets come from files and the environment: others see a command's arguments."""
    if name == "sign-key":
        return _key(arguments.sign_key) if arguments.sign_key else ""
    environment = {"registry-password": "REGISTRY_PASSWORD", "sign-key-password": "SIGN_KEY_PASSWORD"}
    if name in environment:
        asked = arguments.username if name == "registry-password" else arguments.sign_key
        return os.environ.get(environment[name], "") if asked else ""
    if name == "registry-username":
        return arguments.username or ""
    value = getattr(arguments, name.replace("-", "_"))
    return "\n".join(value) if isinstance(value, list) else value or ""


def _key(path: str) -> str:
    from trt_action.inputs import open_regular

    with open_regular(Path(path), noun="key", wrong=errors.SettingsError) as file:
        return file.read(MAX_KEY_BYTES + 1).decode("utf-8", "replace")
