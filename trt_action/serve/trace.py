"""W3C Trace Context, level 1: the caller's trace goes on in our answer and in the access log."""

from __future__ import annotations

import random
import re

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Trace:
    """Our span in the caller's trace."""

    __slots__ = ("flags", "parent_id", "span_id", "trace_id")

    def __init__(self, trace_id: str, parent_id: str, flags: str) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.flags = flags
        self.span_id = f"{random.getrandbits(64) or 1:016x}"

    def outgoing(self) -> bytes:
        """The header `traceparent` with our own span as parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()


def incoming(header: bytes | None) -> Trace | None:
    """The trace that a request belongs to; None without the header or with a malformed one (it is to be ignored)."""
    if header is None or (found := _PARENT.fullmatch(header.strip())) is None:
        return None
    trace_id, parent_id, flags = (part.decode() for part in found.groups())
    return Trace(trace_id, parent_id, flags)
