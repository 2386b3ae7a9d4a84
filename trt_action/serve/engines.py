"""Threads that own engines. A session of a GPU belongs to the thread that loaded it: load, run and close happen there."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class EngineThread:
    """One thread that does what it is given, in order."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def post(self, work: Callable[[], None]) -> None:
        """Do `work` soon; it must not raise."""
        self._work.put(work)

    def ask(self, work: Callable[[], T]) -> T:
        """Do `work` there and wait for what it returns or raises."""
        asked = _Asked(work)
        self._work.put(asked)
        return asked.answer.result()

    def end(self) -> None:
        """After the work that is already there."""
        self._work.put(None)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # holds the requests of the last batch otherwise


ENGINE, LOADING = "engine", "loading"
"""How the names of these threads begin."""


def busy() -> bool:
    """A library is loading, computing or freeing: nothing can stop it."""
    return any(thread.name.startswith((ENGINE, LOADING)) for thread in threading.enumerate())


async def beside(work: Callable[[], T]) -> T:
    """What `work` returns or raises, on a thread of its own. Unlike `asyncio.to_thread`'s, the end of the process does not
    wait for it."""
    asked = _Asked(work)
    threading.Thread(target=asked, name=LOADING, daemon=True).start()
    return await asyncio.wrap_future(asked.answer)


class _Asked(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.answer: Future[T] = Future()

    def __call__(self) -> None:
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                self.answer.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                self.answer.set_result(result)
