"""`trt-action select IMAGE`: the image of an index that fits this GPU, by digest; `trt-action index`: make the index."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from trt_action import errors
from trt_action.commands import images

if TYPE_CHECKING:
    from trt_action.publish.select import Need


def add(commands: Any) -> None:
    """Declare the commands (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    select = commands.add_parser("select", help="which image of an index fits a GPU; prints it by digest")
    select.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY:TAG of an index")
    select.add_argument("--compute-capability", metavar="X.Y", help="of the GPU; default: the one of this host")
    select.add_argument("--tensorrt", default="", metavar="VERSION", help="only plans of exactly this TensorRT")
    select.add_argument("--precision", default="", metavar="PRECISION", help="where several are published")
    select.add_argument("--model", default="", metavar="NAME", help="where several are published")
    select.add_argument(
        "--fallback",
        choices=("none", "cpu"),
        default="none",
        help="cpu: its image, if none fits the GPU. Default: none",
    )
    select.add_argument("--json", action="store_true", help="print JSON")
    images.add_registry(select)
    select.set_defaults(command=_select)

    index = commands.add_parser("index", help="one index over the images of several GPUs, tagged …-TAG")
    index.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY:TAG; the commit is the usual TAG")
    images.add_registry(index)
    index.set_defaults(command=_index)


def _select(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    with images.installed():
        from trt_action.publish import artifacts, select
    need = _need(arguments)
    with images.opened(arguments, image) as registry:
        index = artifacts.resolve(registry, image.repository, image.target)
        chosen = select.choose(select.entries(index), need)
    name = str(image.at(chosen.digest))
    if arguments.json:
        print(json.dumps({"image": name, "digest": chosen.digest, "annotations": dict(chosen.descriptor.annotations)}))
    else:
        print(name)
        images.note(chosen.words())
    return 0


def _need(arguments: argparse.Namespace) -> Need:
    from trt_action import gpu
    from trt_action.publish.select import Need, capability

    found = arguments.compute_capability
    if found is None:
        here = gpu.visible()
        if not here and arguments.fallback != "cpu":
            raise errors.SettingsError(
                "This host shows no NVIDIA GPU, so there is nothing to select for.",
                fix="Name the GPU's compute capability (`--compute-capability 9.0`), or allow `--fallback cpu`.",
            )
        found = here[0].capability if here else None
    return Need(
        capability(found) if found else None,
        arguments.tensorrt,
        arguments.precision,
        arguments.model,
        arguments.fallback == "cpu",
    )


def _index(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    with images.installed():
        from trt_action.publish import artifacts, select
    if image.tag is None or image.digest:
        raise errors.SettingsError("An index needs a tag.", fix=f"Write `{image.name}:COMMIT`.")
    with images.opened(arguments, image) as registry:
        digest = select.publish_index(registry, image.repository, image.tag)
        found = select.entries(artifacts.resolve(registry, image.repository, digest))
    print(image.at(digest))
    for one in found:
        images.note(f"  {one.digest}  {one.words()}")
    return 0
