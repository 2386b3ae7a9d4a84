"""Size of the action's own image by variant: on disk, as pulled, and what of it is largest.

python benchmarks/images.py --write docs/benchmarks.md

Needs root's Docker engine and `docker-registry` (Debian). `TRT_ACTION_BASE_IMAGE` names a base where the Dockerfile's own
cannot be pulled; numbers are over the base, so that they hold for either.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections
from tests.doubles import registry

ROOT = Path(__file__).resolve().parents[1]
NAME = "trt-action-bench-images"
VARIANTS = {
    "onnxruntime": "CPU; the reference of every run",
    "tensorrt-rtx": "TensorRT for RTX beside it; builds engines without a GPU",
}
NOT_BUILT = {"tensorrt": "TensorRT beside it: about 2 GB from NVIDIA's own index, which could not be reached"}
PACKAGES = "/opt/trt-action/lib/python3.*/site-packages"
MB = 1_000_000
TIMEOUT = 1_800


@dataclass(frozen=True)
class Image:
    """Sizes in bytes over the base; `largest`: name and bytes of what it installs."""

    variant: str
    disk: int
    pulled: int
    seconds: float
    largest: list[tuple[str, int]]


def main() -> None:
    """Builds every variant that can be built, pushes it once, and writes the section `images`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the section there")
    parser.add_argument("--no-cache", action="store_true", help="build from nothing, for honest times")
    arguments = parser.parse_args()
    base = os.environ.get("TRT_ACTION_BASE_IMAGE") or stand_in()
    with tempfile.TemporaryDirectory() as folder, registry.serve(Path(folder)) as running:
        made = [measure(variant, base, running.host, fresh=arguments.no_cache) for variant in VARIANTS]
    body = section(made, fresh=arguments.no_cache)
    print(body)
    if arguments.write:
        sections.write(arguments.write, "images", body)


def measure(variant: str, base: str, host: str, *, fresh: bool) -> Image:
    """Build and push one variant; its tags are removed again."""
    name = f"{host}/{NAME}:{variant}"
    # Only the first build is fresh: what the variants share is built once, as in CI.
    nothing = ["--no-cache"] if fresh and variant == next(iter(VARIANTS)) else []
    arguments = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"VARIANT={variant}", "--tag", name]
    start = time.monotonic()
    docker("build", "--quiet", *nothing, *arguments, str(ROOT))
    seconds = time.monotonic() - start
    try:
        docker("push", "--quiet", name)
        manifest = requests.get(
            f"http://{host}/v2/{NAME}/manifests/{variant}",
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            timeout=30,
        ).json()
        below = len(json.loads(docker("image", "inspect", base))[0]["RootFS"]["Layers"])
        size = [json.loads(docker("image", "inspect", one))[0]["Size"] for one in (name, base)]
        return Image(
            variant=variant,
            disk=size[0] - size[1],
            pulled=sum(layer["size"] for layer in manifest["layers"][below:]),
            seconds=seconds,
            largest=largest(name),
        )
    finally:
        subprocess.run(["docker", "rmi", name], capture_output=True, check=False)


def largest(image: str) -> list[tuple[str, int]]:
    """The eight largest packages, compiled files included."""
    said = docker(
        "run", "--rm", "--entrypoint", "sh", image, "-c", f"du -s --block-size=1 {PACKAGES}/* | sort -rn | head -8"
    )
    rows = (line.split("\t") for line in said.splitlines())
    return [(Path(path).name, int(size)) for size, path in rows]


def section(made: list[Image], *, fresh: bool) -> str:
    """In Markdown."""
    engine = docker("version", "--format", "{{.Server.Version}}")
    rows = [
        [
            f"`{one.variant}`",
            VARIANTS[one.variant],
            f"{one.disk / MB:,.0f} MB",
            f"{one.pulled / MB:,.0f} MB",
            f"{one.seconds:.0f} s",
            ", ".join(f"{name} {size / MB:,.0f}" for name, size in one.largest),
        ]
        for one in made
    ]
    rows += [[f"`{name}`", why, "not built", "", "", ""] for name, why in NOT_BUILT.items()]
    header = ["`VARIANT`", "what", "on disk", "as pulled", "build", "largest, MB"]
    how = (
        "The first is built from nothing, the second after it."
        if fresh
        else "What was built before is not built again."
    )
    return f"""## Size of the action's own image

Over its base; as pulled: gzip, as `docker push` makes it. Docker engine {engine}. {how} Images that are published with an engine are
smaller: [publish.md](publish.md).

{sections.table(header, rows)}

Made by `python benchmarks/images.py{" --no-cache" if fresh else ""} --write docs/benchmarks.md`."""


def stand_in() -> str:
    """A base that this host can make without a registry of images."""
    done = subprocess.run([ROOT / "tests/e2e/stand_in_base.sh"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def docker(*arguments: str) -> str:
    """What it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if done.returncode:
        raise SystemExit(f"docker {arguments[0]} failed: {done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
