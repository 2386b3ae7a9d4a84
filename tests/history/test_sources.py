"""Evidence of earlier runs, out of a real registry and out of files; and the command that reads both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doubles.registry import Running
from tests.doubles.registry_proxy import Fault, Proxy
from tests.history.samples import START, commit, run
from tests.publish import images
from tests.publish.conftest import (  # noqa: F401 - fixtures
    MakeRegistry,
    client,
    cncf,
    log,
    make,
    proxy,
    repository,
    session,
    time,
)
from trt_action import orders
from trt_action.errors import EvidenceError, RegistryError
from trt_action.history import of_files, of_registry, series, sources
from trt_action.orders import Order
from trt_action.publish import attest, oci, wanted
from trt_action.publish.oci import Blob
from trt_action.publish.registry import Registry


def when(number: int) -> str:
    return START.replace(day=START.day + number).isoformat()


def publish(registry: Registry, to: str, number: int, *tags: str) -> images.Published:
    image = images.push(registry, to, *tags, commit=commit(number), created=when(number))
    images.attached(registry, image, None)
    return image


@pytest.fixture
def registry(cncf: Running, make: MakeRegistry) -> Registry:  # noqa: F811
    return make(cncf.host)


def test_the_newest_images_each_once(registry: Registry, repository: str) -> None:  # noqa: F811
    for number in range(4):
        publish(registry, repository, number, f"sha-{number}", "main")
    publish(registry, repository, 9, "pr-12")
    images.push(registry, repository, "by-hand", created=when(5))
    found = of_registry(registry, repository)
    assert sorted(one.commit for one in found.points) == sorted(commit(n) for n in (0, 1, 2, 3, 9))
    assert found.all_notes() == ["`by-hand` left out: no evidence is attached."]
    newest = of_registry(registry, repository, limit=2, pattern="sha-*")
    assert [one.commit for one in newest.points] == [commit(3), commit(2)]
    assert newest.all_notes() == ["Of 4 images the newest 2 were read."]
    (trend,) = series(found.points)
    assert [one.commit for one in trend.points] == [commit(n) for n in (0, 1, 2, 3, 9)]


def test_every_image_of_an_index(registry: Registry, repository: str) -> None:  # noqa: F811
    one, two = publish(registry, repository, 0), publish(registry, repository, 1)
    body = oci.index([one.descriptor, two.descriptor])
    registry.put_manifest(repository, "1.0", body, oci.INDEX)
    assert {point.commit for point in of_registry(registry, repository).points} == {commit(0), commit(1)}


def test_evidence_of_strangers(registry: Registry, repository: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Broken, too large, twice: each is noted, and the others are shown."""
    publish(registry, repository, 0, "good")
    absurd = re.sub(r'"bytes":\d+', f'"bytes":1{"0" * 400}', run(1).model_dump_json()).encode()
    for tag, content in (
        ("broken", b'{"schema_version": "9"}'),
        ("nested", b"[" * 100_000),
        ("large", b" " * 90_000),
        ("absurd", absurd),
    ):
        image = images.push(registry, repository, tag, created=when(1))
        registry.attach(repository, image.descriptor, attest.EVIDENCE, [Blob.of(content, attest.EVIDENCE)])
    twice = publish(registry, repository, 2, "twice")
    other = run(3).model_dump_json().encode()
    registry.attach(repository, twice.descriptor, attest.EVIDENCE, [Blob.of(other, attest.EVIDENCE)])
    monkeypatch.setattr(sources, "MAX_EVIDENCE", 85_000)
    found = of_registry(registry, repository)
    assert [one.commit for one in found.points] == [commit(0)]
    assert dict(found.left_out) == {
        "broken": "its evidence is not of this version's schema",
        "nested": "its evidence is too large or not what its digest says",
        "absurd": "its evidence is not of this version's schema",
        "large": "its evidence is too large or not what its digest says",
        "twice": "more than one evidence is attached",
    }


def test_a_registry_that_refuses_is_an_error(client: Registry, proxy: Proxy, repository: str) -> None:  # noqa: F811
    publish(client, repository, 0, "main")
    proxy.faults.append(Fault("GET", "/manifests/", status=403, times=99))
    with pytest.raises(RegistryError) as failed:
        of_registry(client, repository)
    assert failed.value.status == 403


def test_files_and_folders(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"run-{number}").mkdir()
        (tmp_path / f"run-{number}" / "evidence.json").write_text(run(number).model_dump_json())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "evidence.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    found = of_files([tmp_path, tmp_path / "run-0" / "evidence.json"])
    assert len(found.points) == 4
    assert found.all_notes() == ["`broken/evidence.json` left out: it is no evidence of this version's schema."]
    (trend,) = series(found.points)
    assert len(trend.points) == 3
    with pytest.raises(EvidenceError):
        of_files([tmp_path / "broken" / "evidence.json"])


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    def started(*arguments: object) -> subprocess.CompletedProcess[str]:
        asked = [sys.executable, "-m", "trt_action", "history", *map(str, arguments)]
        env = {**os.environ, "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}
        return subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False, env=env, cwd=tmp_path)

    return started


def test_the_command(command: Command, registry: Registry, repository: str, tmp_path: Path) -> None:  # noqa: F811
    for number in range(3):
        publish(registry, repository, number, f"sha-{number}")
    image = f"{registry.host}/{repository}"
    done = command(image, "--format", "json", "--ref", "main")
    assert done.returncode == 0, done.stderr
    (trend,) = json.loads(done.stdout)["series"]
    assert [one["commit"] for one in trend["points"]] == [commit(n) for n in range(3)]
    assert command(image, "--format", "markdown").stdout.count("```mermaid") == 1
    assert command(image, "--output", "history.html").returncode == 0
    assert (tmp_path / "history.html").read_text().startswith("<!doctype html>")
    none = command(image, "--ref", "release")
    assert none.returncode == 2
    assert "There is no run to show" in none.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Nothing says where earlier runs are"),
        (("--from", "nowhere"), 2, "does not exist"),
        (("127.0.0.1:9/acme/detector",), 13, "127.0.0.1:9"),
        (("--from", ".", "--limit", "0"), 2, "no number from 1 to 500"),
        (("--from", "."), 2, "There is no run to show"),
    ],
)
def test_the_command_says_what_is_wrong(command: Command, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = command(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Next: " in done.stderr


def order(registry: Registry, to: str, said: list[str]) -> Order:
    asked = wanted.read(lambda _: "")
    return Order(
        image=f"{registry.host}/{to}", asked=asked, login=(None, None), env={}, workspace=Path(), facts={}, log=said.append
    )  # fmt: skip


def test_the_trend_of_a_branch_for_a_summary(registry: Registry, repository: str) -> None:  # noqa: F811
    said: list[str] = []
    for number in range(2):
        publish(registry, repository, number, f"sha-{number}")
    assert orders.trend(order(registry, repository, said), "refs/heads/main") == ""
    publish(registry, repository, 2, "sha-2")
    assert "```mermaid" in orders.trend(order(registry, repository, said), "refs/heads/main")
    assert orders.trend(order(registry, repository, said), "refs/heads/feature") == ""
    images.attached(registry, images.push(registry, repository, "half", commit=commit(3), precision="fp16"), None)
    assert "fp16" not in orders.trend(order(registry, repository, said), "refs/heads/main")
    assert said == []
    assert orders.trend(order(registry, "nobody/here", said), "refs/heads/main") == ""
    assert said[0].startswith("No trend: ")
