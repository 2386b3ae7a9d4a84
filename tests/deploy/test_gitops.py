"""The bump on real Git repositories: a bare remote, a checkout, and others who push at the same time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.conftest import NEW, OLD
from trt_action import cli
from trt_action.deploy import gitops
from trt_action.deploy.bump import Wish
from trt_action.errors import GitError
from trt_action.publish.reference import Reference

FILE = "apps/detector/deployment.yaml"
CONTENT = f"# kept: é\r\nimage: {OLD} # bumped\r\nname: x\r\n".encode()
WISH = Wish(Reference.parse(NEW), ("image",))


def git(folder: Path, *arguments: str) -> str:
    words = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repository with one file on `main`, which would be rewritten by an attribute and a hook."""
    bare, seed = tmp_path / "remote.git", tmp_path / "seed"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(bare))
    git(tmp_path, "init", "-q", "-b", "main", str(seed))
    (seed / FILE).parent.mkdir(parents=True)
    (seed / FILE).write_bytes(CONTENT)
    (seed / "other.txt").write_text("other\n")
    git(seed, "add", ".")
    (seed / ".gitattributes").write_text("*.yaml text eol=lf\n")
    git(seed, "add", ".gitattributes")
    git(seed, "commit", "-qm", "first")
    git(seed, "push", "-q", str(bare), "main")
    return bare


@pytest.fixture
def checkout(remote: Path, tmp_path: Path) -> Path:
    """As actions/checkout leaves it: shallow; with local changes and a hook that nobody may run."""
    folder = tmp_path / "checkout"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{remote}", str(folder))
    (folder / "other.txt").write_text("not committed\n")
    hook = folder / ".git/hooks/pre-push"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    return folder


def content(remote: Path, branch: str = "main") -> bytes:
    return subprocess.run(
        ["git", "-C", str(remote), "show", f"{branch}:{FILE}"], check=True, capture_output=True
    ).stdout


def bump(checkout: Path, **changes: object) -> gitops.Pushed:
    values = {"base": None, "branch": None, "message": gitops.message(WISH.image, commit="4f2a", link="https://x/1")}
    return gitops.bump(checkout / FILE, WISH, **values | changes)  # type: ignore[arg-type]


def test_a_commit_on_top(remote: Path, checkout: Path) -> None:
    stored = content(remote)
    before = git(checkout, "status", "--porcelain"), git(checkout, "rev-parse", "HEAD"), (checkout / FILE).read_bytes()
    done = bump(checkout)
    assert content(remote) == stored.replace(OLD.encode(), NEW.encode())
    assert git(remote, "rev-parse", "main") == done.commit
    assert git(remote, "rev-list", "--count", "main") == "2"
    assert git(remote, "diff", "--stat", "main~1", "main").splitlines()[0].strip().startswith(FILE)
    assert git(remote, "diff", "--name-only", "main~1", "main") == FILE
    message = git(remote, "log", "-1", "--format=%an <%ae>%n%B", "main")
    assert message.startswith("trt-action <trt-action@users.noreply.github.com>\nDeploy acme/detector at sha256:bbbb")
    assert f"Image: {NEW}\nBuilt-from: 4f2a\nEvidence: https://x/1" in message
    after = git(checkout, "status", "--porcelain"), git(checkout, "rev-parse", "HEAD"), (checkout / FILE).read_bytes()
    assert after == before
    assert git(checkout, "for-each-ref", "refs/trt-action") == ""


def test_again_is_no_commit(remote: Path, checkout: Path) -> None:
    bump(checkout)
    assert bump(checkout).commit == ""
    assert git(remote, "rev-list", "--count", "main") == "2"


def test_others_are_faster(remote: Path, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the first three pushes finds a commit of somebody else's, which stays."""
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(remote), str(other))
    committed = gitops._committed
    left = [1, 2, 3]

    def race(*arguments: object) -> str:
        if left:
            (other / "other.txt").write_text(f"{left.pop()}\n")
            git(other, "commit", "-qam", "other")
            git(other, "push", "-q")
        return committed(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gitops, "_committed", race)
    log: list[str] = []
    done = bump(checkout, log=log.append)
    assert done.attempts == 4
    assert len(log) == 3
    assert git(remote, "show", "main:other.txt") == "1"
    assert NEW.encode() in content(remote)
    assert git(remote, "rev-list", "--count", "main") == "5"


def test_a_branch_for_a_pull_request(remote: Path, checkout: Path) -> None:
    first = bump(checkout, branch="trt-action/detector-bbbb")
    assert OLD.encode() in content(remote)
    assert NEW.encode() in content(remote, "trt-action/detector-bbbb")
    again = bump(checkout, branch="trt-action/detector-bbbb")
    assert (first.base, again.branch) == ("main", "trt-action/detector-bbbb")
    assert git(remote, "rev-list", "--count", "trt-action/detector-bbbb") == "2"


def test_somebody_elses_branch_is_not_made_anew(remote: Path, checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(remote), str(other))
    (other / "other.txt").write_text("work of weeks\n")
    git(other, "commit", "-qam", "theirs")
    git(other, "push", "-q", "origin", "HEAD:develop")
    with pytest.raises(GitError, match="its last commit is not ours"):
        bump(checkout, branch="develop")
    assert git(remote, "show", "develop:other.txt") == "work of weeks"
    assert git(checkout, "for-each-ref", "refs/trt-action") == ""


def test_a_protected_branch(remote: Path, checkout: Path) -> None:
    hook = remote / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'protected branch \x1b[31m' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(GitError) as caught:
        bump(checkout)
    assert "did not take the commit" in caught.value.what
    assert "`--new-branch`" in caught.value.fix
    assert "\x1b" not in caught.value.why
    assert content(remote).count(OLD.encode()) == 1


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("apps/none.yaml", {}, "is no regular file on the branch"),
        (FILE, {"base": "nowhere"}, "cannot be fetched"),
        (FILE, {"base": "--upload-pack=x"}, "no name of a branch"),
        (FILE, {"branch": "a..b"}, "no name of a branch"),
    ],
)
def test_refusals(file: str, changes: dict[str, str], words: str, checkout: Path) -> None:
    with pytest.raises(GitError) as caught:
        gitops.bump(checkout / file, WISH, **{"base": None, "branch": None, "message": "x", **changes})  # type: ignore[arg-type]
    assert words in caught.value.what


def test_a_link_is_not_followed(remote: Path, checkout: Path) -> None:
    (checkout / "link.yaml").symlink_to("/etc/passwd")
    git(checkout, "add", "link.yaml")
    git(checkout, "commit", "-qm", "link")
    git(checkout, "push", "-q", "--no-verify")
    with pytest.raises(GitError) as caught:
        gitops.bump(checkout / "link.yaml", WISH, base=None, branch=None, message="x")
    assert "is no regular file" in caught.value.what


def test_by_the_command_line(
    remote: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    where = ("--path", "image", "--image", NEW)
    assert cli.main(["bump", FILE, *where]) == 0
    assert (checkout / FILE).read_bytes() == content(remote).replace(OLD.encode(), NEW.encode())
    assert cli.main(["bump", FILE, *where]) == 0
    assert "already" in capsys.readouterr().out
    assert cli.main(["bump", FILE, *where, "--push", "--link", "https://x/2"]) == 0
    assert "https://x/2" in git(remote, "log", "-1", "--format=%B", "main")
    assert cli.main(["bump", FILE, *where, "--push"]) == 0
    assert "already" in capsys.readouterr().out
    assert cli.main(["bump", FILE, "--path", "image", "--image", "ghcr.io/acme/detector:v1"]) == 2
    assert cli.main(["bump", FILE, "--image", NEW]) == 2
    assert cli.main(["bump", FILE, *where, "--branch", "x"]) == 2
