"""Examine many mutations of a model in this process: `mutate.py MODEL SEED COUNT` (run by test_fuzz.py).

In a process of its own because the memory limit stays, and because a crash must be the test's finding, not its end.
Prints how many were accepted and how many refused; anything that is not a `TrtActionError` is a traceback.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from trt_action.errors import TrtActionError
from trt_action.evidence import ModelInfo
from trt_action.model import examine


class Once:
    """A channel with one request."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.answer: dict[str, Any] = {}

    def receive(self) -> dict[str, Any]:
        return self.request

    def send(self, message: dict[str, Any]) -> None:
        self.answer = json.loads(json.dumps(message, allow_nan=False))


def mutate(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(5)
        if kind == 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            other = rng.randrange(len(data)) if data else 0
            data[place:place] = data[other : other + rng.randrange(1, 60)]
        else:
            data[place : place + 1] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80"))
    return bytes(data)


def main() -> None:
    model, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    content, rng = model.read_bytes(), random.Random(seed)
    path = model.with_name("mutated.onnx")
    accepted = refused = 0
    for _ in range(count):
        path.write_bytes(mutate(content, rng))
        channel = Once({"path": str(path), "label": "m", "shapes": {}, "batch_size": 1, "elsewhere": []})
        try:
            examine.serve(channel)  # type: ignore[arg-type]
        except TrtActionError as error:
            refused += bool(error.what and error.title)
        else:
            ModelInfo.model_validate({**channel.answer["info"], "name": "m", "path": "m"})
            accepted += 1
    print(json.dumps({"accepted": accepted, "refused": refused}))


if __name__ == "__main__":
    main()
