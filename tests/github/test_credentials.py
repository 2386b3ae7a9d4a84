"""The job's token reaches Git, for the server's own address only, and nobody else."""

from __future__ import annotations

import base64
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from trt_action import process
from trt_action.github import credentials
from trt_action.model.git import Repository

TOKEN = SecretStr("ghs_canary")


@pytest.fixture
def server() -> Iterator[tuple[int, list[str | None]]]:
    """A server that knows nothing and notes who asked."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(",".join(self.headers.get_all("Authorization") or []) or None)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield http.server_port, seen
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize(("host", "sent"), [("127.0.0.1", True), ("localhost", False)])
def test_real_git_sends_it_to_the_server_and_to_no_other_host(
    server: tuple[int, list[str | None]], host: str, sent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, seen = server
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    for name, value in credentials.for_git(TOKEN, f"http://127.0.0.1:{port}", {}).items():
        monkeypatch.setenv(name, value)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    kept = [f"http.http://127.0.0.1:{port}/.extraheader", "AUTHORIZATION: basic kept-by-the-checkout"]
    subprocess.run(["git", "-C", str(tmp_path), "config", *kept], check=True)
    answer = Repository(tmp_path).run("ls-remote", f"http://{host}:{port}/acme/models.git")
    assert not answer.ok
    expected = "basic " + base64.b64encode(b"x-access-token:ghs_canary").decode()
    assert seen
    assert set(seen) == ({expected} if sent else {None})
    assert "canary" not in answer.err


def test_other_children_do_not_see_it() -> None:
    lent = credentials.for_git(TOKEN, "https://github.com", {"GIT_CONFIG_COUNT": "1"})
    assert lent["GIT_CONFIG_COUNT"] == "3"
    assert lent["GIT_CONFIG_KEY_2"] == "http.https://github.com/.extraheader"
    assert process.without_secrets({**lent, "HOME": "/root"}) == {"HOME": "/root"}


@pytest.mark.parametrize(
    ("token", "url"), [(None, "https://github.com"), (TOKEN, ""), (TOKEN, "file:///etc"), (TOKEN, "https://")]
)
def test_nothing_to_lend(token: SecretStr | None, url: str) -> None:
    assert credentials.for_git(token, url, {}) == {}
