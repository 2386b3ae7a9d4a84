"""Children: they answer, fail by name, die by name, and never outlive us."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from trt_action import errors, process

TARGETS = """
import os, signal, subprocess, sys
from trt_action import errors

def echo(channel):
    while (message := channel.receive()) is not None:
        print("noise on stdout that must not break the protocol")
        channel.progress("half way", 0.5)
        channel.send({"got": message})

def known(channel):
    raise errors.ModelError("The model is bad.", why="Because.", fix="Mend it.")

def unknown(channel):
    raise RuntimeError("surprise")

def killed(channel):
    channel.receive()
    os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))

def leaves(channel):
    channel.receive()
    print("last words", flush=True)
    os._exit(7)

def hangs(channel):
    channel.receive()
    signal.pause()

def closes(channel):
    channel.receive()
    os.closerange(3, 256)
    signal.pause()

def knows(channel):
    channel.receive()
    channel.send({"names": sorted(os.environ)})

def breeds(channel):
    channel.receive()
    grandchild = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    channel.send({"pid": grandchild.pid})
    channel.receive()
"""


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "child_targets.py").write_text(TARGETS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "child_targets"


def test_request_and_answer_survive_noise_on_stdout(targets: str) -> None:
    seen: list[tuple[str, float | None]] = []
    with process.Child(f"{targets}:echo") as child:
        for value in (1, "ü\n", [1.5, None]):
            answer = child.request({"value": value}, progress=lambda text, share: seen.append((text, share)))
            assert answer["got"] == {"value": value}
    assert seen == [("half way", 0.5)] * 3


@pytest.mark.parametrize(
    ("target", "expected", "words"),
    [
        ("known", errors.ModelError, "The model is bad."),
        ("unknown", errors.InternalError, "RuntimeError: surprise"),
        ("leaves", errors.BuildError, "exit code 7"),
    ],
)
def test_a_failure_crosses_with_its_class(
    targets: str, target: str, expected: type[errors.TrtActionError], words: str
) -> None:
    with pytest.raises(expected) as caught:
        process.call(f"{targets}:{target}", {})
    assert words in caught.value.what
    if target == "leaves":
        assert "last words" in caught.value.why


@pytest.mark.parametrize(("name", "expected"), [("SIGKILL", errors.OutOfMemoryError), ("SIGSEGV", errors.BuildError)])
def test_a_killed_child_is_named(targets: str, name: str, expected: type[errors.TrtActionError]) -> None:
    with pytest.raises(expected, match=name):
        process.call(f"{targets}:killed", {}, env={"SIGNAL": name})


def test_a_child_gets_no_token_of_the_job(targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = [
        *("INPUT_GITHUB-TOKEN", "INPUT_REGISTRY-PASSWORD", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"),
        *("ACTIONS_ID_TOKEN_REQUEST_URL", "GITHUB_TOKEN", "GH_TOKEN", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT"),
        *("CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "DOCKER_AUTH_CONFIG", "registry_password"),
    ]
    kept = ["AWS_SECRET_ACCESS_KEY", "GITHUB_SHA", "TRT_ACTION_CACHE"]  # a workflow's own are for its own functions
    for name in (*secret, *kept):
        monkeypatch.setenv(name, "canary")
    names = set(process.call(f"{targets}:knows", {})["names"])
    assert not names & set(secret)
    assert set(kept) <= names


def test_a_hanging_child_is_ended(targets: str) -> None:
    child = process.Child(f"{targets}:hangs")
    with pytest.raises(errors.MeasureError, match=r"within 0\.5 s"), child:
        child.request({}, timeout=0.5)
    assert not psutil.pid_exists(child.pid)


def test_what_it_said_before_it_ended_is_heard(targets: str) -> None:
    """A request larger than a pipe to a child that has already failed: its own error, not that of the pipe."""
    with pytest.raises(errors.ModelError, match="The model is bad"):
        process.call(f"{targets}:known", {"large": "x" * 1_000_000})


def test_a_child_that_closes_its_pipe_is_not_waited_for(targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DYING", 0.2)
    child = process.Child(f"{targets}:closes")
    with pytest.raises(errors.MeasureError, match="closed its connection"), child:
        child.request({}, timeout=60)
    assert not psutil.pid_exists(child.pid)


def test_grandchildren_go_too(targets: str) -> None:
    with process.Child(f"{targets}:breeds") as child:
        pid = child.request({})["pid"]
        assert psutil.pid_exists(pid)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_children_die_with_their_parent(targets: str) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
                from trt_action import process
                child = process.Child("{targets}:echo")
                child.request({{}})
                print(child.pid, flush=True)
                import signal; signal.pause()
            """),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], gone
