"""An image that serves the API: started, waited for, asked, removed however it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.e2e.conftest import stand_in
from trt_action import cli, report
from trt_action.evidence import Evidence
from trt_action.llm import leftovers
from trt_action.llm.leftovers import LABEL

pytestmark = pytest.mark.docker

IMAGE = "trt-action-test-llm:local"
SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": sys.argv[1]}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for place in range(asked["max_tokens"]):
            finish = "length" if place == asked["max_tokens"] - 1 else None
            piece = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": finish}]}
            self.wfile.write(f"data: {json.dumps(piece)}\\n\\n".encode())
        self.wfile.write(b"data: [DONE]\\n\\n")

    def log_message(self, *_):
        pass

if sys.argv[1] == "die":
    print("no weights, and the secret is", os.environ["CANARY"])
    sys.exit(3)
port = 9 if sys.argv[1] == "elsewhere" else 8000
ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"""
CANARY = "hf_canary5e7a9c"


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    try:
        base = stand_in()
    except (AssertionError, FileNotFoundError, subprocess.TimeoutExpired):
        pytest.skip("no Docker engine, or no base image can be made")
    files = {
        "server.py": SERVER,
        "Dockerfile": f'FROM {base}\nCOPY server.py /\nENTRYPOINT ["python3", "-u", "/server.py"]\n',
    }
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", IMAGE, "-"], input=context.getvalue(), check=True, timeout=300
    )
    yield
    subprocess.run(["docker", "image", "rm", "--force", IMAGE], check=True, timeout=60, capture_output=True)


def left() -> list[str]:
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}", "--filter", f"ancestor={IMAGE}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()


def asked(tmp_path: Path, **settings: str) -> list[str]:
    (tmp_path / "p.txt").write_text("hello\n")
    values = {"backend": "openai-endpoint", "endpoint-image": IMAGE, "endpoint-args": "tiny", "prompts": str(tmp_path / "p.txt"),
             "max-output-tokens": "4", "requests": "4", "concurrencies": "1", "max-seconds": "6", "output": str(tmp_path / "out"),
             "endpoint-start-timeout": "60s", **{name.replace("_", "-"): value for name, value in settings.items()}}  # fmt: skip
    return [f"--{name}={value}" for name, value in values.items()]


def run(tmp_path: Path, command: str, **settings: str) -> tuple[int, Evidence]:
    code = cli.main([command, *asked(tmp_path, **settings)])
    return code, report.read_evidence(tmp_path / "out" / "evidence.json")


def test_head_and_base_run_in_fresh_containers_for_each_unit(tmp_path: Path) -> None:
    code, found = run(
        tmp_path,
        "run",
        base_endpoint_image=IMAGE,
        base_endpoint_args="other",
        max_seconds="20",
        margin="50%",
        tolerance="100%",
    )
    assert found.error is None, found.error
    assert found.llm is not None
    assert found.llm.base is not None
    assert (found.llm.head.model, found.llm.base.model) == ("tiny", "other")
    assert (found.llm.head.image or "").startswith("sha256:")
    assert found.comparison is not None
    assert len(found.comparison.units) >= 3
    assert found.comparison.noise_floor is not None
    assert found.comparison.verdict != "regressed"
    assert code in (0, 1)
    assert left() == []


def test_a_container_that_ends_is_told_with_its_last_words_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    code, found = run(tmp_path, "bench", endpoint_args="die", endpoint_env="CANARY")
    assert code == 19
    assert found.error is not None
    assert "ended before it answered" in found.error.what
    assert "Exit code 3" in found.error.why
    assert "no weights, and the secret is ***" in found.error.why
    assert CANARY not in found.model_dump_json()
    assert left() == []


def test_a_container_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    code, found = run(tmp_path, "bench", endpoint_args="elsewhere", endpoint_start_timeout="2s")
    assert code == 19
    assert found.error is not None
    assert "did not answer within 2 s" in found.error.what
    assert "endpoint-port" in found.error.fix
    assert left() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint_image": "trt-action-no-such-image:local"}, "trt-action-no-such-image"),
        ({"endpoint_image": "no-such-registry.invalid/x:y"}, "cannot be pulled"),
        ({"endpoint_gpus": "all"}, "GPU"),
    ],
)
def test_what_docker_refuses_is_told(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    code, found = run(tmp_path, "bench", **settings)
    assert code == 10
    assert found.error is not None
    assert words in json.dumps(found.error.model_dump())
    assert left() == []


def test_a_variable_that_is_not_set_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CANARY", raising=False)
    code, found = run(tmp_path, "bench", endpoint_env="CANARY")
    assert code == 2
    assert found.error is not None
    assert "`CANARY`" in found.error.what


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    waits = asked(tmp_path / "first", endpoint_args="elsewhere", endpoint_start_timeout="300s")
    first = subprocess.Popen(
        [sys.executable, "-m", "trt_action", "bench", *waits], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not (started := left()):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert run(tmp_path, "bench")[0] == 0
        assert left() == started
    finally:
        first.kill()
    # Nobody has asked how it ended: a killed child of a CI's shell may stay like that for long.
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert left() == started
    assert run(tmp_path, "bench")[0] == 0
    assert left() == []
    first.wait()


@dataclass(frozen=True)
class Ours:
    client: docker.DockerClient
    me: leftovers.Owner

    def create(self, label: str, *, start: bool = False) -> Container:
        one: Container = self.client.containers.create(IMAGE, ["tiny"], labels={LABEL: label})
        if start:
            one.start()
        return one


@pytest.fixture
def ours() -> Iterator[Ours]:
    with contextlib.closing(docker.from_env(timeout=60)) as client:
        made = Ours(client, leftovers.here(client))
        yield made
        for one in client.containers.list(all=True, filters={"label": LABEL, "ancestor": IMAGE}):
            one.remove(force=True)


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({}, False),
        ({"started": 1}, True),  # the number of a process that was used again
        ({"pid": (1 << 22) + 1}, True),  # more than Linux gives
        ({"pid": (1 << 22) + 1, "user": os.getuid() + 1}, False),
        ({"pid": (1 << 22) + 1, "namespace": 1}, False),  # a process that cannot be seen from here
        ({"pid": (1 << 22) + 1, "boot": ""}, False),
        ({"pid": 0}, False),
        ({"boot": "another"}, False),  # created: maybe about to be started, by another host
        ({"container": "0" * 64}, True),
        ({"container": "0" * 64, "user": "0"}, False),
    ],
)
def test_whose_run_is_gone(ours: Ours, change: dict[str, object], gone: bool) -> None:
    """What cannot be judged stays."""
    ours.create(json.dumps({**asdict(ours.me), **change}))
    assert leftovers.remove(ours.client, ours.me) == gone
    assert len(left()) == (not gone)


@pytest.mark.parametrize("label", ["", "4711", "[]", '{"pid": 1}', "[" * 4_000])
def test_a_label_that_names_nobody_is_left_alone(ours: Ours, label: str) -> None:
    ours.create(label)
    assert leftovers.remove(ours.client, ours.me) == 0


def test_a_run_in_a_container_lives_as_long_as_that(ours: Ours) -> None:
    home = ours.create("no owner", start=True)
    ours.create(replace(ours.me, container=str(home.id), pid=(1 << 22) + 1).label())
    assert leftovers.remove(ours.client, ours.me) == 0
    home.kill()
    home.wait(timeout=60)
    assert leftovers.remove(ours.client, ours.me) == 1
    assert left() == [str(home.id)[:12]]


def test_what_stopped_with_the_host_is_removed_after_it_has_booted(ours: Ours) -> None:
    one = ours.create(replace(ours.me, boot="the last one").label(), start=True)
    assert leftovers.remove(ours.client, ours.me) == 0
    one.kill()
    one.wait(timeout=60)
    assert leftovers.remove(ours.client, ours.me) == 1
