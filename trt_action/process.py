"""One way to run a child process.

Children are fresh Python interpreters (never forks: a fork shares the address layout, which alone is worth about
1 % of latency). Parent and child exchange JSON lines over two dedicated pipes, so that whatever a library prints
on stdout or stderr cannot break the protocol. A child dies with its parent.

A *target* is `package.module:function`; the function takes a `Channel` and serves it until `receive` returns None.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

from trt_action import errors

Message = dict[str, Any]
Progress = Callable[[str, float | None], None]
"""Called with a short text and, where it is known, the finished share in [0, 1]."""

STDERR_TAIL = 4_000

GRACE = 2.0
"""Seconds that a child may take to end when it is asked to."""

DYING = 10.0
"""Seconds that a child may take to end after it has closed its pipe."""

_OF_THE_JOB = re.compile(
    r"INPUT_.*|ACTIONS_.*|GITHUB_(ENV|OUTPUT|PATH|STATE|STEP_SUMMARY)|(GITHUB|GH)_(ENTERPRISE_)?TOKEN"
    r"|GIT_CONFIG_(COUNT|KEY_\d+|VALUE_\d+|PARAMETERS)"
    r"|CI_.*(TOKEN|PASSWORD|JWT).*|CI_REPOSITORY_URL|(TRT_ACTION_)?GITLAB_TOKEN|SIGSTORE_ID_TOKEN"
    r"|SIGN_KEY.*|COSIGN_(PASSWORD|PRIVATE_KEY)|KUBE_TOKEN|PROMETHEUS_TOKEN|TRT_ACTION_.*(TOKEN|PASSWORD|KEY).*"
    r"|DOCKER_AUTH_CONFIG|.*REGISTRY.*(TOKEN|PASSWORD|AUTH).*"
    r"|MLFLOW_TRACKING_(USERNAME|PASSWORD|TOKEN)",
    re.IGNORECASE,
)
"""Variables of GitHub's and GitLab's runners that grant something, logins (registries, MLflow), what our commands take from
the environment (keys to sign with, tokens of a cluster), and what was lent to Git."""


NOBODY = 65_534
"""The group of a child with a `user` of its own: it opens no door, Docker's socket included."""

STOPS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class Channel:
    """The child's end of the two pipes."""

    def __init__(self, inbox: IO[str], outbox: IO[str]) -> None:
        self._inbox = inbox
        self._outbox = outbox

    def receive(self) -> Message | None:
        """The next request, or None when the parent has closed its end."""
        line = self._inbox.readline()
        return json.loads(line) if line else None

    def send(self, message: Message) -> None:
        """Answer one request. Values must be JSON; floats must be finite."""
        self._outbox.write(json.dumps(message, allow_nan=False) + "\n")
        self._outbox.flush()

    def progress(self, text: str, share: float | None = None) -> None:
        """Tell the parent how far the current request is."""
        self.send({"progress": text, "share": share})

    def log(self, text: str) -> None:
        """A line for the log of the run."""
        self.send({"log": text})


class Child:
    """A running child. Use as a context manager: leaving it ends the child, whatever happened.

    Raises (from `request`):
        TrtActionError: the error that the child reported, with its own class.
        MeasureError, OutOfMemoryError: the child died; the message names the signal or exit code.
    """

    def __init__(
        self,
        target: str,
        *,
        env: Mapping[str, str] | None = None,
        died: type[errors.TrtActionError] = errors.MeasureError,
        cwd: str | os.PathLike[str] | None = None,
        user: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """`user`: id that the child gets, with the group nobody and no others; only root may ask for one. `command`:
        a program of another environment that speaks the same protocol; the two file descriptors are appended."""
        self.target = target
        self._command = command or (sys.executable, "-P", "-m", "trt_action.child", target)
        self._died = died
        self._buffer = b""
        with _stops_held():
            self._start(env or {}, cwd, user)
            _running.add(self)

    def _start(self, env: Mapping[str, str], cwd: str | os.PathLike[str] | None, user: int | None) -> None:
        self._stderr = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed in close()
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        command = [*self._command, str(request_read), str(answer_write)]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=(request_read, answer_write),
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env={**without_secrets(os.environ), "TRT_ACTION_PARENT": str(os.getpid()), **env},
                cwd=cwd,
                user=user,
                group=None if user is None else NOBODY,
                extra_groups=None if user is None else (),
                start_new_session=True,  # Ctrl-C reaches the parent only, which then ends the children in order
            )
        except BaseException:
            os.close(request_write)
            os.close(answer_read)
            self._stderr.close()
            raise
        finally:
            os.close(request_read)
            os.close(answer_write)
        self._outbox = os.fdopen(request_write, "w", encoding="utf-8")
        self._answer_fd = answer_read

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(self, message: Message, *, timeout: float | None = None, progress: Progress | None = None) -> Message:
        """Send one request and wait for its answer (`timeout` in seconds)."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said before is still in the other pipe
            self._outbox.write(json.dumps(message, allow_nan=False) + "\n")
            self._outbox.flush()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            answer = json.loads(self._read_line(deadline, timeout))
            if "progress" in answer:
                if progress is not None:
                    progress(answer["progress"], answer.get("share"))
            elif "log" in answer:
                if progress is not None:
                    progress(answer["log"], None)
            elif "error" in answer:
                raise self._reported(answer["error"])
            else:
                return dict(answer)

    def _reported(self, record: dict[str, str]) -> errors.TrtActionError:
        error = errors.restore(record)
        if isinstance(error, errors.InternalError) and not error.why:
            error.why = f"The details are in {errors.write_log(self.stderr_tail())}."
        return error

    def stderr_tail(self) -> str:
        """The last characters that the child and its libraries printed."""
        if self._stderr.closed:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_TAIL))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def close(self, grace: float = GRACE) -> None:
        """End the child: close its request pipe, then its process group is killed if it stays."""
        _running.discard(self)
        with contextlib.suppress(OSError):
            self._outbox.close()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.interrupt()
            self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._answer_fd)
        self._stderr.close()

    def kill(self) -> None:
        """End the child and its process group at once."""
        self.interrupt()
        self.close()

    def interrupt(self) -> None:
        """Kill the child, and whatever a user's function has started; who waits in `request` sees it die."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.kill()

    def _read_line(self, deadline: float | None, timeout: float | None) -> bytes:
        while b"\n" not in self._buffer:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._answer_fd], [], [], wait)[0]:
                raise self._died(
                    f"The child process `{self.target}` gave no answer within {timeout:g} s.",
                    why="It hangs, or the work is larger than the time limit allows.",
                    fix="Raise the time limit, or make the work smaller.",
                )
            chunk = os.read(self._answer_fd, 1 << 20)
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _death(self) -> errors.TrtActionError:
        try:
            code = self._process.wait(DYING)
        except subprocess.TimeoutExpired:  # it lives, and can answer no more; the caller ends it
            return self._died(
                f"The child process `{self.target}` closed its connection and did not end.",
                why="A library or a function in it closed files that were not its own.",
            )
        tail = self.stderr_tail()
        why = f"Its last words: {tail[-1500:]}" if tail else "It printed nothing before it ended."
        if code == -signal.SIGKILL or "std::bad_alloc" in tail or "MemoryError" in tail:
            killed = errors.OutOfMemoryError(
                f"The child process `{self.target}` was killed ({_exit_name(code)}), most likely for memory.",
                why=why,
            )
            killed.killed = True
            return killed
        return self._died(
            f"The child process `{self.target}` ended unexpectedly ({_exit_name(code)}).",
            why=why,
            fix="Run again; if it ends the same way, the model crashes this backend: try another precision or version.",
        )


def call(
    target: str,
    argument: Message,
    *,
    timeout: float | None = None,
    progress: Progress | None = None,
    died: type[errors.TrtActionError] = errors.BuildError,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    command: Sequence[str] | None = None,
) -> Message:
    """One request to a fresh child: start, ask, end.

    Raises:
        TrtActionError: what the child reported, or `died` / `OutOfMemoryError` if it did not survive.
    """
    with Child(target, died=died, env=env, cwd=cwd, command=command) as child:
        return child.request(argument, timeout=timeout, progress=progress)


@contextlib.contextmanager
def _stops_held() -> Iterator[None]:
    """A stop waits until the child is known: one that came in between would leave it behind. The child inherits the
    mask, and lifts it (`child.py`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_all() -> None:
    """Kill every child that is still running (the doors call it on a signal)."""
    for child in list(_running):
        child.kill()


def without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """What a child may know: no token of the job, and none of the files that steer later steps. Children parse models
    of strangers and run users' own functions. What a workflow gives under names of its own (a bucket's key) stays."""
    return {name: value for name, value in env.items() if not _OF_THE_JOB.fullmatch(name)}


def hide_environment() -> None:
    """Keep /proc/<pid>/environ of this process from its children: prctl(2), PR_SET_DUMPABLE. It takes no effect where
    they have CAP_SYS_PTRACE, which Docker does not give. Only for root, who still reads its own /proc then."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


_PR_SET_DUMPABLE = 4

_running: set[Child] = set()


def _exit_name(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
