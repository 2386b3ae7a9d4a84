"""Regular expressions of a questions file, searched in a child process: `(a+)+$` may take longer than anybody waits, and
while Python's `re` searches, no other thread runs, so that nothing else could end it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from trt_action import process
from trt_action.errors import DataError
from trt_action.inputs import quote
from trt_action.process import Channel

SECONDS = 30.0
"""Time limit of one search; of the first one with the start of the child."""

MAX_SEARCHED = 100_000
"""Characters of an answer that a pattern sees."""


def searched(asked: Iterable[tuple[int, str, str]], seconds: float = SECONDS) -> list[bool]:
    """Whether each pattern is found in its text. Of each: the line of the question, the pattern, the text.

    Raises:
        DataError: a search did not come to an end; names the line.
    """
    found = []
    with process.Child("trt_action.llm.patterns:serve", died=DataError) as child:
        for line, pattern, text in asked:
            try:
                answer = child.request({"pattern": pattern, "text": text[:MAX_SEARCHED]}, timeout=seconds)
            except DataError:
                raise DataError(
                    f"The regular expression {quote(pattern)} of the question on line {line} did not come to an end "
                    f"within {seconds:g} s on an answer of {len(text):,} characters.",
                    why="Repeats inside repeats, as in `(a+)+`, take twice as long with each character.",
                    fix="Write it without them, or ask with `kind: contains`.",
                ) from None
            found.append(bool(answer["found"]))
    return found


def serve(channel: Channel) -> None:
    """The child's side."""
    while (request := channel.receive()) is not None:
        channel.send({"found": re.search(request["pattern"], request["text"]) is not None})
