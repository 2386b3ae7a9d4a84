"""A changed file goes to a branch: read there, changed, committed on top, pushed; from the start where somebody was faster.

The checkout is only asked for its remote and its login: no file of it, no index and no branch is touched. The commit is
made of Git's own parts (blob, trees, commit), so that no filter, hook or line-end rule changes a byte.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trt_action.deploy import bump as bumping
from trt_action.deploy.bump import Wish
from trt_action.errors import DeployError, GitError
from trt_action.inputs import quote
from trt_action.model import git
from trt_action.model.git import NETWORK, Answer, Repository
from trt_action.publish.reference import Reference

ATTEMPTS = 8
HELD, HELD_OWN = "refs/trt-action/bump", "refs/trt-action/bump-own"
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,200}")
_RACE = (
    "fetch first",
    "non-fast-forward",
    "cannot lock ref",
    "failed to update ref",
    "stale info",
    "incorrect old value",
)
REGULAR = ("100644", "100755")
_OWN_BRANCH = "a branch of its own (`--new-branch`; action: `deploy-bump-pull-request: true`)"


@dataclass(frozen=True)
class Commit:
    """What is committed. `base`: the branch that is read; `branch`: the one that is pushed to."""

    file: str
    base: str
    branch: str
    message: str
    author: str = "trt-action"
    email: str = "trt-action@users.noreply.github.com"


@dataclass(frozen=True)
class Pushed:
    """`commit` is empty where the file was already as wanted."""

    commit: str
    base: str
    branch: str
    attempts: int


def bump(
    file: Path,
    wish: Wish,
    *,
    base: str | None,
    branch: str | None,
    message: str,
    log: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Set an image in a file of the repository that `file` is in, on its remote.

    Args:
        base: the branch; None: the one that is checked out. `branch`: another one that is pushed to, on top of it.

    Raises:
        GitError, DeployError: see `push`.
        SettingsError: see `bumping.bump`.
    """
    absolute = file.absolute()
    repository = git.find(absolute.parent)
    if repository is None:
        raise GitError(
            f"{quote(file)} is in no Git repository.", fix="Check the GitOps repository out, and name the file in it."
        )
    base = base or repository.read("symbolic-ref", "--quiet", "--short", "HEAD")
    if base is None:
        raise GitError("No branch is checked out, so none can be pushed to.", fix="Name it: `--branch main`.")
    folder = absolute.parent.resolve().relative_to(repository.top.resolve())
    place = (folder / absolute.name).as_posix()
    wanted = Commit(place, base, branch or base, message)
    return push(repository, wanted, lambda content: bumping.bump(content, wish, place), log)


def message(image: Reference, *, commit: str = "", link: str = "") -> str:
    """What a commit says: the image, what it was built from, and where it was measured."""
    lines = [f"Deploy {image.repository} at {str(image.digest)[:19]}", "", f"Image: {image}"]
    lines += [f"Built-from: {commit}"] if commit else []
    lines += [f"Evidence: {link}"] if link else []
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines) + "\n"


def push(
    repository: Repository,
    wanted: Commit,
    change: Callable[[bytes], bytes],
    log: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Change `file` on a branch of the remote. A branch other than `base` is made, or made anew on top of `base` if its
    last commit is ours.

    Raises:
        GitError: no remote, no branch, no file, somebody else's commit would be lost, or the remote refuses.
        DeployError: others were faster again and again.
        SettingsError: what `change` raises.
    """
    remote = repository.remote()
    if remote is None:
        raise GitError("The repository has no remote to push to.", fix="`git remote add origin URL`.")
    for name in (wanted.base, wanted.branch):
        if not _REF.fullmatch(name) or ".." in name or name.endswith((".lock", "/", ".")):
            raise GitError(f"{quote(name)} is no name of a branch.", fix="Name one with `--branch`.")
    try:
        for attempt in range(1, ATTEMPTS + 1):
            tip = _fetched(repository, remote, wanted.base)
            before = _blob(repository, tip, wanted.file)
            after = change(before[1])
            if after == before[1]:
                return Pushed("", wanted.base, wanted.base, attempt)
            old = _replaced(repository, remote, wanted) if wanted.branch != wanted.base else None
            commit = _committed(repository, tip, wanted, before[0], after)
            refused = _sent(repository, remote, commit, wanted, old)
            if refused is None:
                return Pushed(commit, wanted.base, wanted.branch, attempt)
            log(f"Somebody else was faster ({refused}): {wanted.base} is read again.")
    finally:
        for name in (HELD, HELD_OWN):
            repository.run("update-ref", "-d", name)
    raise DeployError(
        f"The branch {quote(wanted.branch)} was changed by others {ATTEMPTS} times while we tried to push.",
        fix=f"Run it again, or give the change {_OWN_BRANCH}.",
    )


def _replaced(repository: Repository, remote: str, wanted: Commit) -> str:
    """The last commit of the branch that is made anew; empty: there is none."""
    listed = repository.run("ls-remote", remote, f"refs/heads/{wanted.branch}", timeout=NETWORK)
    if listed.ok and not listed.text:
        return ""
    tip = _fetched(repository, remote, wanted.branch, HELD_OWN)
    if _must(repository.run("show", "--no-patch", "--format=%ae", tip)) != wanted.email:
        raise GitError(
            f"The branch {quote(wanted.branch)} is there already, and its last commit is not ours.",
            why="It would be made anew, and that commit would be lost.",
            fix="Name a branch that is not there yet, or merge or delete that one.",
        )
    return tip


def _fetched(repository: Repository, remote: str, branch: str, held: str = HELD) -> str:
    answer = repository.run(
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        remote,
        f"+refs/heads/{branch}:{held}",
        timeout=NETWORK,
    )
    tip = repository.commit(held) if answer.ok else None
    if tip is None:
        raise git.failed(
            f"The branch {quote(branch)} of {quote(remote)} cannot be fetched.",
            answer,
            "Check the branch's name, and that the token may read (in a workflow: `contents: write`).",
        )
    return tip


def _blob(repository: Repository, tip: str, file: str) -> tuple[str, bytes]:
    """(mode, content) of a file of a commit."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise GitError(f"{quote(file)} is no path inside the repository.", fix="Write it from the repository's top.")
    listed = repository.run("ls-tree", "-z", tip, "--", str(path))
    mode, kind, rest = ([*listed.text.rstrip("\0").split(" ", 2), "", ""])[:3] if listed.text else ("", "", "")
    if kind != "blob" or mode not in REGULAR:
        raise GitError(
            f"{quote(file)} is no regular file on the branch.",
            why="It is a link or a submodule." if kind else "It is not there.",
            fix="Name a file that is committed there.",
        )
    content = repository.run("cat-file", "blob", rest.partition("\t")[0])
    if not content.ok:
        raise git.failed(f"{quote(file)} cannot be read from the branch.", content, "Try `git fetch`.")
    return mode, content.out


def _committed(repository: Repository, tip: str, wanted: Commit, mode: str, content: bytes) -> str:
    blob = _must(_stored(repository, content, "hash-object", "-w", "--stdin"))
    parts = PurePosixPath(wanted.file).parts
    tree = _tree(repository, f"{tip}^{{tree}}", parts, f"{mode} blob {blob}")
    who = ("-c", f"user.name={wanted.author}", "-c", f"user.email={wanted.email}", "-c", "commit.gpgSign=false")
    made = repository.run(*who, "commit-tree", tree, "-p", tip, "-m", wanted.message)
    return _must(made)


def _tree(repository: Repository, tree: str, parts: Sequence[str], leaf: str) -> str:
    """A tree with one entry replaced, folder by folder. Returns its id."""
    entries = _must(repository.run("ls-tree", "-z", tree)).split("\0")
    name = parts[0]
    kept = [one for one in entries if one and one.partition("\t")[2] != name]
    if len(parts) > 1:
        inner = next(one for one in entries if one.partition("\t")[2] == name).partition("\t")[0].split(" ")[2]
        leaf = f"040000 tree {_tree(repository, inner, parts[1:], leaf)}"
    text = "".join(f"{one}\0" for one in [*kept, f"{leaf}\t{name}"])
    return _must(_stored(repository, text.encode("utf-8", "surrogateescape"), "mktree", "-z"))


def _stored(repository: Repository, content: bytes, *arguments: str) -> Answer:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0, io.SEEK_SET)
        return repository.run(*arguments, stdin=file)


def _must(answer: Answer) -> str:
    if not answer.ok:
        raise git.failed("Git could not make the commit.", answer, "Check the disk, and the repository (`git fsck`).")
    return answer.text


def _sent(repository: Repository, remote: str, commit: str, wanted: Commit, old: str | None) -> str | None:
    """Push; `old`: what it replaces (empty: nothing), None: nothing may be lost. None: it is there; a text: somebody else
    was faster."""
    target = f"refs/heads/{wanted.branch}"
    lease = () if old is None else (f"--force-with-lease={target}:{old}",)
    answer = repository.run("push", "--porcelain", "--no-verify", *lease, remote, f"{commit}:{target}", timeout=NETWORK)
    if answer.ok:
        return None
    said = f"{answer.text} {answer.err}"
    race = next((word for word in _RACE if word in said), None)
    if race is not None:
        return race
    raise git.failed(
        f"The remote {quote(remote)} did not take the commit for the branch {quote(wanted.branch)}.",
        Answer(answer.code, b"", answer.err or answer.text),
        "Check the token's rights (in a workflow: `contents: write`); a protected branch takes pull requests only: give "
        f"the change {_OWN_BRANCH}.",
    )
