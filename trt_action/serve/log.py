"""Lines to stdout: one per request, and what a person who runs the server should know. No payload, no query string."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

FLUSH_BYTES = 32_768
FLUSH_SECONDS = 0.25


class Log:
    """`style`: `json`, `text` or `off` (then requests are not logged, events still are). Lines are written together, at
    most a quarter of a second late: a system call per request would cost more than the request's own Python."""

    def __init__(self, style: str, out: TextIO | None = None) -> None:
        self.style = style
        self._out = out or sys.stdout
        self._lines: list[str] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def say(self, text: str) -> None:
        """An event; also from other threads."""
        if self.style == "json":
            line = orjson.dumps({"time": _now(), "event": text}).decode()
        else:
            line = f"{_now()} {''.join(c if c.isprintable() else ' ' for c in text)}"
        self._write(line)

    def request(self, fields: dict[str, Any]) -> None:
        """One request that ended; `fields` as `app` fills them."""
        if self.style == "off":
            return
        if self.style == "json":
            line = orjson.dumps({"time": _now(), **fields}).decode()
        else:
            known = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _TEXT_FIRST)
            path = "".join(c if c.isprintable() and c != " " else "?" for c in str(fields["path"]))
            line = f"{_now()} {fields['client']} {fields['method']} {path} {fields['status']} {known}"
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines, self._bytes = self._lines, [], 0
        if lines:
            self._write("\n".join(lines))

    def _write(self, text: str) -> None:
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except (OSError, ValueError):
            self.style = "off"  # whoever read our lines is gone: no reason to stop serving


_TEXT_FIRST = {"client", "method", "path", "status"}


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
