"""What a person or a CI log sees while a run goes on."""

from __future__ import annotations

import io

import pytest

from trt_action import console


@pytest.fixture
def plain_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)


def talk(**expected: float) -> str:
    stream = io.StringIO()
    out = console.console(stream, expected)
    with out.stage("build", "Build head") as progress:
        progress("calibrating, 1 of 3", 0.3)
        progress("calibrating, 2 of 3", 0.6)
        progress("::set-output name=x::y\x1b[31m", None)
    out.warn("two\nlines")
    out.settings({"model": "a.onnx", "seed": 0, "op-types": [], "cache": True}, {"model": "cli", "cache": "env"})
    return stream.getvalue()


@pytest.mark.usefixtures("plain_host")
def test_a_pipe_gets_plain_lines() -> None:
    text = talk(build=12.0)
    assert "• Build head  (about 12 s)" in text
    assert "calibrating, 1 of 3" in text
    assert "calibrating, 2 of 3" not in text, "a counting step is quiet for two seconds"
    assert "! two lines" in text
    assert "  model: a.onnx  (cli)" in text
    assert "  cache: true  (env)" in text
    assert "seed" not in text, "defaults are not repeated in a log without groups"
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("variable", "begin", "end"),
    [
        ("GITHUB_ACTIONS", "::group::Build head", "::endgroup::"),
        ("GITLAB_CI", "section_start:", "section_end:"),
    ],
)
@pytest.mark.usefixtures("plain_host")
def test_ci_gets_groups_and_every_setting(variable: str, begin: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "true")
    text = talk()
    assert begin in text
    assert end in text
    assert "seed: 0" in text
    assert "op-types: –" in text


@pytest.mark.usefixtures("plain_host")
def test_foreign_text_gives_no_workflow_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = talk().splitlines()
    assert [line for line in lines if line.lstrip().startswith("::")] == [
        "::group::Build head",
        "::endgroup::",
        "::group::settings",
        "::endgroup::",
    ]
    assert "set-output" in "".join(lines), "it is shown, as text"
    assert console.clean("##[error]x") == "# #[error]x"


@pytest.mark.usefixtures("plain_host")
def test_the_stage_ends_also_when_it_fails() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), console.console(stream).stage("x", "Stage"):
        raise RuntimeError
    assert "Stage: 0.0 s" in stream.getvalue()
