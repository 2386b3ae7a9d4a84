"""Start, swap, and end of a server, under load where it matters."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from tests.serve.conftest import SECONDS, Serve, Server, ask, post, scale, slow, slow_rows, version
from tests.serve.load import Load, ask_later, load, until_in_flight
from trt_action.errors import StorageError
from trt_action.serve import flags, loading
from trt_action.serve.folder import Place
from trt_action.serve.model import Model
from trt_action.serve.repository import Repository
from trt_action.serve.stats import Stats

PATH = "/v2/models/m/infer"


def body(n: int) -> Any:
    return {"id": str(n), "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [n, n, n]}]}


def factor(n: int, answer: Any) -> str:
    """Which version answered; an answer to another request is `mixed`."""
    values = answer["outputs"][0]["data"]
    if answer["id"] != str(n) or len(set(values)) != 1:
        return "mixed"
    return f"{values[0] / n:g}/{answer['model_version']}"


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def more(found: Load, count: int = 50) -> None:
    """Wait for `count` answers from now on."""
    goal = found.count() + count
    wait_until(lambda: found.count() >= goal or found.failures)


def test_every_answer_belongs_to_its_request(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)))
    with load(server, PATH, body, factor, clients=12) as found:
        more(found, 600)
    assert (set(found.answers), found.failures) == ({"1/1"}, [])
    _, stats = post_get(server, "/v2/models/m/stats")
    sizes = {entry["batch_size"] for entry in stats["model_stats"][0]["batch_stats"]}
    assert max(sizes) > 1


def post_get(server: Server, path: str) -> tuple[int, Any]:
    status, _, data = ask(server, path, None, {})
    return status, json.loads(data)


def test_a_swap_under_load_drops_and_mixes_nothing(tmp_path: Path, serve: Serve) -> None:
    repository = tmp_path / "repository"
    version(repository / "m" / "1", scale(1))
    server = serve(repository, "--model-control-mode", "explicit")
    with load(server, PATH, body, factor) as found, http.InferenceServerClient(server.address) as client:
        for number in range(2, 8):
            more(found)
            version(repository / "m" / str(number), scale(number))
            client.load_model("m")
            status, answer = post(server, PATH, body(5))
            assert (status, factor(5, answer)) == (200, f"{number}/{number}")
        more(found)
    assert found.failures == []
    assert set(found.answers) == {f"{n}/{n}" for n in range(1, 8)}


def test_a_bad_version_leaves_the_old_one_serving_and_says_why(tmp_path: Path, serve: Serve) -> None:
    repository = tmp_path / "repository"
    version(repository / "m" / "1", scale(1))
    server = serve(repository, "--model-control-mode", "explicit")
    x = {"x": np.ones((1, 3), np.float32)}
    version(repository / "m" / "2", scale(2), self_test=(x, {"y": np.full((1, 3), 2.2, np.float32)}))
    with load(server, PATH, body, factor) as found, http.InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException, match="does not compute here"):
            client.load_model("m")
        shutil.rmtree(repository / "m" / "2")
        version(repository / "m" / "3", scale(3))
        (repository / "m" / "3" / "engine.onnx").write_bytes(b"junk")
        with pytest.raises(InferenceServerException, match="cannot be trusted") as caught:
            client.load_model("m")
        assert str(tmp_path) not in str(caught.value)
        (entry,) = client.get_model_repository_index()
        assert (entry["version"], entry["state"]) == ("1", "READY")
        assert "version 3" in entry["reason"]
        with pytest.raises(InferenceServerException, match="as it was built and measured"):
            client.load_model("m", config="{}")
        with pytest.raises(InferenceServerException, match="no model 'other'"):
            client.load_model("other")
        more(found)
    assert (set(found.answers), found.failures) == ({"1/1"}, [])


def test_unload_and_load_again(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)).parent, "--model-control-mode", "explicit")
    with http.InferenceServerClient(server.address) as client:
        client.unload_model("m")
        assert not client.is_model_ready("m")
        assert client.is_server_ready()
        assert post(server, PATH, body(1))[0] == 404
        with pytest.raises(InferenceServerException, match="No model"):
            client.unload_model("m")
        client.load_model("m")
        assert client.is_model_ready("m")
    assert post(server, PATH, body(1))[0] == 200


def test_polling_finds_a_new_version_when_it_is_whole(tmp_path: Path, serve: Serve) -> None:
    repository = tmp_path / "repository"
    version(repository / "m" / "1", scale(1))
    server = serve(repository, "--model-control-mode", "poll", "--poll-interval", "0.1")
    with load(server, PATH, body, factor) as found:
        more(found)
        version(repository / "m" / "2", scale(2), evidence={"head": {"engine": {"sha256": "0" * 64}}})
        server.wait_for("m version 2 is not served")
        version(repository / "m" / "2", scale(2)).joinpath("evidence.json").unlink()
        server.wait_for("Serving m version 2")
        more(found)
        version(repository / "n" / "1", scale(5))
        server.wait_for("Serving n version 1")
        shutil.rmtree(repository / "n")
        server.wait_for("The folder of n is gone")
    assert (set(found.answers), found.failures) == ({"1/1", "2/2"}, [])


def test_sigterm_under_load_finishes_what_is_in_flight(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)))
    with load(server, PATH, body, factor, clients=12) as found:
        more(found, 200)
        code = server.stop()
    assert (code, set(found.answers), found.failures) == (0, {"1/1"}, [])


def test_sigterm_waits_for_a_slow_answer_and_says_not_ready_meanwhile(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", slow(layers=800)), "--drain-delay", "0.3")
    x = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    asked = ask_later(server, PATH, x)
    until_in_flight(server, 1)
    server.process.terminate()
    server.wait_for("finishing 1 requests")
    assert ask(server, "/v2/health/ready", None, {})[0] == 503
    assert ask(server, "/v2/health/live", None, {})[0] == 200
    status, y = asked.result(SECONDS)
    assert status == 200
    np.testing.assert_allclose(y, x.ravel(), rtol=1e-5)
    assert server.process.wait(SECONDS) == 0


def test_a_hanging_run_ends_liveness_and_nothing_else(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", slow(layers=800)), "--hang-timeout", "0.05")
    assert ask(server, "/v2/health/live", None, {})[0] == 200
    asked = ask_later(server, PATH, np.zeros((256, 256), np.float32))
    wait_until(lambda: ask(server, "/v2/health/live", None, {})[0] == 503)
    assert asked.result(SECONDS)[0] == 200
    assert ask(server, "/v2/health/live", None, {})[0] == 200


def test_the_time_for_draining_is_limited(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)), "--drain-seconds", "0.3", "--read-timeout", "20")
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
        wait_until(lambda: "trt_action_connections 2.0" in ask(server, "/metrics", None, {})[2].decode())
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 10


BAD_STARTS: list[tuple[str, tuple[str, ...], int, str]] = [
    ("nothing", (), 2, "There is no engine to serve"),
    ("damaged", (), 5, "cannot be trusted"),
    ("other-cpu", (), 10, "avx9000"),
    ("self-test", (), 5, "does not compute here"),
    ("good", ("--tls-certificate", "none.pem", "--tls-key", "none.pem"), 2, "TLS cannot be set up"),
    ("good", ("--token-file", "none"), 2, "token file"),
    ("good", ("--max-queue", "0"), 2, "--max-queue"),
]


@pytest.mark.parametrize(("name", "more_flags", "code", "words"), BAD_STARTS, ids=range(len(BAD_STARTS)))
def test_a_start_that_cannot_be_ends_with_one_message(
    name: str, more_flags: tuple[str, ...], code: int, words: str, tmp_path: Path, serve: Serve
) -> None:
    folder = tmp_path / "m" / "1"
    ones = np.ones((1, 3), np.float32)
    if name == "other-cpu":
        version(folder, scale(1))
        sha = json.loads((folder / "engine.json").read_text())["engine"]["sha256"]
        hardware = {"instruction_sets": ["avx9000"]}
        version(folder, scale(1), evidence={"head": {"engine": {"sha256": sha}}, "fingerprint": {"hardware": hardware}})
    elif name == "self-test":
        version(folder, scale(1), self_test=({"x": ones}, {"y": ones * 1.1}))
    else:
        version(folder, scale(1))
    if name == "damaged":
        (folder / "engine.onnx").write_bytes(b"damaged")
    path = tmp_path / "empty" if name == "nothing" else tmp_path
    path.mkdir(exist_ok=True)
    found, errors = serve(path, *more_flags, wait=False).ended()
    assert (found, words in errors, "Traceback" in errors) == (code, True, False), errors


def test_other_hardware_can_be_tried_with_a_warning(tmp_path: Path, serve: Serve) -> None:
    folder = version(tmp_path / "m" / "1", scale(1))
    sha = json.loads((folder / "engine.json").read_text())["engine"]["sha256"]
    hardware = {"instruction_sets": ["avx9000"]}
    version(folder, scale(1), evidence={"head": {"engine": {"sha256": sha}}, "fingerprint": {"hardware": hardware}})
    server = serve(folder, "--other-hardware", "warn")
    assert any("avx9000" in line for line in server.lines)
    assert post(server, PATH, body(1))[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_an_engine_is_loaded_is_not_kept_waiting(
    tmp_path: Path, serve: Serve, number: signal.Signals
) -> None:
    server = serve(version(tmp_path / "slow" / "1", slow_rows(200_000)), wait=False)  # its first inference takes long
    server.wait_for("Listening")
    begin = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(SECONDS) == 0
    assert time.monotonic() - begin < 5
    server.wait_for("Stopped.")


def test_a_second_signal_ends_at_once(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)))
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
        until_in_flight(server, 1)
        server.process.terminate()
        server.wait_for("finishing 1 requests")
        begin = time.monotonic()
        server.process.terminate()
        assert server.process.wait(SECONDS) == 0
        assert time.monotonic() - begin < 10  # of 30 for draining, of 20 for the rest of the body


def test_a_repository_that_cannot_be_read_for_a_while(tmp_path: Path, serve: Serve) -> None:
    repository = tmp_path / "repository"
    version(repository / "m" / "1", scale(1))
    server = serve(repository, "--model-control-mode", "poll", "--poll-interval", "0.1")
    repository.rename(tmp_path / "away")
    server.wait_for("The repository cannot be read now")
    assert post(server, PATH, body(1))[0] == 200
    (tmp_path / "away").rename(repository)
    version(repository / "m" / "2", scale(2))
    server.wait_for("Serving m version 2")


def test_a_folder_that_changes_while_it_is_loaded_is_not_served(tmp_path: Path) -> None:
    folder = version(tmp_path / "m" / "1", scale(1))

    def loader(place: Place, options: flags.Options, say: Any, stats: Stats) -> Model:
        found = loading.load(place, options, say, stats)
        folder.joinpath("engine.onnx").touch()
        return found

    async def story() -> None:
        repository = Repository(flags.parse(tmp_path, {}, {}), lambda _: None, loader)
        with pytest.raises(StorageError, match="changed while it was loaded"):
            await repository.start()
        assert not repository.models()
        (entry,) = repository.index()
        assert entry["state"] == "UNAVAILABLE"
        await repository.close()

    asyncio.run(asyncio.wait_for(story(), SECONDS))
