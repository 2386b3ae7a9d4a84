"""Signals: SIGTERM undoes with one request; after kill -9 the next deploy or rollback finds its way by the annotations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import NEW, OLD, OTHER, TOKEN, Put, facts, order
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Fault, Kubernetes
from trt_action.deploy import deploying
from trt_action.deploy.cluster import Cluster
from trt_action.errors import DeployError

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from trt_action import cli
from trt_action.deploy import image
from trt_action.deploy.facts import Facts
image.known = lambda registry, found, key, log: Facts(str(found), str(found.digest))  # no registry is needed here
sys.exit(cli.main(sys.argv[1:]))
"""


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(k8s: Kubernetes, tmp_path: Path) -> Iterator[Start]:
    """Start `trt-action deploy`; whatever still runs at the end is killed."""
    config = k8s.kubeconfig(tmp_path / "config", token=TOKEN)
    target = ("--workload", "deployment/detector", "--container", "detector")
    started: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "deploy", NEW, *target],
            env={**os.environ, "KUBECONFIG": str(config), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def image(k8s: Kubernetes) -> str:
    return str(k8s.get("deployments", "detector")["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_undoes(number: signal.Signals, k8s: Kubernetes, put: Put, start: Start) -> None:
    put()
    k8s.images[NEW] = Image("unready")
    process = start()
    k8s.wait(lambda: image(k8s) == NEW)
    k8s.wait(lambda: any("watch" in one.query for one in k8s.seen))
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert "was not judged yet, so it does not stay" in err
    assert f"was put back to `{OLD}`" in err
    assert TOKEN not in out + err
    assert image(k8s) == OLD
    k8s.wait(lambda: k8s.settled("deployments", "detector", OLD))


def test_a_signal_while_the_cluster_is_gone(k8s: Kubernetes, put: Put, start: Start) -> None:
    put()
    k8s.images[NEW] = Image("unready")
    process = start()
    k8s.wait(lambda: any("watch" in one.query for one in k8s.seen))
    k8s.faults = [Fault("*", "deployments/detector", status=403, times=999)]
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode in (130, 17)
    assert "could not be put back" in err or "Putting it back failed" in err


@pytest.mark.parametrize("when", ["before the patch", "after the patch", "while rolling out"])
def test_kill_9_and_again(when: str, k8s: Kubernetes, put: Put, start: Start, cluster: Cluster, log: list[str]) -> None:
    put()
    k8s.images[NEW] = Image("unready")
    fault = Fault("PATCH", "detector", "silence")
    if when == "before the patch":
        k8s.faults = [fault]
    process = start()
    if when == "before the patch":
        k8s.wait(lambda: fault.times == 0)
    else:
        k8s.wait(lambda: image(k8s) == NEW)
    if when == "while rolling out":
        k8s.wait(lambda: any("watch" in one.query for one in k8s.seen))
    process.kill()
    process.communicate()
    k8s.released.set()
    assert image(k8s) == (OLD if when == "before the patch" else NEW)
    k8s.images[NEW] = Image()
    done = deploying.deploy(cluster, facts(), order(log))
    assert done.done == ("deployed" if when == "before the patch" else "unchanged")
    k8s.wait(lambda: k8s.settled("deployments", "detector", NEW))
    assert deploying.rollback(cluster, order(log)).image == OLD


def test_kill_9_and_rollback(k8s: Kubernetes, put: Put, start: Start, cluster: Cluster, log: list[str]) -> None:
    put()
    k8s.images[NEW] = Image("crash")
    process = start()
    k8s.wait(lambda: image(k8s) == NEW)
    process.kill()
    process.communicate()
    done = deploying.rollback(cluster, order(log))
    assert (done.image, done.before) == (OLD, NEW)
    k8s.wait(lambda: k8s.settled("deployments", "detector", OLD))


def test_kill_9_and_again_what_does_not_come_up(
    k8s: Kubernetes, put: Put, start: Start, cluster: Cluster, log: list[str]
) -> None:
    """The way back is the one that the killed run has recorded."""
    put()
    deploying.deploy(cluster, facts(OTHER), order(log))
    k8s.images[NEW] = Image("crash")
    process = start()
    k8s.wait(lambda: image(k8s) == NEW)
    process.kill()
    process.communicate()
    with pytest.raises(DeployError, match="in trouble") as caught:
        deploying.deploy(cluster, facts(), order(log))
    assert f"was put back to `{OTHER}`" in caught.value.why
    k8s.wait(lambda: k8s.settled("deployments", "detector", OTHER))
