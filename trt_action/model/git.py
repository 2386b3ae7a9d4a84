"""One way to call Git: no shell, no prompt, no hook, no write to the work tree or the index, a time limit."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trt_action.errors import GitError
from trt_action.inputs import quote

LOCAL = 60.0
"""Seconds for a command that reads the repository."""

NETWORK = 180.0
"""Seconds for a command that may talk to a remote."""

_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GCM_INTERACTIVE": "never",
    "GIT_OPTIONAL_LOCKS": "0",  # `status` would refresh the index
    "GIT_LITERAL_PATHSPECS": "1",  # a `*` in a path is a star
    "GIT_LFS_SKIP_SMUDGE": "0",
    "LC_ALL": "C",
}
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "diff.autoRefreshIndex=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "credential.interactive=false",
)
_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_NAMESPACE")
"""Set where a hook calls us; the repository is the one that the path is in."""
_OF_THE_JOB = ("INPUT_", "ACTIONS_")
"""A token among them is not for the programs that Git starts. Credential helpers may ask for GH_TOKEN: that stays."""


@dataclass(frozen=True)
class Answer:
    """What Git said. `code` 0 is success, 127 no Git, 124 too slow."""

    code: int
    out: bytes
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def text(self) -> str:
        """stdout without its last newline."""
        return self.out.decode("utf-8", "surrogateescape").removesuffix("\n")


@dataclass(frozen=True)
class Repository:
    """The work tree that a path is in."""

    top: Path

    def run(
        self,
        *arguments: str,
        timeout: float = LOCAL,
        stdin: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
    ) -> Answer:
        """`git <arguments>` at the top of the work tree; never raises for what Git answers."""
        settings = [word for setting in (*_SETTINGS, f"safe.directory={self.top}") for word in ("-c", setting)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OF_THE_JOB)}
        env = {key: value for key, value in inherited.items() if key not in _INHERITED} | _ENVIRONMENT
        env.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
        try:
            done = subprocess.run(
                ["git", *settings, *arguments],  # noqa: S607 - the user's own git
                cwd=self.top,
                env=env,
                stdin=stdin or subprocess.DEVNULL,
                stdout=stdout or subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            return Answer(127, b"", "git is not installed")
        except subprocess.TimeoutExpired:
            return Answer(124, b"", f"no answer within {timeout:g} s")
        return Answer(done.returncode, done.stdout or b"", done.stderr.decode("utf-8", "replace").strip())

    def read(self, *arguments: str) -> str | None:
        """stdout of a command that may fail; None if it did, or printed nothing."""
        answer = self.run(*arguments)
        return answer.text or None if answer.ok else None

    def commit(self, revision: str) -> str | None:
        """The full id of a commit that is here; None if it is not. `revision` must not begin with `-`."""
        return self.read("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")

    def remote(self) -> str | None:
        """`origin`, else the only remote, else None."""
        names = (self.read("remote") or "").splitlines()
        if "origin" in names:
            return "origin"
        return names[0] if len(names) == 1 and not names[0].startswith("-") else None


def find(folder: Path) -> Repository | None:
    """The repository whose work tree holds `folder`; None outside Git or without Git."""
    resolved = folder.resolve()
    for candidate in (resolved, *resolved.parents):
        if (candidate / ".git").exists():
            repository = Repository(candidate)
            return repository if repository.run("rev-parse", "--is-inside-work-tree").text == "true" else None
    return None


def failed(what: str, answer: Answer, fix: str) -> GitError:
    """The error for a command that had to work."""
    return GitError(what, why=f"Git says: {quote(answer.err[-300:] or f'exit code {answer.code}')}.", fix=fix)
