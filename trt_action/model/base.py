"""Where is the base? A file, or a model in Git, read from the object store: work tree and index stay as they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trt_action import process
from trt_action.errors import GitError, StorageError, TrtActionError
from trt_action.evidence import Source
from trt_action.inputs import LFS_HEAD, is_lfs_pointer, quote
from trt_action.model import MAX_FILE_BYTES, git, history
from trt_action.model.git import NETWORK, Repository

LFS_TIMEOUT = 900.0
"""Seconds for the download of one Git LFS object."""


@dataclass(frozen=True)
class Base:
    """The model to compare with. `config` is the config file of the same commit, if it has one."""

    path: Path
    label: str
    commit: str | None
    config: Path | None
    note: str


@dataclass(frozen=True)
class _Entry:
    mode: str
    kind: str
    sha: str


def resolve(
    base: str, *, model: Path, config: Path | None, work_dir: Path, cwd: Path, auto: str | None = None
) -> tuple[Base | None, str]:
    """Find the base that the setting `base` means and put it on disk.

    Args:
        base: `none`; an existing file; a revision (branch, tag, commit); or `auto`: the merge-base of HEAD with the
            default branch, on the default branch itself the commit before HEAD (HEAD if the model is uncommitted).
        model: head's model in the work tree; the base is the file of the same path (or the one it was renamed from).
        config: head's config file, to find the base's.
        work_dir: gets what is read from Git, under the paths of the repository.
        cwd: where a relative `base` starts.
        auto: the revision that `auto` means here (a CI event names it); None: history decides.

    Returns:
        (the base, a note about it) or (None, why there is none).

    Raises:
        GitError: the revision is unknown, its history or a Git LFS object is missing, or the base is not a plain file.
        StorageError: `work_dir` cannot be written.
    """
    if base == "none":
        return None, "No base: the setting `base` is `none`."
    if base != "auto" and "\0" not in base and (cwd / base).is_file():
        return Base(cwd / base, base, None, None, ""), ""
    folder = model.absolute().parent
    repository = git.find(folder)
    if repository is None:
        return _outside(base)
    path = (folder.resolve() / model.name).relative_to(repository.top).as_posix()
    if base == "auto":
        chosen = _automatic(repository, auto, path)
        if chosen.commit is None:
            return None, chosen.note
        commit, note, prefix = chosen.commit, chosen.note, chosen.commit[:12]
    else:
        commit = history.named(repository, base)
        note, prefix = f"Base is {quote(base)} ({commit[:12]}).", base
    found, renamed = _find_model(repository, commit, path)
    if found is None:
        return _not_there(base, commit, path)
    if renamed:
        note += f" The model was called {quote(found)} there."
    elif not _differs(repository, commit, path):
        note += " Its model file is the same as head's."
    target = _extract_model(repository, commit, found, work_dir)
    where = _extract_config(repository, commit, config, work_dir)
    return Base(target, f"{prefix}:{found}", commit, where, note), note


def source(cwd: Path) -> Source:
    """Commit, ref, repository and dirtiness of the work tree that `cwd` is in; `Source()` outside Git."""
    repository = git.find(cwd)
    if repository is None:
        return Source()
    status = repository.run("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    remote = repository.remote()
    url = repository.read("remote", "get-url", "--", remote) if remote else None
    return Source(
        repository=_without_credentials(url)[:1_000] if url else None,
        commit=repository.commit("HEAD"),
        ref=(repository.read("symbolic-ref", "--quiet", "HEAD") or "")[:1_000] or None,
        dirty=bool(status.out.strip()) if status.ok else None,
    )


def merged_into(cwd: Path, commit: str) -> str | None:
    """The commit that `commit` was merged into, if HEAD is just that merge; else None."""
    repository = git.find(cwd)
    found = history.parents(repository, "HEAD") if repository else []
    return next((one for one in found if one != commit), None) if len(found) == 2 and commit in found else None


def _without_credentials(url: str) -> str:
    """`https://user:token@host/o/r.git?key` → `https://host/o/r`; what cannot be printed goes."""
    clean = "".join(c for c in url if c.isprintable())
    clean = re.sub(r"^([a-z][a-z0-9+.-]*://)[^/]*@", r"\1", clean, flags=re.IGNORECASE)
    return clean.partition("?")[0].removesuffix("/").removesuffix(".git")


def _automatic(repository: Repository, named: str | None, path: str) -> history.Chosen:
    """The revision that the event names; history's choice if it names none, or one that is gone (a force-push)."""
    note = ""
    if named:
        try:
            commit = history.named(repository, named)
            return history.Chosen(commit, f"Base is {commit[:12]}.")
        except GitError:
            note = f"The commit before, {named[:12]}, is no longer there. "
    chosen = history.automatic(repository, changed=_differs(repository, "HEAD", path))
    return history.Chosen(chosen.commit, note + chosen.note)


def _outside(base: str) -> tuple[None, str]:
    if base == "auto":
        return None, "No base: the model is not in a Git work tree (or Git is not installed)."
    raise GitError(
        f"The base {quote(base)} is not an existing file, and the model is not in a Git work tree.",
        why="Without Git only a path can be a base.",
        fix="Correct the path, or use `base: none`.",
    )


def _not_there(base: str, commit: str, path: str) -> tuple[None, str]:
    if base == "auto":
        return None, f"No base: {quote(path)} is not in {commit[:12]}; this is its first version."
    raise GitError(
        f"{quote(path)} is not in the base {quote(base)} ({commit[:12]}).",
        why="The model is new, or it was moved and changed too much to be recognised.",
        fix="Name a revision that has it, give the base as a path, or use `base: none`.",
    )


def _differs(repository: Repository, revision: str, path: str) -> bool:
    """Whether the file in the work tree is not the one of that revision (Git LFS included: filters are applied)."""
    return repository.run("diff", "--quiet", "--no-ext-diff", revision, "--", path, timeout=NETWORK).code == 1


def _entry(repository: Repository, commit: str, path: str) -> _Entry | None:
    """The entry of a path in a commit's tree."""
    answer = repository.run("ls-tree", "-z", "--full-tree", commit, "--", path)
    for line in answer.text.split("\0"):
        head, _, name = line.partition("\t")
        if name == path and len(head.split()) == 3:
            return _Entry(*head.split())
    return None


def _find_model(repository: Repository, commit: str, path: str) -> tuple[str | None, bool]:
    """(path in the base, whether it was renamed since)."""
    if _entry(repository, commit, path):
        return path, False
    answer = repository.run(
        "diff", "--no-ext-diff", "--name-status", "--find-renames", "-l200", "--diff-filter=R", "-z", commit, "HEAD"
    )
    fields = answer.text.split("\0")
    for kind, old, new in zip(fields[0::3], fields[1::3], fields[2::3], strict=False):
        if kind.startswith("R") and new == path and _is_inside(old):
            return old, True
    return None, False


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and not {"..", "", ".git"} & set(path.split("/"))


def _extract_model(repository: Repository, commit: str, path: str, work_dir: Path) -> Path:
    target = _extract(repository, commit, path, work_dir)
    folder = PurePosixPath(path).parent
    for location in _external_locations(target):
        data = (folder / location).as_posix()
        if _entry(repository, commit, data):  # else `model.load` says what is missing
            _extract(repository, commit, data, work_dir)
    return target


def _external_locations(model: Path) -> list[str]:
    """External data files of a model that nobody has checked: parsed in a child, and only if there can be any."""
    if model.stat().st_size > MAX_FILE_BYTES or b"location" not in model.read_bytes():
        return []
    try:
        answer = process.call("trt_action.model.examine:serve_locations", {"path": str(model)}, timeout=120)
    except TrtActionError:
        return []  # `model.load` will say why the base cannot be read
    return list(answer["locations"])


def _extract_config(repository: Repository, commit: str, config: Path | None, work_dir: Path) -> Path | None:
    if config is None:
        return None
    absolute = config.absolute().parent.resolve() / config.name
    if not absolute.is_relative_to(repository.top):
        return None
    path = absolute.relative_to(repository.top).as_posix()
    entry = _entry(repository, commit, path)
    return _extract(repository, commit, path, work_dir) if entry and entry.mode.startswith("100") else None


def _extract(repository: Repository, commit: str, path: str, work_dir: Path) -> Path:
    """Write a file of a commit to the same path under `work_dir`."""
    entry = _entry(repository, commit, path)
    if entry is None or not entry.mode.startswith("100"):
        kind = {"120000": "a symbolic link", "160000": "a submodule"}.get(entry.mode if entry else "", "not a file")
        raise GitError(
            f"{quote(path)} is {kind} in {commit[:12]}.",
            why="Only plain files are read from the base.",
            fix="Commit the model file itself, or give the base as a path.",
        )
    target = work_dir / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            answer = repository.run("cat-file", "blob", entry.sha, stdout=file, timeout=NETWORK)
    except OSError as error:
        raise StorageError(f"{quote(target)} cannot be written: {error.strerror}.") from None
    if not answer.ok:
        raise git.failed(
            f"{quote(path)} of {commit[:12]} cannot be read from Git.",
            answer,
            "Check the repository with `git fsck`, and free space with `df -h`; a partial clone needs its remote.",
        )
    return _smudge(repository, commit, path, target)


def _smudge(repository: Repository, commit: str, path: str, target: Path) -> Path:
    """Replace a Git LFS pointer by what it points to."""
    with target.open("rb") as file:
        pointer = file.read(1_024)
    if not is_lfs_pointer(pointer[: len(LFS_HEAD)]):
        return target
    found = re.search(rb"^oid sha256:([0-9a-f]{64})$", pointer, re.MULTILINE)
    shown = f"{quote(path)} of {commit[:12]} is in Git LFS (object {found[1][:12].decode() if found else 'unknown'}…)"
    if not repository.run("lfs", "version").ok:
        raise GitError(
            f"{shown}, and `git lfs` is not installed here.",
            why="Git itself holds only a pointer of 130 bytes.",
            fix="Install git-lfs (`apt-get install git-lfs`), or give the base as a path.",
        )
    complete = target.with_name(f".{target.name}.lfs")
    try:
        with target.open("rb") as file, complete.open("wb") as out:
            answer = repository.run("lfs", "smudge", "--", path, stdin=file, stdout=out, timeout=LFS_TIMEOUT)
        with complete.open("rb") as file:
            head = file.read(len(LFS_HEAD))
        if not answer.ok or is_lfs_pointer(head):
            complete.unlink()
            raise git.failed(
                f"{shown}, and the object cannot be fetched.",
                answer,
                "Check that the remote has it and that this job may read it: `git lfs fetch origin <commit>`.",
            )
        complete.replace(target)
    except OSError as error:
        raise StorageError(f"{quote(target)} cannot be written: {error.strerror}.") from None
    return target
