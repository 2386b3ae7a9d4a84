"""The head of a plan file, read without TensorRT and without a GPU, before anything is loaded.

Bytes 0-3 name the library (`ftrt` TensorRT, `vtrt` TensorRT for RTX), bytes 24-27 are major, minor, patch and build of the
builder. Measured on plans of TensorRT for RTX 1.7, read in the sources of TensorRT.
"""

from __future__ import annotations

from dataclasses import dataclass

from trt_action.engine.tensorrt import library
from trt_action.engine.tensorrt.library import Flavour
from trt_action.errors import BuildError
from trt_action.inputs import quote

HEAD_BYTES = 28


@dataclass(frozen=True)
class Header:
    """Which library wrote the plan: flavour, and version as (major, minor, patch, build)."""

    flavour: Flavour
    version: tuple[int, int, int, int]

    def __str__(self) -> str:
        return f"{self.flavour.title} {'.'.join(map(str, self.version))}"


def read(head: bytes, name: str) -> Header:
    """The header in the first bytes of a file that messages call `name`.

    Raises:
        BuildError: it is no plan.
    """
    for flavour in library.FLAVOURS:
        if head[:4] == flavour.magic and len(head) >= HEAD_BYTES:
            major, minor, patch, build = head[24:28]
            return Header(flavour, (major, minor, patch, build))
    raise BuildError(
        f"{quote(name)} is not a TensorRT plan (it starts with {quote(head[:4].hex(' ') or 'nothing')}).",
        why="Only a plan that TensorRT itself has written can be loaded.",
        fix="Build it with `trt-action build`.",
    )


def check(header: Header, name: str, flavour: Flavour, installed: str, *, version_compatible: str) -> None:
    """Refuse a plan that the installed library cannot load.

    Rules (NVIDIA's documentation, "Version Compatibility"): the same version; or, where the plan was built version
    compatible, the same or a newer one of its major version, and 11 for a plan of 10. Patch decides, build does not.

    Args:
        installed: version of the library, e.g. `10.16.1.11`.
        version_compatible: as in `TensorRTOptions`.

    Raises:
        BuildError: the wrong library, or the wrong version of it.
    """
    if header.flavour is not flavour:
        raise BuildError(
            f"{quote(name)} is a plan of {header.flavour.title}; backend `{flavour.backend}` cannot load it.",
            fix=f"Load it with `backend: {header.flavour.backend}`, or build it again for {flavour.title}.",
        )
    ours = library.numbers(installed)[:3]
    theirs = header.version[:3]
    if theirs == ours:
        return
    if version_compatible != "none" and theirs < ours and (theirs[0] == ours[0] or (theirs[0], ours[0]) == (10, 11)):
        return
    wanted = ".".join(map(str, theirs))
    raise BuildError(
        f"{quote(name)} was built by {header}; {flavour.title} {installed} is installed.",
        why="A plan runs with the version that built it only, unless it was built version compatible: then with newer "
        "ones too, never with older ones.",
        fix=f"Build it again with the installed version, or install {flavour.module} {wanted}.",
    )
