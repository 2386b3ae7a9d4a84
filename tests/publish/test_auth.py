"""Logging in: Basic and tokens, their end, and who gets to see the login."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.doubles.registry import PASSWORD, USER, Running
from tests.doubles.registry_proxy import SERVICE, Fault, Proxy
from tests.publish.conftest import LOGIN, MakeRegistry, Time
from trt_action.errors import RegistryError, SettingsError
from trt_action.publish import auth, oci
from trt_action.publish.credentials import Credentials
from trt_action.publish.oci import Blob

SMALL = Blob.of(b"small", "text/plain")


@contextmanager
def elsewhere(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Another host: its address, and the headers of what it was asked."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers.items()))
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_basic_over_tls_with_an_authority_of_its_own(
    locked: Running, make: MakeRegistry, repository: str, log: list[str]
) -> None:
    registry = make(locked.host, credentials=LOGIN, ca=locked.ca)
    registry.upload(repository, SMALL)
    assert registry.blob_bytes(repository, SMALL.digest) == b"small"
    assert log == []


@pytest.mark.parametrize("credentials", [None, Credentials(USER, SecretStr("canary-wrong"))])
def test_a_wrong_login_is_told(
    locked: Running, make: MakeRegistry, repository: str, credentials: Credentials | None
) -> None:
    with pytest.raises(RegistryError) as caught:
        make(locked.host, credentials=credentials, ca=locked.ca).upload(repository, SMALL)
    assert (caught.value.status, caught.value.exit_code) == (401, 13)
    assert "registry-password" in caught.value.fix
    assert "canary" not in str(caught.value) + caught.value.fix


def test_an_unknown_authority_gets_no_login(locked: Running, make: MakeRegistry, repository: str) -> None:
    with pytest.raises(RegistryError, match="certificate"):
        make(locked.host, credentials=LOGIN).upload(repository, SMALL)
    before = locked.log.read_text()
    assert USER not in before.partition(repository)[2]


def test_a_file_without_certificates_is_refused(locked: Running, make: MakeRegistry) -> None:
    with pytest.raises(SettingsError, match="certificates"):
        make(locked.host, ca=locked.log)


def test_plain_http_is_for_this_machine_or_asked_for(make: MakeRegistry) -> None:
    asked = make("registry.invalid", patience=0.0)
    with pytest.raises(RegistryError, match=r"no such host|no connection"):  # as this machine's resolver says
        asked.tags("a")
    assert asked._transport.url("/v2/").startswith("https://")
    assert make("127.0.0.1:1", insecure=False)._transport.url("/v2/").startswith("https://")


def test_tokens_for_what_is_done(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.tokens = True
    registry = make(proxy.host, credentials=LOGIN)
    registry.upload(repository, SMALL)
    digest = registry.put_manifest(repository, "1", oci.manifest(SMALL.descriptor(), []), oci.MANIFEST)
    assert registry.tags(repository) == ["1"]
    assert registry.delete(repository, digest)
    scopes = [asked["scope"] for asked in proxy.token_requests]
    assert scopes == [f"repository:{repository}:{actions}" for actions in ("pull,push", "pull", "pull,delete")]
    assert {asked["service"] for asked in proxy.token_requests} == {SERVICE}
    assert (
        sum(one.headers.get("Authorization", "").startswith("Basic") for one in proxy.seen if "/token" not in one.path)
        == 0
    )


def test_a_mount_asks_for_both_repositories(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.tokens = True
    registry = make(proxy.host, credentials=LOGIN)
    registry.upload(f"{repository}/a", SMALL)
    registry.upload(f"{repository}/b", SMALL, [f"{repository}/a"])
    assert proxy.token_requests[-1]["scope"] == f"repository:{repository}/a:pull repository:{repository}/b:pull,push"
    assert proxy.count("PUT", f"{repository}/b") == 0


def test_a_token_that_ends_meanwhile_is_renewed(
    proxy: Proxy, make: MakeRegistry, time: Time, repository: str, make_blob: Callable[[int], Blob]
) -> None:
    proxy.tokens, proxy.clock = True, time.now
    proxy.lives = [300.0, 300.0]
    registry = make(proxy.host, credentials=LOGIN, chunk=65_536)
    blob = make_blob(300_000)
    ticks = iter(range(100))

    def sent(_: int) -> None:
        time.seconds += 400.0 if next(ticks) == 1 else 0.0

    registry.upload(repository, blob, sent=sent)
    assert registry.blob_size(repository, blob.digest) == 300_000
    assert len(proxy.token_requests) == 3


def test_a_token_that_ends_sooner_than_it_said(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.tokens = True
    registry = make(proxy.host, credentials=LOGIN)
    registry.upload(repository, SMALL)
    proxy._issued.clear()  # revoked
    assert registry.upload(repository, Blob.of(b"more", "text/plain")).size == 4


def test_an_identity_token_is_exchanged(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.tokens = True
    proxy.identity_tokens.add("canary-identity")
    registry = make(proxy.host, credentials=Credentials("<token>", SecretStr("canary-identity"), identity=True))
    registry.upload(repository, SMALL)
    assert proxy.token_requests[0]["grant_type"] == "refresh_token"
    assert not any("canary" in one.path for one in proxy.seen)


def test_a_token_server_that_is_busy_or_refuses(proxy: Proxy, make: MakeRegistry, time: Time, repository: str) -> None:
    proxy.tokens = True
    proxy.faults = [
        Fault("GET", "/token", status=503),
        Fault("GET", "/token", status=429, headers={"Retry-After": "7"}),
    ]
    make(proxy.host, credentials=LOGIN).upload(repository, SMALL)
    assert time.slept == [1.0, 7.0]
    with pytest.raises(RegistryError, match="incorrect username or password") as caught:
        make(proxy.host, credentials=Credentials(USER, SecretStr("canary-wrong"))).upload(repository, SMALL)
    assert caught.value.status == 401


def test_who_may_only_read_is_told(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.tokens = True
    with pytest.raises(RegistryError) as caught:
        make(proxy.host).upload(repository, SMALL)  # anonymous tokens may pull
    assert caught.value.status == 401


@pytest.mark.parametrize(
    "realm",
    ["http://tokens.example.com/token", "ftp://127.0.0.1/", "", "http://user@127.0.0.1/t", "https://", "http://127.0.0.1.example.com/"],
)  # fmt: skip
def test_the_login_goes_to_no_odd_token_server(proxy: Proxy, make: MakeRegistry, repository: str, realm: str) -> None:
    proxy.tokens, proxy.token_url = True, realm
    with pytest.raises(RegistryError, match="token"):
        make(proxy.host, credentials=LOGIN).upload(repository, SMALL)
    assert not any("Authorization" in one.headers for one in proxy.seen)


def test_a_token_server_may_not_pass_the_login_on(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    with elsewhere(lambda handler: send(handler, 200, b'{"token":"x"}')) as (other, asked):
        proxy.tokens = True
        proxy.faults = [Fault("GET", "/token", status=307, headers={"Location": f"http://{other}/"}, times=9)]
        with pytest.raises(RegistryError, match="HTTP 307"):
            make(proxy.host, credentials=LOGIN).upload(repository, SMALL)
    assert asked == []


def test_a_redirected_download_loses_the_login(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.tokens = True
    registry = make(proxy.host, credentials=LOGIN)
    registry.upload(repository, SMALL)
    with elsewhere(lambda handler: send(handler, 200, b"small")) as (other, asked):
        proxy.faults = [Fault("GET", "/blobs/", "redirect", url=f"http://{other}/signed?x=1")]
        assert registry.blob_bytes(repository, SMALL.digest) == b"small"
    assert len(asked) == 1
    assert not {"Authorization", "Cookie"} & set(asked[0])


def test_another_hosts_401_gets_no_answer(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    registry = make(proxy.host, credentials=LOGIN)
    registry.upload(repository, SMALL)
    with elsewhere(lambda handler: send(handler, 401, WWW_Authenticate='Basic realm="give me"')) as (other, asked):
        proxy.faults = [Fault("GET", "/blobs/", "redirect", url=f"http://{other}/", times=9)]
        with pytest.raises(RegistryError):
            registry.blob_bytes(repository, SMALL.digest)
    assert asked
    assert not any("Authorization" in headers for headers in asked)


def test_redirects_end(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.faults = [Fault("GET", "/blobs/", "redirect", url=f"/v2/{repository}/blobs/{SMALL.digest}", times=99)]
    with pytest.raises(RegistryError, match="too many redirects"):
        make(proxy.host).blob_bytes(repository, SMALL.digest)


def test_a_netrc_is_not_read(
    proxy: Proxy, make: MakeRegistry, session: requests.Session, repository: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w") as file:  # noqa: PTH123 - tmp_path is only a text here
        file.write("machine 127.0.0.1 login me password canary\n")
    monkeypatch.setenv("NETRC", netrc)
    session.trust_env = True
    make(proxy.host).upload(repository, SMALL)
    assert not any("Authorization" in one.headers for one in proxy.seen)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s",scope="x:y:pull,push"', [("bearer", {"realm": "https://a/t", "service": "s", "scope": "x:y:pull,push"})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        ("BEARER realm=https://a/t", [("bearer", {"realm": "https://a/t"})]),
        ('Basic realm="x", Bearer realm="y" , service = "z"', [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})]),
        ('Negotiate, Bearer realm="a\\"b"', [("negotiate", {}), ("bearer", {"realm": 'a"b'})]),
        ("", []),
        ('realm="x"', []),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.params)) for one in auth.parse(header)] == expected


@given(st.text(max_size=300))
def test_any_header_can_be_read(header: str) -> None:
    assert all(re.fullmatch(r"[a-z0-9_-]+", one.scheme) for one in auth.parse(header))


def test_secrets_stay_out_of_words(proxy: Proxy, make: MakeRegistry, repository: str, log: list[str]) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"no, %s, %s"}]}' % (PASSWORD.encode(), LOGIN.basic().encode())
    proxy.faults = [Fault("HEAD", "", status=503), Fault("POST", "", status=403, body=body)]
    registry = make(proxy.host, credentials=LOGIN)
    with pytest.raises(RegistryError, match=r"no, \*\*\*, Basic \*\*\*") as caught:
        registry.upload(repository, SMALL)
    told = f"{registry!r} {registry._transport!r} {caught.value!r} {caught.value.why} {caught.value.fix} {log}"
    assert PASSWORD not in told
