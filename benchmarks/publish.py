"""Publishing beside `docker push`: the same engine into the same registry, in turn, in one run.

python benchmarks/publish.py --write docs/benchmarks.md

Needs root's Docker engine and `docker-registry` (Debian). The registry listens on loopback, without TLS and login.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections
from tests.doubles import registry
from trt_action.publish import direct, layers, oci
from trt_action.publish.direct import Change
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry

GOAL_RATIO, GOAL_SECONDS = 0.5, 0.2
MB = 1_000_000
PLACE = "/models/model/1"
CREATED = "2026-01-01T00:00:00Z"
Times = dict[str, list[float]]


class Docker:
    """The engine's side; every image it makes is called `trt-action-bench-publish/…` and removed at the end."""

    def __init__(self, host: str) -> None:
        self.name = f"{host}/trt-action-bench-publish/docker"
        self._made: list[str] = []

    def base(self, folder: Path, megabytes: int) -> str:
        """A base with one layer of random bytes, pushed once."""
        (folder / "base").write_bytes(os.urandom(megabytes * MB))
        archive = subprocess.Popen(["tar", "-C", str(folder), "-c", "base"], stdout=subprocess.PIPE)
        self._run("import", "-", f"{self.name}:base", stdin=archive.stdout)
        archive.wait()
        self._made.append(f"{self.name}:base")
        self.push("base")
        return f"{self.name}:base"

    def build(self, folder: Path, tag: str, *lines: str) -> None:
        (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
        self._run("build", "--quiet", "--tag", f"{self.name}:{tag}", str(folder))
        self._made.append(f"{self.name}:{tag}")

    def push(self, tag: str) -> None:
        self._run("push", "--quiet", f"{self.name}:{tag}")

    def remove(self, keep: int = 0) -> None:
        """All but the first `keep` images."""
        for name in reversed(self._made[keep:]):
            subprocess.run(["docker", "rmi", name], capture_output=True, check=False)
        del self._made[keep:]

    @staticmethod
    def _run(*arguments: str, stdin: object = None) -> None:
        done = subprocess.run(["docker", *arguments], stdin=stdin, capture_output=True, check=False, timeout=600)  # type: ignore[call-overload]
        if done.returncode:
            raise SystemExit(f"docker {arguments[0]} failed: {done.stderr.decode(errors='replace')}")


class Ours:
    """The daemonless side: a new connection for every publish, as a job has."""

    def __init__(self, host: str, base: str) -> None:
        self._host, self._base = host, Reference.parse(base)
        self._repository = "trt-action-bench-publish/direct"

    def engine(self, folder: Path, tag: str, target: Path, compression: layers.Compression) -> int:
        """Pack the engine and publish it. Returns the bytes that were sent."""
        layer = layers.pack(folder, PLACE, target, compression=compression)
        return self._publish(self._base, tag, Change(CREATED, [layer], labels={"tag": tag}))

    def labels(self, before: str, tag: str) -> int:
        """New labels for the image that is there."""
        base = Reference(self._host, self._repository, before)
        return self._publish(base, tag, Change(CREATED, labels={"tag": tag}))

    def _publish(self, base: Reference, tag: str, change: Change) -> int:
        with requests.Session() as session:
            client = Registry(session, self._host)
            pushed = direct.push(direct.read_base(client, base), client, self._repository, change)
            client.put_manifest(self._repository, tag, pushed.body, oci.MANIFEST)
        return pushed.sent


def measure(trials: int, megabytes: int) -> Times:
    """Seconds of each side, trial after trial; who is first changes."""
    times: Times = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folders = [work / part for part in ("registry", "base", "engine")]
        for folder in folders:
            folder.mkdir()
        with registry.serve(folders[0]) as running:
            docker = Docker(running.host)
            try:
                ours = Ours(running.host, docker.base(folders[1], 20))
                for trial in range(trials):
                    one_trial(trial, docker, ours, folders[2], work, megabytes, times)
            finally:
                docker.remove()
    return times


def one_trial(trial: int, docker: Docker, ours: Ours, folder: Path, work: Path, megabytes: int, times: Times) -> None:
    """A new random engine, then new labels for it, on both sides."""
    version = folder / "version"
    version.mkdir(exist_ok=True)
    (version / "engine.plan").write_bytes(os.urandom(megabytes * MB))
    tag, again, zstd = f"{trial}", f"{trial}-labels", f"{trial}-zstd"
    docker.build(folder, tag, f"FROM {docker.name}:base", f"COPY version {PLACE}", f"LABEL tag={tag}")
    docker.build(folder, again, f"FROM {docker.name}:{tag}", f"LABEL tag={again}")
    engine: dict[str, Callable[[], object]] = {
        "docker: engine": lambda: docker.push(tag),
        "ours: engine": lambda: ours.engine(version, tag, work / "layer", "none"),
        "ours: engine, zstd": lambda: ours.engine(version, zstd, work / "layer", "zstd"),
    }
    labels: dict[str, Callable[[], object]] = {
        "docker: labels": lambda: docker.push(again),
        "ours: labels": lambda: ours.labels(tag, again),
        "ours: same engine again": lambda: ours.engine(version, again, work / "layer", "none"),
    }
    for group in (engine, labels):
        for name in sorted(group, reverse=bool(trial % 2)):
            start = time.perf_counter()
            group[name]()
            times.setdefault(name, []).append(time.perf_counter() - start)
            print(f"trial {trial + 1}: {name} {times[name][-1]:.3f} s", flush=True)
    docker.remove(keep=1)


def report(times: Times, megabytes: int) -> str:
    middle = {name: statistics.median(values) for name, values in times.items()}

    def row(what: str, ours: str, theirs: str, goal: str) -> list[str]:
        mine, other = times[ours], times[theirs]
        return [
            what,
            f"{middle[theirs]:.2f} s ({min(other):.2f}–{max(other):.2f})",
            f"{middle[ours]:.2f} s ({min(mine):.2f}–{max(mine):.2f})",
            f"{middle[ours] / middle[theirs]:.2f}×",
            goal,
        ]

    rows = [
        row(f"new engine, {megabytes} MB", "ours: engine", "docker: engine", f"≤ {GOAL_RATIO:g}×"),
        row("the same, layer as zstd", "ours: engine, zstd", "docker: engine", f"≤ {GOAL_RATIO:g}×"),
        row("new labels only", "ours: labels", "docker: labels", f"≤ {GOAL_SECONDS:g} s"),
        row("new labels, engine packed anew", "ours: same engine again", "docker: labels", ""),
    ]
    version = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True)
    return "\n\n".join(
        [
            "## Publishing, beside `docker push`",
            f"Host: {sections.host()}; Docker engine {version.stdout.strip()}, CNCF registry on loopback. "
            f"{len(times['ours: engine'])} trials in one run, the sides in turn; medians (least–most). The base is in the "
            "registry already; each engine is new random bytes. Our time is everything from the folder with the engine "
            "to the tag: packing, hashing, upload. `docker push` has its image built already (not timed), and compresses "
            "it with gzip.",
            sections.table(["change", "`docker push`", "`publish-mode: registry`", "ratio", "goal"], rows),
            "Made by `make bench-publish`.",
        ]
    )


def main() -> None:
    """Measure, print, and write the section `publish` of the given file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    arguments = parser.parse_args()
    if reason := registry.missing():
        raise SystemExit(reason)
    text = report(measure(arguments.trials, arguments.megabytes), arguments.megabytes)
    print(text)
    if arguments.write:
        sections.write(arguments.write, "publish", text)


if __name__ == "__main__":
    main()
