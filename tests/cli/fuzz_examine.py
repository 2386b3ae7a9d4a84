"""The sacrificial child of test_fuzz.py: examines one model after the other, as `trt_action.model.load`'s child does.

One JSON line in (`{"path"}`), one out (`{"notes"}` or `{"type", "what", "why", "fix"}`). An exception of another class
ends it, as a crash of native code does: the test then knows which model did it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from trt_action import errors
from trt_action.model import examine
from trt_action.process import Channel


class One(Channel):
    """One request, one answer, no pipe."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.answer: dict[str, Any] = {}

    def receive(self) -> dict[str, Any]:
        return self.request

    def send(self, message: dict[str, Any]) -> None:
        json.dumps(message, allow_nan=False)
        self.answer = message


def main() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        channel = One({**json.loads(line), "label": "fuzz.onnx", "shapes": {}, "batch_size": 2, "elsewhere": []})
        try:
            examine.serve(channel)
            answer: dict[str, Any] = {"notes": channel.answer["notes"]}
        except errors.TrtActionError as error:
            answer = errors.record(error)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
