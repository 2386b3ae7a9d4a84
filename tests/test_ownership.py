"""Files in the workspace end up with its owner; nothing outside does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trt_action import ownership

OWNER = 12_345
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/report.html").write_text("x")
    for path in (folder, folder / "deep"):
        os.chown(path, OWNER, OWNER)
    return folder


def test_what_we_made_is_given_to_the_owner(workspace: Path) -> None:
    assert ownership.hand_over(workspace, since=0) == 2
    assert {path.lstat().st_uid for path in workspace.rglob("*")} == {OWNER}


def test_links_are_never_followed(workspace: Path, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("root's")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("root's")
    (workspace / "link").symlink_to(secret)
    (workspace / "folder").symlink_to(outside)
    os.link(secret, workspace / "second-name")
    ownership.hand_over(workspace, since=0)
    assert (workspace / "link").lstat().st_uid == OWNER
    assert {path.stat().st_uid for path in (secret, outside, outside / "file")} == {0}


def test_what_was_there_before_and_what_is_others_stays(workspace: Path) -> None:
    other = workspace / "other"
    other.write_text("x")
    os.chown(other, 777, 777)
    ownership.hand_over(workspace, since=time.time() + 60)
    assert (workspace / "deep/er").stat().st_uid == 0
    ownership.hand_over(workspace, since=0)
    assert other.stat().st_uid == 777


def test_a_workspace_of_root_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert ownership.hand_over(tmp_path, since=0) == 0
    assert ownership.hand_over(tmp_path / "missing", since=0) == 0
