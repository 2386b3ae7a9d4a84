"""TensorRT's objects use each other without keeping each other alive: children have to go first, whatever happens."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Closable(Protocol):
    def close(self) -> None: ...


class Held:
    """Objects in the order they were made; let go in the opposite one."""

    def __init__(self) -> None:
        self._objects: list[object] = []

    def add(self, made: T) -> T:
        self._objects.append(made)
        return made

    def close(self) -> None:
        while self._objects:
            self._objects.pop()


@contextlib.contextmanager
def closed_on_failure(held: Closable) -> Iterator[None]:
    """An exception holds the variables of every function that it left, in an order of its own: they are cleared first,
    so that `held` is what decides."""
    try:
        yield
    except BaseException as error:
        let_go(error)
        held.close()
        raise


def let_go(error: BaseException | None) -> None:
    """Clear the variables of every function that `error`, and what it was raised after, has left."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
