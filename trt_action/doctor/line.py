"""One line of `trt-action doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trt_action import errors
from trt_action.console import clean

Status = Literal["green", "amber", "red"]

LONGEST = 400
"""Characters of `found` and of `fix`: they hold foreign words."""


@dataclass(frozen=True)
class Check:
    """Red: a run as it was asked for will fail. Amber: it runs, with a doubt. `fix` is empty if green.

    `private` is for the terminal of who asks: folders, a GPU's serial number. It is not in the shareable form.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    private: str = ""

    def shareable(self, home: str) -> dict[str, str]:
        """For an issue or a chat: nothing private, and the home folder as `~`."""
        public = {"name": self.name, "status": self.status, "found": self.found, "fix": self.fix}
        return {key: _without(text, home) for key, text in public.items()}


def line(name: str, status: Status, found: str, fix: str = "", private: str = "") -> Check:
    """A check whose texts are printable, and not long whoever wrote them."""
    return Check(name, status, clean(found)[:LONGEST], clean(fix)[:LONGEST], clean(private)[:LONGEST])


def refused(name: str, error: errors.TrtActionError, status: Status, otherwise: str) -> Check:
    """What an error says, as a line; `otherwise` is the next step where the error has none."""
    why = f" {error.why}" if error.why else ""
    return line(name, status, f"{error.what}{why}", error.fix or otherwise)


def guarded(name: str, look: Callable[..., Iterable[Check]], *arguments: Any) -> list[Check]:
    """What `look` finds. Where it fails itself a line says so: no host keeps the others from being looked at."""
    try:
        return list(look(*arguments))
    except errors.TrtActionError as error:
        return [refused(name, error, "amber", "Run again; please report this if it stays.")]
    except Exception as error:  # noqa: BLE001 - a boundary: every host is another, and the other lines matter
        import traceback

        log = Path(errors.write_log(traceback.format_exc()))
        return [
            line(name, "amber", f"could not be looked at: {type(error).__name__}", f"Please report this with {log}.")
        ]


def grade(amount: float, red: float, amber: float) -> Status:
    """Less than `red`, less than `amber`, or enough."""
    return "red" if amount < red else "amber" if amount < amber else "green"


def gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB"


def numbers(version: str) -> tuple[int, ...]:
    """`1.32.0` → (1, 32)."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _without(text: str, home: str) -> str:
    return text.replace(home, "~") if len(home) > 1 else text
