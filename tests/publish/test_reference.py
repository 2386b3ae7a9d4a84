"""Names of images: Docker's rules, and nothing that could leave its place in an address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.errors import SettingsError
from trt_action.publish.reference import Reference, is_host, is_loopback

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("python", "docker.io", "library/python", None, None),
        ("python:3.12-slim", "docker.io", "library/python", "3.12-slim", None),
        ("org/app", "docker.io", "org/app", None, None),
        ("docker.io/python", "docker.io", "library/python", None, None),
        ("index.docker.io/org/app", "docker.io", "org/app", None, None),
        ("ghcr.io/org/app:v1", "ghcr.io", "org/app", "v1", None),
        ("localhost/app", "localhost", "app", None, None),
        ("localhost:5000/app:1", "localhost:5000", "app", "1", None),
        ("host:5000/a/b/c", "host:5000", "a/b/c", None, None),
        ("HOST/app", "HOST", "app", None, None),
        ("[::1]:5000/app", "[::1]:5000", "app", None, None),
        ("r.io/a__b/c-d--e.f_g", "r.io", "a__b/c-d--e.f_g", None, None),
        (f"r.io/a:t@{DIGEST}", "r.io", "a", "t", DIGEST),
        (f"r.io/a@{DIGEST}", "r.io", "a", None, DIGEST),
        (f"r.io/a@sha512:{HEX * 2}", "r.io", "a", None, f"sha512:{HEX * 2}"),
        ("r.io/" + "a" * 250, "r.io", "a" * 250, None, None),
        ("r.io/a:" + "t" * 128, "r.io", "a", "t" * 128, None),
    ],
)
def test_names(text: str, host: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = Reference.parse(text)
    assert (reference.host, reference.repository, reference.tag, reference.digest) == (host, repository, tag, digest)
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "/", "a/", "/a", "a//b", "App", "r.io/App", "r.io/a:", "r.io/a:-x", "r.io/a:" + "t" * 129, "r.io/" + "a" * 251,
        "r.io/a@", "r.io/a@sha256:12", f"r.io/a@sha256:{HEX.upper()}", f"r.io/a@md5:{HEX}", f"r.io/a@{DIGEST}@{DIGEST}",
        "r.io/../etc", "r.io/a/../b", "r.io/a%2fb", "r.io/a?x=1", "r.io/a#b", "r.io/a b", "r.io/a\n", "r.io/a\0", "r.io/ä",
        "http://r.io/a", "user:pw@r.io/a", "r.io:0/a", "r.io:99999/a", "r.io:x/a", "-r.io/a", "r..io/a", "[::1/a", "[zz]:1/a",
        "r.io/a-", "r.io/.a", "r.io/a___b", "r.io/_a", HEX, "a" * 2_000, "r.io/a:b:c",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Reference.parse(text)
    assert "is no name of an image" in caught.value.what
    assert len(caught.value.what) < 400
    assert caught.value.what.isprintable()


@given(st.text(max_size=80) | st.from_regex(r"[a-zA-Z0-9._:/@\[\]-]{0,60}"))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except SettingsError:
        return
    assert Reference.parse(str(reference)) == reference
    assert ".." not in reference.repository
    assert not set(str(reference)) & set(" \t\n\\%?#&<>\"'")


def test_what_is_asked_for() -> None:
    assert Reference.parse("a").target == "latest"
    assert Reference.parse(f"r.io/a:t@{DIGEST}").target == DIGEST
    assert Reference.parse("a").api_host == "registry-1.docker.io"
    assert str(Reference.parse("r.io/a:1").at(DIGEST)) == f"r.io/a@{DIGEST}"
    assert str(Reference.parse(f"r.io/a@{DIGEST}").tagged("x")) == "r.io/a:x"
    with pytest.raises(SettingsError):
        Reference.parse("r.io/a").tagged("a/b")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("LOCALHOST:5000", True), ("127.0.0.1:1", True), ("127.9.9.9", True), ("[::1]:5000", True),
        ("localhost.evil.com", False), ("127.0.0.1.evil.com", False), ("10.0.0.1", False), ("r.io", False),
    ],
)  # fmt: skip
def test_which_hosts_are_this_machine(host: str, local: bool) -> None:
    assert is_host(host)
    assert is_loopback(host) is local
