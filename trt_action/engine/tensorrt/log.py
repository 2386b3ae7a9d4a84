"""What TensorRT says while it works: its builder and runtime return None, the reason is in the log."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

KEPT = 200
"""Lines of each kind that are kept: an unlucky build warns thousands of times."""


@dataclass
class Log:
    """Errors and warnings as they came, the first ones; and the last lines of everything."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=20))

    def add(self, severity: str, text: str) -> None:
        """`severity` is the name of TensorRT's `ILogger.Severity`."""
        if severity == "VERBOSE":
            return
        line = " ".join(text.split())
        self.last.append(line)
        kept = self.errors if "ERROR" in severity else self.warnings if severity == "WARNING" else None
        if kept is not None and len(kept) < KEPT:
            kept.append(line)

    def clear(self) -> None:
        """Forget what belongs to an earlier step."""
        self.errors.clear()
        self.warnings.clear()
        self.last.clear()


def logger(trt: Any, log: Log) -> Any:
    """An `ILogger` that writes into `log`. TensorRT does not own it: keep it as long as anything made with it."""

    class _Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return _Logger()
