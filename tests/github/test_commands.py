"""What the runner understands of what we print and write."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.github.runner_log import read_log, read_values
from trt_action.errors import StorageError
from trt_action.github import commands

HOSTILE = "a\n::set-output name=x::y\n::error::fake\r\n100%,b:c\nEOF\n"


def test_outputs_arrive_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "output"
    file.touch()
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    values = {
        "json": HOSTILE,
        "report": Path("/x/y"),
        "p50-ms": 0.361,
        "n": 3,
        "yes": True,
        "none": None,
        "tags": ["a"],
    }
    for name, value in values.items():
        commands.output(name, value)
    assert read_values(file.read_bytes().decode()) == {
        "json": HOSTILE, "report": "/x/y", "p50-ms": "0.361", "n": "3", "yes": "true", "none": "", "tags": '["a"]',
    }  # fmt: skip
    with pytest.raises(ValueError, match="no name"):
        commands.output("a\nb", "x")
    file.unlink()
    with pytest.raises(StorageError, match="`json` cannot be written"):
        commands.output("json", "x")


def test_annotations_carry_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    said = commands.Annotations()
    said.add("error", HOSTILE, title="a:b,c=d\n", file=Path("models/a,b.onnx"), line=3)
    said.add("warning", "plain")
    said.add("notice", "x" * 9_000, line=3)
    log = read_log(capsys.readouterr().out)
    assert log.commands[0] == ("error", {"file": "models/a,b.onnx", "line": "3", "title": "a:b,c=d\n"}, HOSTILE)
    assert log.commands[1] == ("warning", {}, "plain")
    assert log.commands[2][:2] == ("notice", {})
    assert len(log.commands[2][2]) == commands.MAX_MESSAGE
    assert log.lines == []


def test_ten_annotations_per_level(capsys: pytest.CaptureFixture[str]) -> None:
    said = commands.Annotations()
    shown = [said.add("warning", f"{n}\n::error::no") for n in range(12)]
    said.add("error", "still room")
    log = read_log(capsys.readouterr().out)
    assert shown == [True] * 10 + [False] * 2
    assert [name for name, _, _ in log.commands] == ["warning"] * 10 + ["error"]
    assert log.lines == ["warning: 10", ": :error: :no", "warning: 11", ": :error: :no"]


def test_foreign_text_gives_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with commands.group("Build: 50%\n::error::x"), commands.foreign():
        print(HOSTILE)
    commands.plain("::add-mask::no")
    log = read_log(capsys.readouterr().out)
    assert [name for name, _, _ in log.commands] == ["group", "endgroup"]
    assert log.commands[0][2] == "Build: 50%\n::error::x"
    assert "::error::fake" in log.lines
    assert ": :add-mask: :no" in log.lines


def test_a_plain_line_is_one_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """The runner shows `stop-commands` and its end, so they would be two lines more."""
    commands.plain("one\n    two ##[error]no\r::error::no")
    assert capsys.readouterr().out == "one\n    two # #[error]no\n: :error: :no\n"


def test_groups_and_stops_end_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), commands.group("g"), commands.foreign():
        raise KeyError
    assert [name for name, _, _ in read_log(capsys.readouterr().out).commands] == ["group", "endgroup"]


def test_masks_cover_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    commands.mask(SecretStr("one\n\ntwo%"))
    commands.mask(None)
    commands.mask("")
    assert read_log(capsys.readouterr().out).commands == [("add-mask", {}, "one"), ("add-mask", {}, "two%")]


def test_later_steps_get_no_variable_from_this_one(tmp_path: Path) -> None:
    env = {name: str(tmp_path / name) for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_OUTPUT")}
    for path in env.values():
        Path(path).write_text("LD_PRELOAD=/evil.so\n")
    other = tmp_path / "other"
    other.write_text("kept")
    Path(env["GITHUB_STATE"]).unlink()
    Path(env["GITHUB_STATE"]).symlink_to(other)
    commands.forget_environment(env)
    commands.forget_environment({})
    assert [Path(env[name]).read_text() for name in ("GITHUB_ENV", "GITHUB_PATH")] == ["", ""]
    assert other.read_text() == "kept"
    assert Path(env["GITHUB_OUTPUT"]).read_text()


def test_the_summary_is_appended_and_never_above_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "summary"
    env = {"GITHUB_STEP_SUMMARY": str(file)}
    assert commands.summary_budget(env) == commands.SUMMARY_LIMIT
    assert commands.summary("first ä\n", env)
    assert commands.summary("second\n", env)
    assert file.read_text() == "first ä\nsecond\n"
    assert commands.summary_budget(env) == commands.SUMMARY_LIMIT - len(file.read_bytes())
    assert commands.summary("€ line\n" * 300_000, env)
    assert commands.SUMMARY_LIMIT - 20 < len(file.read_bytes()) <= commands.SUMMARY_LIMIT
    assert file.read_text().endswith("\n\n*Cut here: a job summary holds 1 MiB.*\n")
    assert not commands.summary("no room\n" * 3, env)


def test_no_runner_no_summary(tmp_path: Path) -> None:
    assert not commands.summary("x\n", {})
    with pytest.raises(StorageError, match="cannot be written"):
        commands.summary("x\n", {"GITHUB_STEP_SUMMARY": str(tmp_path / "missing" / "summary")})
