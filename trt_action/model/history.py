"""Which commit is the base, and is its history here? Shallow clones are deepened, within bounds, without new refs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trt_action.errors import GitError
from trt_action.inputs import quote
from trt_action.model.git import NETWORK, Repository

DEEPEN = (50, 500, 5_000)
"""Commits that a shallow clone is deepened by, step after step, until the merge-base is found."""

FIX_DEPTH = "Check out with full history: `fetch-depth: 0` at actions/checkout (`GIT_DEPTH: 0` on GitLab)."

_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True)
class Chosen:
    """A commit and, in words, why it is the base. `commit` None: there is none, and `note` says why."""

    commit: str | None
    note: str


def automatic(repository: Repository, *, changed: bool) -> Chosen:
    """The merge-base of HEAD with the default branch; on the default branch itself the commit before.

    `changed`: the model in the work tree is not the one of HEAD.

    Raises:
        GitError: the clone is shallow and the history that is needed cannot be fetched.
    """
    head = repository.commit("HEAD")
    if head is None:
        return Chosen(None, "No base: the repository has no commit yet.")
    branch, tip = default_branch(repository)
    if tip is None:
        return Chosen(
            None, "No base: the default branch is unknown (no `origin/HEAD`, `main` or `master`). Name one with `base`."
        )
    base = _merge_base(repository, head, branch, tip)
    if base is None:
        return Chosen(None, f"No base: HEAD and {quote(branch)} have no common history.")
    if base != head:
        return Chosen(base, f"Base is {base[:12]}, where HEAD left {quote(branch)}.")
    if changed:
        return Chosen(
            head, f"Base is HEAD ({head[:12]}) on {quote(branch)}; the model has changes that are not committed."
        )
    return _parent(repository, head, branch)


def named(repository: Repository, revision: str) -> str:
    """The commit that a revision names; fetched if it is not here.

    Raises:
        GitError: there is no such revision here or at the remote.
    """
    if revision.startswith("-") or not revision.isprintable() or ":" in revision or ".." in revision or not revision:
        raise GitError(
            f"{quote(revision)} is neither an existing file nor a revision of Git.",
            fix="Give `base` a path, a branch, a tag or a commit id; or `auto`, or `none`.",
        )
    commit = repository.commit(revision) or _fetch_named(repository, revision)
    if commit is None:
        raise GitError(
            f"The base {quote(revision)} is neither an existing file nor a revision of this repository.",
            why="The clone is shallow, and the remote has no such branch or tag." if is_shallow(repository) else "",
            fix=FIX_DEPTH if is_shallow(repository) else "Correct it, or fetch the branch first (`git fetch`).",
        )
    return commit


def default_branch(repository: Repository) -> tuple[str, str | None]:
    """(name, commit) of the default branch: as the remote said at the clone, else `main` or `master`, else asked."""
    remote = repository.remote()
    candidates = [f"{kind}{name}" for kind in ("refs/remotes/origin/", "refs/heads/") for name in ("main", "master")]
    if remote:
        pointer = repository.read("symbolic-ref", "--quiet", f"refs/remotes/{remote}/HEAD")
        candidates = [pointer, *candidates] if pointer else candidates
    for reference in candidates:
        if commit := repository.commit(reference):
            return reference.removeprefix("refs/remotes/").removeprefix("refs/heads/"), commit
    return _ask_remote(repository, remote) if remote else ("", None)


def _ask_remote(repository: Repository, remote: str) -> tuple[str, str | None]:
    """A clone of one commit (a pull request in CI) has no branch of the remote."""
    answer = repository.run("ls-remote", "--symref", "--", remote, "HEAD", timeout=NETWORK)
    branch = re.search(r"^ref: refs/heads/(\S+)\tHEAD$", answer.text, re.MULTILINE)
    commit = re.search(rf"^({_ID.pattern})\tHEAD$", answer.text, re.MULTILINE)
    if not answer.ok or not branch or not commit:
        return "", None
    return f"{remote}/{branch[1]}", commit[1]


def is_shallow(repository: Repository) -> bool:
    return repository.read("rev-parse", "--is-shallow-repository") == "true"


def _merge_base(repository: Repository, head: str, branch: str, tip: str) -> str | None:
    """None only if the history is complete and has no common commit."""
    if not has(repository, tip):
        _fetch(repository, tip, "--depth=1")
    if has(repository, tip) and (found := repository.read("merge-base", head, tip)):
        return found
    if has(repository, tip) and not is_shallow(repository):
        return None
    for commits in DEEPEN:
        deepened = _fetch(repository, tip, head, f"--deepen={commits}") or _fetch(
            repository, tip, f"--deepen={commits}"
        )
        if deepened and (found := repository.read("merge-base", head, tip)):
            return found
        if not deepened or not is_shallow(repository):
            break
    if is_shallow(repository) or not has(repository, tip):
        raise _missing(f"The commit where HEAD left {quote(branch)} is not in this clone.")
    return None


def _parent(repository: Repository, head: str, branch: str) -> Chosen:
    before = parents(repository, head)
    if not before:
        return Chosen(None, f"No base: HEAD is the first commit of {quote(branch)}.")
    if not has(repository, before[0]) and not _fetch(repository, before[0], "--depth=1"):
        raise _missing(f"The commit before HEAD ({before[0][:12]}) is not in this clone.")
    return Chosen(before[0], f"Base is {before[0][:12]}, the commit before HEAD on {quote(branch)}.")


def parents(repository: Repository, commit: str) -> list[str]:
    """The parents of a commit, by the commit object itself: a shallow clone hides them from `HEAD^`."""
    header = (repository.read("cat-file", "commit", commit) or "").partition("\n\n")[0]
    return re.findall(rf"^parent ({_ID.pattern})$", header, re.MULTILINE)


def has(repository: Repository, commit: str) -> bool:
    return repository.run("cat-file", "-e", f"{commit}^{{commit}}").ok


def _fetch(repository: Repository, *wanted: str) -> bool:
    """Fetch objects only: no ref, no tag, no FETCH_HEAD."""
    remote = repository.remote()
    if remote is None:
        return False
    options = [word for word in wanted if word.startswith("--")]
    commits = [word for word in wanted if not word.startswith("--")]
    return repository.run(
        "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", *options, "--", remote, *commits, timeout=NETWORK
    ).ok


def _fetch_named(repository: Repository, revision: str) -> str | None:
    remote = repository.remote()
    if remote is None:
        return None
    if _ID.fullmatch(revision):
        return revision if _fetch(repository, revision, "--depth=1") and has(repository, revision) else None
    name = revision.removeprefix(f"{remote}/").removeprefix("refs/heads/")
    references = [f"refs/heads/{name}", f"refs/tags/{name}^{{}}", f"refs/tags/{name}"]
    answer = repository.run("ls-remote", "--", remote, *references, timeout=NETWORK)
    found = {line.partition("\t")[2]: line.partition("\t")[0] for line in answer.text.splitlines()}
    for reference in references:
        commit = found.get(reference, "")
        if _ID.fullmatch(commit) and _fetch(repository, commit, "--depth=1") and has(repository, commit):
            return commit
    return None


def _missing(what: str) -> GitError:
    return GitError(
        what,
        why="The clone is shallow, and the missing history could not be fetched (no remote, or it refused).",
        fix=FIX_DEPTH,
    )
