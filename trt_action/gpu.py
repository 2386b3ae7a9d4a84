"""Which NVIDIA GPUs does this process see, are they the expected ones, and does nobody else measure on them?"""

from __future__ import annotations

import contextlib
import csv
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_action.engine import locks
from trt_action.errors import BackendUnavailableError, StorageError
from trt_action.inputs import quote, quote_all

DEVICE = Path("/dev/nvidia0")
LOCK_FOLDER = "gpu-locks"
TOLD_EVERY = 30.0
"""Seconds between two lines about a GPU that is waited for."""


@dataclass(frozen=True)
class Gpu:
    """`capability` as NVIDIA writes it, e.g. `8.0`."""

    uuid: str
    name: str
    capability: str

    @property
    def architecture(self) -> str:
        """`8.0` → `sm_80`."""
        return "sm_" + self.capability.replace(".", "")


def visible(command: str = "nvidia-smi") -> list[Gpu]:
    """The GPUs that this process may use; empty without NVIDIA's driver or device files.

    Raises:
        BackendUnavailableError: there is a GPU, and the driver does not answer.
    """
    try:
        done = subprocess.run(
            [command, "--query-gpu=uuid,name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        if not DEVICE.exists():
            return []
        raise _no_answer("`nvidia-smi` is not in the container.") from None
    except subprocess.TimeoutExpired:
        raise _no_answer("`nvidia-smi` gave no answer within 60 s.") from None
    if done.returncode:
        if not DEVICE.exists():
            return []
        raise _no_answer(f"`nvidia-smi` says {quote(done.stdout or done.stderr)}.")
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [Gpu(*(field.strip() for field in row)) for row in rows if len(row) == 3]


def _no_answer(why: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        "A GPU is there and its driver does not answer.",
        why=why,
        fix="Check `nvidia-smi` on the host, and that NVIDIA_DRIVER_CAPABILITIES contains `utility`.",
    )


def check_expected(expected: str, found: Sequence[Gpu]) -> None:
    """Refuse a GPU that is not the one which the workflow names: part of its name (`A100`) or `sm_80`.

    Raises:
        BackendUnavailableError: another GPU, or none.
    """
    wanted = expected.strip().lower()
    for gpu in found:
        by_architecture = re.fullmatch(r"sm_\d+", wanted) is not None
        if (gpu.architecture != wanted) if by_architecture else (wanted not in gpu.name.lower()):
            raise BackendUnavailableError(
                f"The GPU is {quote(gpu.name)} ({gpu.architecture}), not {quote(expected)} as the input `gpu` expects.",
                why="Numbers of another GPU do not say what production will do.",
                fix="Correct `runs-on`, or the input `gpu`.",
            )
    if not found:
        raise BackendUnavailableError(
            f"No GPU is visible, and the input `gpu` expects {quote(expected)}.",
            fix="Set `gpus: all` so that the action asks Docker for a GPU, or correct `runs-on`.",
        )


@contextlib.contextmanager
def locked(
    uuids: Sequence[str], folder: Path, *, timeout: float, log: Callable[[str], None], every: float = TOLD_EVERY
) -> Iterator[None]:
    """Hold every GPU alone among all runs that share `folder`. Locks end with the process, however it ends.

    Args:
        folder: on storage that the runs of this host share (the cache volume).
        timeout: seconds to wait for one GPU.
        log: told that, and for what, the run waits, every `every` seconds.

    Raises:
        BackendUnavailableError: another run still measures on it after `timeout`.
        StorageError: `folder` cannot be written.
    """
    with contextlib.ExitStack() as held:
        for uuid in sorted(set(uuids)):  # one order for everybody: no deadlock
            held.enter_context(_lock(uuid, folder, timeout, log, every))
        yield


def _lock(uuid: str, folder: Path, timeout: float, log: Callable[[str], None], every: float) -> locks.Lock:
    path = folder / LOCK_FOLDER / re.sub(r"[^A-Za-z0-9-]", "_", uuid)[:100]
    start = time.monotonic()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = locks.exclusive_file(path, timeout=0)
        while lock is None and (waited := time.monotonic() - start) < timeout:
            log(f"Another run measures on GPU {uuid}; waiting ({waited:.0f} of at most {timeout:.0f} s).")
            lock = locks.exclusive_file(path, timeout=min(every, timeout - waited))
    except OSError as error:
        raise StorageError(f"The GPU lock {quote(path)} cannot be used: {error.strerror or error}.") from error
    if lock is None:
        raise BackendUnavailableError(
            f"GPU {quote(uuid)} was in use by another run for {timeout:.0f} s.",
            why="Two runs on one GPU would measure each other.",
            fix="Raise `gpu-lock-timeout`, or limit the jobs of this runner with `concurrency`.",
        )
    return lock


def described(found: Sequence[Gpu]) -> str:
    """For the log."""
    return quote_all(f"{gpu.name} ({gpu.architecture})" for gpu in found)
