"""Size of the runtimes that engines are published on, beside the issue's goals: on disk and as pulled, over their base.

python benchmarks/runtimes.py --write docs/benchmarks.md

Needs root's Docker engine and `docker-registry` (Debian). `TRT_ACTION_BASE_IMAGE` names a base where Python's own image
cannot be pulled; numbers are over the base, so that they hold for either.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import images, sections
from benchmarks.images import MB, stand_in
from tests.doubles import registry
from tests.report import samples
from trt_action.publish import context, direct, docker, variants
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry

NAME = "trt-action-bench-runtimes"
GOALS = {"onnxruntime": 120, "tensorrt-rtx": 250, "tensorrt-lean": 250}
"""MB over the base."""

LEAN = "10.16.1.11"
"""Of TensorRT's lean runtime; the other libraries come in the versions that are installed here."""


@dataclass(frozen=True)
class Runtime:
    """Bytes over the base."""

    variant: str
    version: str
    disk: int
    pulled: int
    seconds: float


def main() -> None:
    """Builds every runtime that can be built here, pushes it once, and writes the section `runtimes`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the section there")
    arguments = parser.parse_args()
    base = Reference.parse(os.environ.get("TRT_ACTION_BASE_IMAGE") or stand_in())
    with (
        tempfile.TemporaryDirectory() as folder,
        registry.serve(Path(folder)) as running,
        requests.Session() as session,
    ):
        session.trust_env = False
        client = Registry(session, running.host)
        below = _pushed(str(base), Reference(running.host, NAME, "base"), client)
        made = [measure(variant, base, below, client) for variant in GOALS]
    body = section(made)
    print(body)
    if arguments.write:
        sections.write(arguments.write, "runtimes", body)


def measure(name: str, base: Reference, below: tuple[int, int], client: Registry) -> Runtime:
    """Build and push one runtime, as `trt-action publish` does."""
    variant = variants.VARIANTS[name]
    version = LEAN if name == "tensorrt-lean" else metadata.version(name)
    engine = samples.engine(backend=variant.backend, backend_version=version)
    recipe = context.recipe(variant, base, variants.requirements(variant, engine))
    start = time.monotonic()
    with docker.connect() as api:
        image = docker.build(api, recipe, None, log=lambda text: print(text, file=sys.stderr))
    seconds = time.monotonic() - start
    disk, pulled = _pushed(image, Reference(client.host, NAME, name), client)
    return Runtime(name, version, disk - below[0], pulled - below[1], seconds)


def _pushed(image: str, target: Reference, client: Registry) -> tuple[int, int]:
    """(bytes on disk, bytes as pulled) of an image of this host."""
    with docker.connect() as api:
        docker.push(api, image, target, None)
    size = int(images.docker("image", "inspect", image, "--format", "{{.Size}}"))
    return size, direct.read_base(client, target).size


def section(made: list[Runtime]) -> str:
    """In Markdown."""
    with docker.connect() as api:
        engine = api.version()["Version"]
    rows = [
        [
            f"`{one.variant}`",
            one.version,
            f"{one.disk / MB:,.0f} MB",
            f"{one.pulled / MB:,.0f} MB",
            f"≤ {GOALS[one.variant]} MB",
            f"{one.seconds:.0f} s" if one.seconds > 5 else "was there",
        ]
        for one in made
    ]
    rows.append(["`tensorrt`", "", "not built: NVIDIA's own index could not be reached", "", "", ""])
    above = [f"`{one.variant}`" for one in made if one.disk > GOALS[one.variant] * MB]
    missed = f" On disk {', '.join(above)} misses its goal; as pulled it holds." if above else ""
    header = ["`variant`", "library", "on disk", "as pulled", "goal", "build"]
    return f"""## Size of the runtimes that engines are published on

Over the base; an engine comes on top with its own size. As pulled: gzip, as the Docker engine {engine} pushes it.{missed}

{sections.table(header, rows)}

Made by `make bench-runtimes`. Push times are [above](#publishing-beside-docker-push)."""


if __name__ == "__main__":
    main()
