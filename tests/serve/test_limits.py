"""Clients that want too much, are too slow, or are not who they should be."""

from __future__ import annotations

import datetime
import gzip
import http.client
import json
import random
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as remote
import tritonclient.http as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.utils import InferenceServerException

from tests.serve.conftest import SECONDS, Serve, Server, ask, end, post, scale, slow, start, version
from tests.serve.load import ask_later, until_in_flight

PATH = "/v2/models/m/infer"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(
        version(tmp_path_factory.mktemp("served") / "m" / "1", scale(1, ("N", "width"))),
        "--max-body-bytes", "10000", "--max-json-bytes", "5000", "--max-header-bytes", "2000",
        "--read-timeout", "0.5", "--idle-timeout", "0.5", "--max-connections", "8", grpc=True,
    )  # fmt: skip
    yield running
    end(running)


def talk(server: Server, data: bytes, *, seconds: float = SECONDS) -> bytes:
    """Send, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65_536):
            received += part
        return received


def alive(server: Server) -> bool:
    return post(server, PATH, json.loads(BODY))[0] in (200, 400)


def head(*lines: str) -> bytes:
    return "\r\n".join((f"POST {PATH} HTTP/1.1", "host: x", *lines, "", "")).encode()


CHUNKED = head("transfer-encoding: chunked", "connection: close")

WIRE: list[tuple[str, bytes, bytes]] = [
    ("no HTTP", b"\x16\x03\x01 hello\r\n\r\n", b"400"),
    ("large header", head("x: " + "a" * 3_000), b"431"),
    ("many headers", head(*(f"x{n}: a" for n in range(400))), b"431"),
    ("header without end", b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, b"431"),
    ("long path", b"GET /" + b"a" * 3_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"431"),
    ("announced too large", head("content-length: 10001"), b"413"),
    ("chunked too large", head("transfer-encoding: chunked") + b"2710\r\n" + b"a" * 10_000 + b"\r\n1\r\na\r\n", b"413"),
    ("extension of a chunk", CHUNKED + b"1;" + b"a" * 3_000 + b"\r\na\r\n0\r\n\r\n", b"400"),
    ("extension without end", CHUNKED + b"1;" + b"a" * 1_000_000, b"431"),
    ("a large trailer", CHUNKED + b"0\r\nx: " + b"a" * 1_000_000, b"431"),
    ("many trailers", CHUNKED + b"0\r\n" + b"x: y\r\n" * 200_000, b"431"),
    ("chunks of one byte", CHUNKED + b"1\r\na\r\n" * 4_000 + b"0\r\n\r\n", b"400"),
    ("an encoding for the way", head("transfer-encoding: gzip, chunked") + b"0\r\n\r\n", b"501"),
    ("an unknown encoding", head("transfer-encoding: chunked, identity") + b"0\r\n\r\n", b"400"),
    ("the same length twice", head("content-length: 1", "content-length: 1") + b"a", b"400"),
    ("a line of a header goes on", head("x: a\r\n b", "content-length: 0"), b"400"),
    ("a bare line feed", head("content-length: 0").replace(b"\r\n", b"\n"), b"400"),
    ("a path that is not ASCII", b"GET /v2/\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
    ("a path upwards", b"GET /v2/models/..%2f..%2fetc HTTP/1.1\r\nconnection: close\r\n\r\n", b"404"),
    ("negative length", head("content-length: -1"), b"400"),
    ("two lengths", head("content-length: 1", "content-length: 2"), b"400"),
    ("length and chunks", head("content-length: 1", "transfer-encoding: chunked") + b"0\r\n\r\n", b"400"),
    ("half a head", b"POST / HTTP/1.1\r\nhost", b"408"),
    ("half a body", head("content-length: 100") + b"half", b"408"),
    ("half a body of another address", b"POST /v2/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf", b"40"),
    ("HTTP/1.0", b"GET /v2/health/live HTTP/1.0\r\n\r\n", b"200"),
    ("an upgrade", head("connection: upgrade", "upgrade: websocket", "content-length: 0"), b"400"),
]


@pytest.mark.parametrize(("name", "data", "status"), WIRE, ids=[row[0] for row in WIRE])
def test_what_arrives_on_the_wire(server: Server, name: str, data: bytes, status: bytes) -> None:
    answered = talk(server, data)
    assert answered.startswith(b"HTTP/1.1 " + status), answered[:200]
    assert alive(server)


def test_nothing_at_all_is_closed_without_a_word(server: Server) -> None:
    begin = time.monotonic()
    assert talk(server, b"") == b""
    assert talk(server, b"\r\n\r\n") in (
        b"",
        b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    assert time.monotonic() - begin < 10


def test_a_drip_does_not_buy_time(server: Server) -> None:
    """Slow loris: a byte of a header now and then."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as connection:
        connection.sendall(b"GET /")
        while time.monotonic() - begin < SECONDS:
            try:
                connection.sendall(b"a")
                if connection.recv(1_000) in (b"",):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    assert time.monotonic() - begin < 10


def test_idle_connections_are_closed_and_busy_ones_kept(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    connection.connect()
    sock = connection.sock
    for _ in range(5):
        connection.request("POST", PATH, BODY)
        assert connection.getresponse().read()
        assert connection.sock is sock
    assert sock.recv(1) == b""  # the server hangs up
    connection.close()


def test_connections_are_limited(server: Server) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) for _ in range(8)]
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as one_more:
            assert one_more.recv(1_000).startswith(b"HTTP/1.1 503")
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + SECONDS
    while not _live(server):
        assert time.monotonic() < deadline


def _live(server: Server) -> bool:
    try:
        return ask(server, "/v2/health/live", None, {})[0] == 200
    except OSError:
        return False


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    one = head(f"content-length: {len(BODY)}") + BODY
    other = b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"
    last = head(f"content-length: {len(BODY)}", "connection: close") + BODY
    answered = talk(server, one + other + one + last)
    assert answered.count(b"HTTP/1.1 200 OK") == 4
    assert [answered.find(b'"outputs"') < answered.find(b'"extensions"')] == [True]


BODIES: list[tuple[str, bytes, dict[str, str], int]] = [
    ("large JSON", b" " * 6_000, {}, 413),
    ("a bomb", gzip.compress(bytes(9_000_000)), {"Content-Encoding": "gzip"}, 413),
    ("not gzip", b"plain", {"Content-Encoding": "gzip"}, 400),
    ("unknown encoding", b"plain", {"Content-Encoding": "br"}, 415),
    ("bad length of JSON", BODY, {"Inference-Header-Content-Length": "-5"}, 400),
    ("long length of JSON", BODY, {"Inference-Header-Content-Length": "9" * 30}, 400),
    ("gzip", gzip.compress(BODY), {"Content-Encoding": "gzip"}, 200),
    ("identity", BODY, {"Content-Encoding": "identity"}, 200),
]


@pytest.mark.parametrize(("name", "data", "headers", "status"), BODIES, ids=[row[0] for row in BODIES])
def test_bodies(server: Server, name: str, data: bytes, headers: dict[str, str], status: int) -> None:
    found, _, answered = ask(server, PATH, data, headers)
    assert found == status, answered


def test_grpc_messages_are_limited(server: Server) -> None:
    tensor = remote.InferInput("x", [1, 4_000], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4_000), np.float32))
    with remote.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("m", [tensor])
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert client.is_server_live()


@pytest.mark.fuzz
def test_thousands_of_malformed_bodies_get_only_4xx(server: Server) -> None:
    chance = random.Random(7)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    statuses: set[int] = set()
    for _ in range(10_000):
        data = bytearray(BODY)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.choice(
                [b"", b"[", b'"', b"}", b"9" * 30, b"-", b"\0", b"\xff", b"null", bytes([chance.randrange(256)])]
            )
        headers = {"Inference-Header-Content-Length": str(chance.randint(0, 99))} if chance.random() < 0.2 else {}
        if chance.random() < 0.1:
            headers["Content-Encoding"] = "gzip"
        connection.request("POST", PATH, bytes(data), headers)
        answered = connection.getresponse()
        answered.read()
        statuses.add(answered.status)
    connection.close()
    assert {status // 100 for status in statuses - {200}} == {4}
    assert alive(server)


def test_overload_is_told_at_once(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", slow()), "--max-queue", "2")
    x = np.zeros((256, 256), np.float32)
    asked = [ask_later(server, PATH, x) for _ in range(8)]
    statuses = [one.result(SECONDS)[0] for one in asked]
    assert statuses.count(200) >= 3
    assert set(statuses) == {200, 503}


def test_a_deadline_ends_the_wait_in_the_queue(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", slow(layers=800)))
    x = np.zeros((256, 256), np.float32)
    asked = ask_later(server, PATH, x)
    until_in_flight(server, 1)
    with triton.InferenceServerClient(server.address) as client:
        tensor = triton.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("m", [tensor], timeout=1000)  # microseconds
    assert caught.value.status() == "504"
    assert asked.result(SECONDS)[0] == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tls.pem` and `tls.key` for localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


def test_token_and_tls(tmp_path: Path, certificate: Path, serve: Serve) -> None:
    token = "s3cret"  # noqa: S105
    (tmp_path / "token").write_text(token + "\n")
    server = serve(
        version(tmp_path / "m" / "1", scale(1)),
        "--token-file", str(tmp_path / "token"),
        "--tls-certificate", str(certificate / "tls.pem"), "--tls-key", str(certificate / "tls.key"),
        grpc=True,
    )  # fmt: skip
    trusted = ssl.create_default_context(cafile=str(certificate / "tls.pem"))

    def status(path: str, headers: dict[str, str], body: bytes | None = BODY) -> int:
        connection = http.client.HTTPSConnection("localhost", server.port, context=trusted, timeout=SECONDS)
        connection.request("POST" if body else "GET", path, body, headers)
        found = connection.getresponse()
        found.read()
        connection.close()
        return found.status

    good = {"Authorization": f"Bearer {token}"}
    for path, body in ((PATH, BODY), (PATH + "?a=1", BODY), ("/v2", None), ("/metrics", None), ("/v2/nothing", None)):
        assert status(path, {}, body) == 401, path
        assert status(path, {"Authorization": f"Bearer {token}x"}, body) == 401, path
        assert status(path, {"Authorization": f"Basic {token}"}, body) == 401, path
        assert status(path, good, body) in (200, 404), path
    assert status("/v2/health/live", {}, None) == 200
    assert status("/v2/health/ready", {}, None) == 200
    x = np.ones((1, 3), np.float32)
    tensor = remote.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(x)
    with remote.InferenceServerClient(
        f"localhost:{server.grpc_port}", ssl=True, root_certificates=str(certificate / "tls.pem")
    ) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException) as caught:
            client.infer("m", [tensor])
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        headers = {"authorization": f"Bearer {token}"}
        np.testing.assert_array_equal(client.infer("m", [tensor], headers=headers).as_numpy("y"), x)
    assert server.stop() == 0
    assert server.process.stdout is not None
    server.wait_for("Stopped.")
    assert token not in "".join(server.lines)


def test_the_log_has_no_payload_and_no_query(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)), "--access-log", "text")
    ask(server, PATH + "?key=s3cret", BODY, {})
    ask(server, "/v2/x%0aforged%20line", None, {})
    server.stop()
    server.wait_for("Stopped.")
    text = "".join(server.lines)
    assert "s3cret" not in text
    assert "\nforged" not in text
    assert f"POST {PATH} 200" in text


def test_memory_of_all_requests_is_limited(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)), "--max-inflight-bytes", "1000")
    with socket.create_connection(("127.0.0.1", server.port)) as held:
        held.sendall(head("content-length: 1000"))
        assert ask(server, PATH, BODY, {})[0] == 200  # announced is not held
        held.sendall(b" " * 900)
        until_held(server, 900)
        status, headers, _ = ask(server, PATH, b" " * 200, {})
        assert (status, headers["retry-after"]) == (503, "1")
    until_held(server, 0)
    assert ask(server, PATH, BODY, {})[0] == 200


def until_held(server: Server, size: int) -> None:
    deadline = time.monotonic() + SECONDS
    while b"trt_action_request_bytes_in_flight %d.0" % size not in ask(server, "/metrics", None, {})[2]:
        assert time.monotonic() < deadline


def test_a_stranger_sends_no_message_over_grpc(tmp_path: Path, serve: Serve) -> None:
    """Refused for the token before the message was read: else it were refused for its size."""
    token = {"TRT_ACTION_SERVE_TOKEN": "s3cret"}
    server = serve(version(tmp_path / "m" / "1", scale(1)), "--max-body-bytes", "1000", grpc=True, env=token)
    tensor = remote.InferInput("x", [1, 4_000], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4_000), np.float32))
    with remote.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        for headers, code in (({}, "UNAUTHENTICATED"), ({"authorization": "Bearer s3cret"}, "RESOURCE_EXHAUSTED")):
            with pytest.raises(InferenceServerException) as caught:
                client.infer("m", [tensor], headers=headers)
            assert caught.value.status() == f"StatusCode.{code}"
    assert (
        b'trt_action_errors_total{cause="unauthorized"} 1.0'
        in ask(server, "/metrics", None, {"Authorization": "Bearer s3cret"})[2]
    )
