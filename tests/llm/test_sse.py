"""Event streams: examples of the standard, every way to cut them, and what is no event stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.llm.sse import MAX_EVENT_BYTES, MalformedError, Parser

STREAMS = {
    b"data: a\n\n": ["a"],
    b"data:a\n\ndata: b\n\n": ["a", "b"],
    b"data: YHOO\ndata: +2\ndata: 10\n\n": ["YHOO\n+2\n10"],
    b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n": [
        "first event",
        "second event",
    ],
    b"data\n\ndata\ndata\n\ndata:": ["", "\n"],
    b"data:test\n\ndata: test\n\n": ["test", "test"],
    b"\xef\xbb\xbfdata: marked\n\n": ["marked"],
    b"data: a\r\n\r\ndata: b\r\rdata: c\n\r\n": ["a", "b", "c"],
    b"event: message\nretry: 10\ndata: {}\n\n": ["{}"],
    "data: é✓\n\n".encode(): ["é✓"],
    b"\n\n\n": [],
}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_gives_its_events_however_it_is_cut(stream: bytes) -> None:
    for size in (1, 2, 3, len(stream)):
        parser = Parser()
        found = [event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])]
        assert found == STREAMS[stream]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=5), st.integers(1, 7))
def test_what_was_written_is_read(texts: list[str], size: int) -> None:
    stream = b"".join(f"data: {text}\r\n\r\n".encode() for text in texts)
    parser = Parser()
    assert [event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])] == texts
    assert not parser.unfinished


def test_a_stream_that_ends_inside_an_event_says_so() -> None:
    parser = Parser()
    assert parser.feed(b"data: a\n") == []
    assert parser.unfinished


@pytest.mark.parametrize("bad", [b"data: \xff\n\n", b"data: " + b"x" * (MAX_EVENT_BYTES + 1)])
def test_bytes_that_are_no_event_stream_are_refused(bad: bytes) -> None:
    with pytest.raises(MalformedError):
        Parser().feed(bad)


def test_the_size_of_an_event_counts_and_not_of_the_stream() -> None:
    parser = Parser()
    event = b"data: " + b"x" * 1_000_000 + b"\n\n"
    for _ in range(10):
        assert len(parser.feed(event)) == 1
    for _ in range(3):
        parser.feed(event.replace(b"\n\n", b"\n"))
    with pytest.raises(MalformedError, match="larger"):
        parser.feed(event)
