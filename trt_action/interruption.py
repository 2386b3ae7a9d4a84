"""A signal ends the run in order: once, and wherever it meets it."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 0.05
"""Seconds until an interruption that was lost is raised anew."""


def on_signals(words: Callable[[int], str]) -> None:
    """The first signal raises `KeyboardInterrupt(words(its number))` in the main thread. Later ones are passed over: they
    must not end the tidying up.

    Python drops what is raised while a finaliser runs ("Exception ignored in"), and would go on as if nobody had asked: such
    a one is raised again.
    """
    for number in SIGNALS:
        signal.signal(number, functools.partial(_stop, words))


def _stop(words: Callable[[int], str], number: int, _frame: object) -> NoReturn:
    for other in SIGNALS:
        signal.signal(
            other, lambda *_: None
        )  # SIG_IGN would be inherited by children, and warns of a signal on its way
    sys.unraisablehook = functools.partial(_lost, sys.unraisablehook)
    raise KeyboardInterrupt(words(number))


def _lost(usual: Callable[[Any], object], what: Any) -> None:
    """In the place of `sys.unraisablehook`."""
    if what.exc_type is not KeyboardInterrupt:
        usual(what)
        return
    said = str(what.exc_value)

    def again(*_: object) -> NoReturn:
        raise KeyboardInterrupt(said)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
