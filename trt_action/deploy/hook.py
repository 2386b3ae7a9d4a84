"""A command of the user's own that deploys: run with the image in its environment, and without our secrets."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Timer

from trt_action import process
from trt_action.console import clean
from trt_action.errors import DeployError, InterruptedRunError
from trt_action.inputs import quote
from trt_action.publish.reference import Reference

LAST = 5
MAX_LINE = 2_000


def run(
    command: str,
    image: Reference,
    *,
    timeout: float,
    cwd: Path,
    env: Mapping[str, str],
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Run `command` in a shell (bash, as a step of a workflow), its lines told as they come.

    It finds IMAGE (`HOST/NAME@sha256:…`), IMAGE_NAME and DIGEST in its environment; tokens of the job and inputs of the
    action are not there (`process.without_secrets`). It and all that it has started end with the time limit.

    Raises:
        DeployError: it failed, or was too slow.
        InterruptedRunError: stopped by a signal.
    """
    given = {"IMAGE": str(image), "IMAGE_NAME": image.name, "DIGEST": str(image.digest)}
    with subprocess.Popen(
        ["bash", "-eo", "pipefail", "-c", command],  # noqa: S607 - the user's own bash
        cwd=cwd,
        env={**process.without_secrets(env), **given},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as child:
        late = Timer(timeout, _end, (child,))
        late.start()
        try:
            last = _told(child, say)
            code = child.wait()
        except KeyboardInterrupt as stop:
            _end(child)
            raise InterruptedRunError(
                str(stop) or "The run was stopped (Ctrl-C).",
                why="`deploy-command` was ended; what it had done by then is its own.",
            ) from None
        finally:
            in_time = late.is_alive()
            late.cancel()
            _end(child)
    if code == 0 and in_time:
        return
    reason = f"exit code {code}" if in_time else f"it was ended after {timeout:g} s"
    raise DeployError(
        f"`deploy-command` did not deploy {quote(image)}: {reason}.",
        why=f"Its last lines: {' | '.join(last)}" if last else "It printed nothing.",
        fix="Run it by hand with the same IMAGE; `deploy-timeout` is its time limit.",
    )


def _told(child: subprocess.Popen[bytes], say: Callable[[str], None]) -> list[str]:
    last: deque[str] = deque(maxlen=LAST)
    if child.stdout is not None:
        for line in iter(lambda: child.stdout.readline(MAX_LINE) if child.stdout else b"", b""):
            text = clean(line.decode("utf-8", "replace"))
            if text:
                last.append(text[:300])
                say(text)
    return list(last)


def _end(child: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
