"""Threads that own engines. A session of a GPU belongs to the thread that loaded it: load, run and close happen there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
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


class _Asked(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.answer: Future[T] = Future()

    def __call__(self) -> None:
        try:
            self.answer.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked
            self.answer.set_exception(error)
