"""The other end of `process.Child`: `python -m trt_action.child TARGET READ_FD WRITE_FD`."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import traceback

from trt_action import errors
from trt_action.process import STOPS, Channel

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Arrange to die with the parent, import the target, serve."""
    target, read_fd, write_fd = sys.argv[1:4]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ.get("TRT_ACTION_PARENT", os.getppid())):
        os._exit(0)  # the parent died before prctl
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    channel = Channel(os.fdopen(int(read_fd), "r", encoding="utf-8"), os.fdopen(int(write_fd), "w", encoding="utf-8"))
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function)(channel)
    except errors.TrtActionError as error:
        channel.send({"error": errors.record(error)})
    except MemoryError:
        channel.send({"error": errors.record(errors.OutOfMemoryError(f"`{target}` ran out of host memory."))})
    except BrokenPipeError:
        os._exit(0)  # the parent went away
    except Exception as error:  # noqa: BLE001 - the boundary of the process: it crosses as text, never as a traceback
        traceback.print_exc()
        failure = errors.InternalError(f"`{target}` failed with {type(error).__name__}: {error}")
        channel.send({"error": errors.record(failure)})


if __name__ == "__main__":
    main()
