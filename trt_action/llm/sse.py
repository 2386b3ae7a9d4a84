"""Server-sent events, as far as streamed answers need them: the `data` of each event, in order.

Source: WHATWG HTML, 9.2.6 "Interpreting an event stream" (https://html.spec.whatwg.org/multipage/server-sent-events.html).
Stricter in two things: text that is no UTF-8 is refused and not replaced, and an event has a largest size.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 4_000_000
_END_OF_LINE = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""A CR at the end of what has arrived may be the first half of CR LF."""


class MalformedError(ValueError):
    """The bytes are no event stream; the message says why."""


class Parser:
    """Fed with bytes as they arrive, gives back the data of the events that they complete."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._data: list[str] = []
        self._size = 0
        self._started = False

    def feed(self, received: bytes) -> list[str]:
        """The data of each event that ends in `received`; events without data give nothing.

        Raises:
            MalformedError: no UTF-8, or an event above 4 MB.
        """
        waiting = self._waiting
        waiting.append(received)
        self._size += len(received)
        if self._size > MAX_EVENT_BYTES:
            raise MalformedError(f"an event is larger than {MAX_EVENT_BYTES // 1_000_000} MB")
        inside_a_line = not waiting[:-1] or not waiting[-2].endswith(b"\r")
        if self._started and inside_a_line and b"\n" not in received and b"\r" not in received:
            return []  # joined once the line ends: a long line in small pieces is not copied again and again
        joined = b"".join(waiting)
        if not self._started and len(joined) >= len(_MARK):
            self._started = True
            joined = joined.removeprefix(_MARK)
        *lines, rest = _END_OF_LINE.split(joined)
        self._waiting = [rest] if rest else []
        events = []
        for line in lines:
            if not line:
                if self._data:
                    events.append("\n".join(self._data))
                self._data = []
            elif (value := _data_of(line)) is not None:
                self._data.append(value)
        if not self._data:
            self._size = len(rest)
        return events

    @property
    def unfinished(self) -> bool:
        """Whether the stream ended inside an event (which the standard then drops)."""
        return bool(self._data or b"".join(self._waiting).strip())


_MARK = b"\xef\xbb\xbf"


def _data_of(line: bytes) -> str | None:
    """The value of a `data` field; None for comments and other fields."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"byte 0x{line[error.start]:02x} is not UTF-8") from None
    field, _, value = text.partition(":")
    return value.removeprefix(" ") if field == "data" else None
