"""How the command line is read: argparse, with its failures in our words."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

from trt_action import errors


class Parser(argparse.ArgumentParser):
    """argparse that fails our way: names the nearest option, leaves by exception."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise errors.SettingsError(f"`{self.prog}`: {message}.", fix=f"`{self.prog} --help` lists what is allowed.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """argparse's own, but nothing unknown passes: the command itself knows what comes near."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            given = unknown[0].split("=")[0]
            unnamed = {f"--{one.dest}": one.metavar for one in self._actions if not one.option_strings}
            names = [*self._option_string_actions, *unnamed]
            known = [name for name in names if name not in ("-h", "--help")]
            near = difflib.get_close_matches(given, known, n=1, cutoff=0.7)
            fix = f"Did you mean `{near[0]}`?" if near else f"`{self.prog} --help` lists what is allowed."
            if near and near[0] in unnamed:
                fix = f"It goes without a name: `{self.prog} {unnamed[near[0]]}`."
            raise errors.SettingsError(f"Unknown argument `{given[:200]}`.", fix=fix)
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own check, with the nearest of the choices."""
        allowed = [str(choice) for choice in action.choices or ()]
        if action.choices is None or value in action.choices:
            return
        near = difflib.get_close_matches(str(value), allowed, n=1)
        what = (action.option_strings or [str(action.metavar or action.dest)])[0]
        raise errors.SettingsError(
            f"`{self.prog}`: `{str(value)[:200]}` is no {what}.",
            why=f"There are: {', '.join(allowed)}.",
            fix=f"Did you mean `{near[0]}`?" if near else f"`{self.prog} --help` lists what is allowed.",
        )
