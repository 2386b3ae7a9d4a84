"""Real repositories; the work tree and the index must be as they were."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from trt_action import model as models
from trt_action.errors import GitError
from trt_action.evidence import Source
from trt_action.model import base as bases
from trt_action.model import git

Build = Callable[..., onnx.ModelProto]


@pytest.fixture(autouse=True)
def _git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git without this machine's configuration."""
    config = tmp_path / "gitconfig"
    config.write_text(
        "[user]\n name = t\n email = t@example.com\n[init]\n defaultBranch = main\n[commit]\n gpgsign = false\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


class Repo:
    """A work tree with a model of several versions."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.model = top / "models/net.onnx"
        self.config = top / ".trt-action.yml"
        top.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.top, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def write(self, content: bytes, path: str = "models/net.onnx") -> None:
        target = self.top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def commit(self, content: bytes | None = None, path: str = "models/net.onnx") -> str:
        if content is not None:
            self.write(content, path)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "c")
        return self.git("rev-parse", "HEAD")

    def resolve(self, base: str = "auto", auto: str | None = None) -> tuple[bases.Base | None, str]:
        """`resolve`, which must not change anything in the work tree or the index."""
        before = self._state()
        try:
            return bases.resolve(
                base, model=self.model, config=self.config, work_dir=self.top.parent / "work", cwd=self.top, auto=auto
            )
        finally:
            assert self._state() == before

    def _state(self) -> object:
        index = self.top / ".git/index"
        files = sorted(p for p in self.top.rglob("*") if ".git" not in p.parts)
        return (
            [(str(p), p.lstat().st_mtime_ns, p.lstat().st_ino) for p in files],
            index.read_bytes() if index.exists() else b"",
            index.stat().st_mtime_ns if index.exists() else 0,
            self.git("for-each-ref"),
            self.git("--no-optional-locks", "status", "--porcelain"),
        )


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


def feature(repo: Repo) -> tuple[str, str]:
    """main: one, two; feature from one: three, four. Returns the commits of one and four."""
    fork = repo.commit(b"one")
    repo.git("checkout", "--quiet", "-b", "feature")
    repo.commit(b"three")
    head = repo.commit(b"four")
    repo.git("checkout", "--quiet", "main")
    repo.commit(b"two")
    repo.git("checkout", "--quiet", "feature")
    return fork, head


def test_none_and_a_path(repo: Repo) -> None:
    repo.commit(b"one")
    assert repo.resolve("none") == (None, "No base: the setting `base` is `none`.")
    found, _ = repo.resolve("models/net.onnx")
    assert found == bases.Base(repo.model, "models/net.onnx", None, None, "")


def test_merge_base(repo: Repo) -> None:
    fork, _ = feature(repo)
    found, note = repo.resolve()
    assert found
    assert found.path.read_bytes() == b"one"
    assert found.path.name == "net.onnx"
    assert found.commit == fork
    assert found.label == f"{fork[:12]}:models/net.onnx"
    assert found.note == note == f"Base is {fork[:12]}, where HEAD left `main`."
    assert found.config is None


def test_auto_as_an_event_names_it(repo: Repo) -> None:
    before = repo.commit(b"zero", "other.txt")
    one = repo.commit(b"one")
    repo.commit(b"two")
    found, note = repo.resolve(auto=one)
    assert found
    assert (found.path.read_bytes(), found.label) == (b"one", f"{one[:12]}:models/net.onnx")
    assert note == f"Base is {one[:12]}."
    found, note = repo.resolve(auto=before)
    assert found is None, "a model that is new in a pull request is no error"
    assert "first version" in note
    gone, note = repo.resolve(auto="d" * 40)
    assert gone, "after a force-push the commit before may be gone: history decides"
    assert "no longer there" in note
    found, _ = repo.resolve("HEAD", auto=one)
    assert found
    assert found.label.startswith("HEAD:"), "what the user names comes first"


def test_a_dirty_work_tree_stays_dirty(repo: Repo) -> None:
    feature(repo)
    repo.write(b"not committed")
    repo.write(b"staged", "staged.txt")
    repo.git("add", "staged.txt")
    os.utime(repo.top / "models/net.onnx", ns=(1, 1))  # the index is stale: git would like to refresh it
    found, _ = repo.resolve()
    assert found
    assert found.path.read_bytes() == b"one"
    assert repo.model.read_bytes() == b"not committed"


def test_the_default_branch_itself(repo: Repo) -> None:
    assert repo.resolve() == (None, "No base: the repository has no commit yet.")
    first = repo.commit(b"one")
    assert repo.resolve() == (None, "No base: HEAD is the first commit of `main`.")
    second = repo.commit(b"two")
    found, note = repo.resolve()
    assert found
    assert (found.commit, found.path.read_bytes()) == (first, b"one")
    assert "the commit before HEAD" in note
    repo.write(b"three, not committed")
    found, note = repo.resolve()
    assert found
    assert (found.commit, found.path.read_bytes()) == (second, b"two")
    assert "not committed" in note


def test_unchanged_model_is_compared_and_noted(repo: Repo) -> None:
    repo.commit(b"one")
    repo.commit(b"text", "README.md")
    found, note = repo.resolve()
    assert found
    assert note.endswith("Its model file is the same as head's.")


def test_new_and_renamed_models(repo: Repo) -> None:
    repo.commit(b"text", "README.md")
    repo.git("checkout", "--quiet", "-b", "feature")
    repo.commit(b"one")
    found, note = repo.resolve()
    assert found is None
    assert "this is its first version" in note
    with pytest.raises(GitError, match="is not in the base `main`"):
        repo.resolve("main")
    repo.git("checkout", "--quiet", "-b", "next", "main")
    repo.commit(b"0123456789\n" * 50, "old/name.onnx")
    repo.git("branch", "--force", "main")
    (repo.top / "models").mkdir(exist_ok=True)
    repo.git("mv", "old/name.onnx", "models/net.onnx")
    repo.commit()
    found, note = repo.resolve()
    assert found
    assert found.path.read_bytes() == b"0123456789\n" * 50
    assert "was called `old/name.onnx` there" in note


def test_revisions(repo: Repo) -> None:
    fork, head = feature(repo)
    repo.git("tag", "-a", "v1", "-m", "v1", fork)
    for revision in (fork, fork[:9], "v1", "main~1", "feature~2", "refs/heads/feature~2"):
        found, _ = repo.resolve(revision)
        assert found
        assert (found.commit, found.path.read_bytes()) == (fork, b"one")
        assert found.label == f"{revision}:models/net.onnx"
    assert repo.git("rev-parse", "HEAD") == head


@pytest.mark.parametrize(
    "revision", ["nope", "-h", "--output=x", "main..feature", "main:models", "", "a\nb", "a\0b", "0" * 40]
)
def test_unknown_and_hostile_revisions(repo: Repo, revision: str) -> None:
    feature(repo)
    with pytest.raises(GitError) as caught:
        repo.resolve(revision)
    assert caught.value.fix
    assert not (repo.top / "x").exists()


def test_config_of_the_base(repo: Repo) -> None:
    repo.write(b"precision: fp32\n", ".trt-action.yml")
    repo.commit(b"one")
    repo.commit(b"precision: int8\n", ".trt-action.yml")
    found, _ = repo.resolve()
    assert found
    assert found.config
    assert found.config.read_bytes() == b"precision: fp32\n"
    assert found.path.relative_to(found.config.parent) == Path("models/net.onnx")


def test_external_data_come_along(repo: Repo, build: Build) -> None:
    weight = TensorProto(name="w", dims=[4, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="data/w.bin")
    repo.write(bytes(48), "models/data/w.bin")
    repo.write(b"unrelated", "models/other.bin")
    repo.commit(build(weight=weight).SerializeToString())
    repo.git("rm", "-r", "--quiet", "models")
    repo.commit(build().SerializeToString())
    found, _ = repo.resolve()
    assert found
    assert models.load(found.path, label="base").info.parameters == 12
    assert not (found.path.parent / "other.bin").exists()


def test_links_and_submodules_are_refused(repo: Repo) -> None:
    repo.model.parent.mkdir()
    repo.model.symlink_to("/etc/passwd")
    repo.commit()
    repo.model.unlink()
    repo.commit(b"two")
    with pytest.raises(GitError, match="is a symbolic link"):
        repo.resolve()
    commit = repo.git("rev-parse", "HEAD")
    repo.git("update-index", "--cacheinfo", f"160000,{commit},models/net.onnx")
    repo.git("commit", "--quiet", "-m", "submodule")
    with pytest.raises(GitError, match="is a submodule"):
        repo.resolve("HEAD")


def test_no_hook_and_no_monitor_runs(repo: Repo, tmp_path: Path) -> None:
    feature(repo)
    script = f"#!/bin/sh\ntouch {tmp_path}/ran\n"
    for name in ("post-checkout", "post-index-change", "reference-transaction", "query-watchman"):
        hook = repo.top / ".git/hooks" / name
        hook.write_text(script)
        hook.chmod(0o755)
    (tmp_path / "ran").unlink(missing_ok=True)
    repo.git("-c", "core.hooksPath=/dev/null", "config", "core.fsmonitor", str(repo.top / ".git/hooks/query-watchman"))
    bases.resolve("auto", model=repo.model, config=None, work_dir=tmp_path / "work", cwd=repo.top)
    bases.source(repo.top)
    assert not (tmp_path / "ran").exists()


def test_what_git_starts_gets_no_input_of_the_job(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPUT_GITHUB-TOKEN", "canary")
    monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", "canary")
    found = git.find(repo.top)
    assert found
    answer = found.run("-c", "alias.show-environment=!env", "show-environment")
    assert answer.ok
    assert "canary" not in answer.text


def test_outside_git(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(b"one")
    arguments = {"model": model, "config": None, "work_dir": tmp_path / "work", "cwd": tmp_path}
    found, note = bases.resolve("auto", **arguments)  # type: ignore[arg-type]
    assert found is None
    assert "not in a Git work tree" in note
    with pytest.raises(GitError, match="not in a Git work tree"):
        bases.resolve("main", **arguments)  # type: ignore[arg-type]
    assert bases.source(tmp_path) == Source()


def test_a_repository_of_somebody_else(repo: Repo) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    feature(repo)
    for path in (repo.top, repo.top / ".git"):
        os.chown(path, 1234, 1234)
    found, _ = bases.resolve("auto", model=repo.model, config=None, work_dir=repo.top.parent / "work", cwd=repo.top)
    assert found


def test_source(repo: Repo) -> None:
    head = repo.commit(b"one")
    assert bases.source(repo.top) == Source(commit=head, ref="refs/heads/main", dirty=False)
    repo.write(b"two")
    repo.git("remote", "add", "origin", "https://me:secret@example.com/o/r.git")
    assert bases.source(repo.model.parent) == Source(
        commit=head, ref="refs/heads/main", dirty=True, repository="https://example.com/o/r"
    )


# Clones that do not have everything ----------------------------------------------------------------------------


def clone(repo: Repo, *options: str) -> Repo:
    target = repo.top.parent / "clone"
    repo.git("clone", "--quiet", *options, f"file://{repo.top}", str(target))
    return Repo(target)


def long_history(repo: Repo) -> str:
    """Both branches go on for many commits after the fork. Returns the fork."""
    fork = repo.commit(b"one")
    tree = repo.git("rev-parse", "HEAD^{tree}")
    for branch in ("main", "feature"):
        commit = fork
        for _ in range(70):
            commit = repo.git("commit-tree", tree, "-p", commit, "-m", branch)
        repo.git("update-ref", f"refs/heads/{branch}", commit)
    repo.git("checkout", "--quiet", "--force", "feature")
    repo.commit(b"four")
    repo.git("checkout", "--quiet", "main")
    return fork


def test_shallow_clone_is_deepened(repo: Repo) -> None:
    fork = long_history(repo)
    shallow = clone(repo, "--depth=1", "--branch=feature")
    found, _ = shallow.resolve()
    assert found
    assert (found.commit, found.path.read_bytes()) == (fork, b"one")


def test_checkout_of_a_pull_request(repo: Repo) -> None:
    """As actions/checkout does it: one commit, the merge of the pull request, and no branch."""
    feature(repo)
    repo.git("checkout", "--quiet", "-b", "merged", "main")
    subprocess.run(["git", "merge", "--quiet", "-Xtheirs", "-m", "m", "feature"], cwd=repo.top, check=True)
    repo.git("update-ref", "refs/pull/1/merge", "merged")
    repo.git("checkout", "--quiet", "main")
    repo.git("branch", "--quiet", "-D", "merged", "feature")
    head = Repo(repo.top.parent / "clone")
    head.git("remote", "add", "origin", f"file://{repo.top}")
    head.git("fetch", "--quiet", "--depth=1", "origin", "+refs/pull/1/merge:refs/remotes/pull/1/merge")
    head.git("checkout", "--quiet", "--detach", "refs/remotes/pull/1/merge")
    assert head.model.read_bytes() == b"four"
    found, note = head.resolve()
    assert found
    assert found.path.read_bytes() == b"two"
    assert "`origin/main`" in note


def test_shallow_default_branch_and_revisions(repo: Repo) -> None:
    first = repo.commit(b"one")
    repo.commit(b"two")
    repo.git("branch", "release/1", first)
    repo.git("tag", "-a", "v1", "-m", "v1", first)
    for revision in ("auto", "v1", "release/1", "origin/release/1", first):
        shallow = clone(repo, "--depth=1", "--no-tags")
        found, _ = shallow.resolve(revision)
        assert found
        assert (found.commit, found.path.read_bytes()) == (first, b"one")
        shutil.rmtree(shallow.top)


def test_history_that_cannot_be_had(repo: Repo) -> None:
    long_history(repo)
    shallow = clone(repo, "--depth=1", "--branch=feature", "--no-single-branch")
    shallow.git("remote", "remove", "origin")
    shallow.git("branch", "main", shallow.git("rev-parse", "HEAD"))
    shallow.git("commit", "--quiet", "--allow-empty", "-m", "unrelated")
    shallow.git("checkout", "--quiet", "main")
    with pytest.raises(GitError) as caught:
        shallow.resolve()
    assert "fetch-depth: 0" in caught.value.fix
    with pytest.raises(GitError) as caught:
        shallow.resolve("v7")
    assert "fetch-depth: 0" in caught.value.fix


# Git LFS -------------------------------------------------------------------------------------------------------


def test_lfs_pointer_without_git_lfs(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 5\n")
    repo.commit(b"two")
    only_git = repo.top.parent / "bin"
    only_git.mkdir()
    (only_git / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(only_git))
    monkeypatch.setenv("GIT_EXEC_PATH", str(only_git))
    with pytest.raises(GitError) as caught:
        repo.resolve()
    assert "in Git LFS (object abababababab…), and `git lfs` is not installed" in caught.value.what


def needs_lfs() -> None:
    if shutil.which("git-lfs") is None:
        pytest.skip("git-lfs is not installed (apt-get install git-lfs)")


def test_lfs_objects_are_smudged(repo: Repo) -> None:
    needs_lfs()
    repo.git("lfs", "install", "--local")
    repo.git("lfs", "track", "*.onnx")
    repo.commit(b"one" * 100)
    repo.commit(b"two" * 100)
    assert b"git-lfs" in subprocess.check_output(["git", "show", "HEAD:models/net.onnx"], cwd=repo.top)
    found, _ = repo.resolve()
    assert found
    assert found.path.read_bytes() == b"one" * 100


def test_lfs_object_that_is_nowhere(repo: Repo) -> None:
    needs_lfs()
    repo.git("lfs", "install", "--local")
    repo.git("lfs", "track", "*.onnx")
    repo.commit(b"one")
    repo.commit(b"two")
    shutil.rmtree(repo.top / ".git/lfs/objects")
    with pytest.raises(GitError, match="cannot be fetched"):
        repo.resolve()
