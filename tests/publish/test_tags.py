"""Tags: rules and facts in, names out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.errors import SettingsError
from trt_action.publish import tags
from trt_action.publish.reference import is_tag
from trt_action.publish.tags import Facts, Version

SHA = "89abcdef" * 5
DIGITS = "digits-a100-sxm4-80gb-int8"
MAIN = Facts(SHA, branch="main", default_branch=True, model="digits", gpu="a100-sxm4-80gb", precision="int8")
PLAIN = Facts(SHA, branch="main", default_branch=True)


def tag(name: str) -> Facts:
    return Facts(SHA, tag=name)


def made(lines: list[str], facts: Facts, existing: tuple[str, ...] = ()) -> list[str]:
    return tags.make(tags.rules(lines), facts, existing)


@pytest.mark.parametrize(
    ("lines", "facts", "expected"),
    [
        ([], PLAIN, [SHA, "main"]),
        ([], MAIN, [SHA, f"{DIGITS}-{SHA}", "main", f"{DIGITS}-main"]),
        ([], Facts(SHA, branch="feature/new thing"), [SHA, "feature-new-thing"]),
        ([], tag("v1.2.3"), [SHA, "1.2.3", "1.2", "1", "latest"]),
        ([], tag("1.2.3"), [SHA, "1.2.3", "1.2", "1", "latest"]),
        ([], tag("v1.2.3-rc.1"), [SHA, "1.2.3-rc.1"]),
        ([], tag("v1.2.3+build.5"), [SHA, "1.2.3_build.5", "1.2", "1", "latest"]),
        ([], tag("v0.4.1"), [SHA, "0.4.1", "0.4", "latest"]),
        ([], tag("summer/2026"), [SHA, "summer-2026"]),
        ([], tag("v1.2"), [SHA, "v1.2"]),
        ([], tag("v1.02.3"), [SHA, "v1.02.3"]),
        ([], tag("v1.2.3-01"), [SHA, "v1.2.3-01"]),
        ([], Facts(SHA, pull_request=7), [SHA]),
        (["type=ref,event=pr"], Facts(SHA, pull_request=7), ["pr-7"]),
        (["type=sha,format=short,prefix=sha-"], PLAIN, ["sha-89abcde"]),
        (["type=sha", "type=ref,event=tag"], tag("v1.2.3"), [SHA, "v1.2.3"]),
        (["type=semver,pattern={{major}}.{{minor}}"], tag("v1.2.3"), ["1.2"]),
        (["type=semver,pattern={{version}}"], tag("v1.2.3-rc.1"), ["1.2.3-rc.1"]),
        (["type=sha", "type=semver,pattern={{major}}"], tag("v1.2.3-rc.1"), [SHA]),
        (["type=sha", "type=semver,pattern=stable"], tag("v1.2.3-rc.1"), [SHA]),
        (["type=semver,pattern=stable"], tag("v1.2.3"), ["stable"]),
        (["type=raw,value={{model}}-nightly,variant=none"], MAIN, ["digits-nightly"]),
        (["type=sha,variant=only"], MAIN, [f"{DIGITS}-{SHA}"]),
        (["type=sha,variant=none"], MAIN, [SHA]),
        (["type=raw,value=edge,enable={{is_default_branch}}", "type=sha"], Facts(SHA, branch="other"), [SHA]),
        (["type=raw,value=edge,enable={{is_default_branch}}"], PLAIN, ["edge"]),
        (["# a comment", "", "type=sha"], PLAIN, [SHA]),
        (["type=ref,event=branch,prefix=branch-"], Facts(SHA, branch="latest"), ["branch-latest"]),
        (["type=sha", "type=sha,format=long"], PLAIN, [SHA]),
    ],
)
def test_rules_and_facts(lines: list[str], facts: Facts, expected: list[str]) -> None:
    assert made(lines, facts) == expected


@pytest.mark.parametrize(
    ("released", "existing", "expected"),
    [
        ("v1.2.4", ("1.2.3", "1.2", "1", "latest"), ["1.2.4", "1.2", "1", "latest"]),
        ("v1.1.9", ("1.2.3", "1.2", "1", "latest"), ["1.1.9", "1.1"]),
        ("v1.9.0", ("2.0.0",), ["1.9.0", "1.9", "1"]),
        ("v1.9.0", ("2.0.0-rc.1",), ["1.9.0", "1.9", "1", "latest"]),
        ("v1.2.3", ("1.2.3", "1.2.3_build.7"), ["1.2.3", "1.2", "1", "latest"]),
        ("v1.10.0", ("1.9.0",), ["1.10.0", "1.10", "1", "latest"]),
    ],
)
def test_a_moving_tag_never_goes_back(released: str, existing: tuple[str, ...], expected: list[str]) -> None:
    assert made(["type=semver"], tag(released), existing) == expected
    variant = Facts(SHA, tag=released, model="m", gpu="cpu", precision="int8")
    scoped = tuple(f"m-cpu-int8-{one}" for one in existing)
    assert made(["type=semver,variant=only"], variant, scoped) == [f"m-cpu-int8-{one}" for one in expected]
    if len(expected) > 1:
        pattern = "type=semver,pattern={{major}}.{{minor}}"
        assert made([pattern], tag(released), existing) == [expected[1]]


@pytest.mark.parametrize(
    ("lines", "facts", "message"),
    [
        (["type=shah"], PLAIN, "did you mean `sha`"),
        (["sha"], PLAIN, "not `key=value`"),
        (["type=sha,format=tiny"], PLAIN, "one of short, long"),
        (["type=sha,patern=x"], PLAIN, "has no `patern`"),
        (["type=ref"], PLAIN, "needs `event=`"),
        (["type=raw,value={{secret}}"], PLAIN, "no `{{secret}}`"),
        (["type=sha,type=ref"], PLAIN, "there twice"),
        (["type=semver"], PLAIN, "No rule in `tags`"),
        (["type=raw,value=main,variant=none", "type=ref,event=branch"], PLAIN, "stands for"),
        ([], Facts(SHA, branch="latest"), "means something else"),
        ([], Facts(SHA, branch="1.2"), "means something else"),
        ([], Facts(SHA, branch="2"), "means something else"),
        ([], Facts(SHA, branch="deadbeef"), "means something else"),
        ([], Facts(SHA, branch="pr-7"), "means something else"),
        ([], Facts(SHA, branch="sha256-" + "0" * 64), "means something else"),
        ([], Facts(SHA, branch="runtime-onnxruntime-0123456789ab"), "means something else"),
    ],
)
def test_what_cannot_be_a_tag_is_refused(lines: list[str], facts: Facts, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        made(lines, facts)
    assert message in str(refused.value)


def test_what_would_give_a_tag_depends_on_what_is_known() -> None:
    with pytest.raises(SettingsError, match="event") as known:
        made(["type=semver"], Facts(SHA, branch="main"))
    with pytest.raises(SettingsError, match="event") as nothing:
        made([], Facts())
    assert "`type=sha`, which gives the commit" in known.value.fix
    assert "The commit is not known" in nothing.value.why
    assert "type=sha" not in nothing.value.fix


def test_a_long_name_is_cut_and_stays_itself() -> None:
    one, two = (made(["type=ref,event=branch"], Facts(SHA, branch="x" * 300 + end))[0] for end in "ab")
    assert len(one) == len(two) == 128
    assert one != two


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3 (MIG 1g.10gb)", "h100-80gb-hbm3-mig-1g.10gb"),
        (None, "cpu"),
    ],
)
def test_the_word_of_a_gpu(name: str | None, word: str) -> None:
    assert tags.gpu_word(name) == word


@given(st.text(max_size=400))
def test_whatever_a_name_is_a_tag_comes_out(text: str) -> None:
    assert is_tag(tags.sanitized(text))
    assert is_tag(tags.gpu_word(text))


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.sampled_from(["", "-rc.1", "+b.7", "-a+b"]))
def test_a_version_is_read_back(major: int, minor: int, patch: int, rest: str) -> None:
    version = Version.parse(f"v{major}.{minor}.{patch}{rest}")
    assert version
    assert Version.parse(str(version).replace("_", "+", 1)) == version
    assert is_tag(str(version))
