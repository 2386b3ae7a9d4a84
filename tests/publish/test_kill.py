"""kill -9 in the middle of a publish: nothing that can be pulled is left, and the next run finishes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doubles.registry import PASSWORD
from tests.doubles.registry_proxy import Fault, Proxy
from tests.publish.conftest import LOGIN, MakeRegistry, Pack
from tests.publish.test_direct import CREATED, put_base, reference
from trt_action.errors import RegistryError
from trt_action.publish import direct
from trt_action.publish.direct import Change

SCRIPT = """
import os, sys
from pathlib import Path
import requests
from trt_action.publish import credentials, direct, oci
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
host, repository, path, digest, size, diff_id = sys.argv[1:]
login = credentials.find(host, os.environ["LOGIN"], os.environ["SECRET"], {})
registry = Registry(requests.Session(), host, credentials=login, chunk=65_536, log=print)
base = direct.read_base(registry, Reference.parse(f"{host}/{repository}/base:base"))
layer = oci.Blob(digest, int(size), oci.LAYER_GZIP, Path(path), diff_id=diff_id)
print(direct.push(base, registry, repository, direct.Change("2026-01-02T03:04:05Z", [layer])).digest)
"""
SECONDS = 30.0


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("method", "path", "skip"),
    [("HEAD", "/blobs/", 1), ("POST", "/uploads/", 0), ("PATCH", "/uploads/", 2), ("PUT", "digest=", 0), ("PUT", "/manifests/", 0)],
)  # fmt: skip
def test_a_rerun_after_kill_9(
    proxy: Proxy,
    make: MakeRegistry,
    repository: str,
    pack: Pack,
    method: str,
    path: str,
    skip: int,
) -> None:
    proxy.tokens = True
    client = make(proxy.host, credentials=LOGIN)
    put_base(client, f"{repository}/base", [pack("under")])
    layer = pack("engine", size=500_000)
    assert layer.path
    proxy.seen.clear()
    proxy.faults = [Fault(method, path, "silence", skip=skip)]
    arguments = [proxy.host, repository, str(layer.path), layer.digest, str(layer.size), str(layer.diff_id)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "LOGIN": LOGIN.username, "SECRET": PASSWORD, "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_for(lambda: proxy.faults[0].times == 0)
    finally:
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0].decode()
    assert PASSWORD not in output
    with pytest.raises(RegistryError):  # nothing there has a name
        client.tags(repository)
    proxy.released.set()
    sent_before = sum(one.sent for one in proxy.seen)
    base = direct.read_base(client, reference(client, f"{repository}/base"))
    pushed = direct.push(base, client, repository, Change(CREATED, [layer]))
    assert client.manifest(repository, pushed.digest)
    assert client.blob_size(repository, layer.digest) == layer.size
    if path == "/manifests/":  # every blob was there: none was sent again
        assert pushed.sent == 0
        assert sum(one.sent for one in proxy.seen) - sent_before < 2_000
