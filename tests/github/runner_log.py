"""What a runner makes of a step's log and files, after `ActionCommandManager` and `FileCommandManager` of its source."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Log:
    """Commands in order as (name, properties, message), and the lines that are none."""

    commands: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def read_log(text: str) -> Log:
    """Read a log as the runner does: commands stand alone on a line, and stop where they were told to."""
    found = Log()
    stopped: str | None = None
    for line in text.splitlines():
        match = re.fullmatch(r"\s*::([^\s:]+)(?: ([^:]*(?::(?!:)[^:]*)*))?::(.*)", line)
        if stopped is not None:
            if match and match[1] == stopped:
                stopped = None
            else:
                found.lines.append(line)
        elif match and match[1] == "stop-commands":
            stopped = match[3]
        elif match:
            pairs = (pair.partition("=") for pair in (match[2] or "").split(",") if pair)
            properties = {key.strip(): _plain(value, ("%3A", ":"), ("%2C", ",")) for key, _, value in pairs}
            found.commands.append((match[1], properties, _plain(match[3])))
        else:
            found.lines.append(line)
    return found


def read_values(text: str) -> dict[str, str]:
    """`GITHUB_OUTPUT` as the runner reads it: `name=value`, or a heredoc."""
    found: dict[str, str] = {}
    lines = iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        name, equals, value = line.partition("=")
        key, heredoc, delimiter = line.partition("<<")
        if heredoc and (not equals or len(key) < len(name)):
            content: list[str] = []
            for inner in lines:
                if inner == delimiter:
                    break
                content.append(inner)
            else:
                raise ValueError(f"no end of {key}")
            found[key] = "\n".join(content)
        elif equals:
            found[name] = value
        else:
            raise ValueError(f"no value in {line!r}")
    return found


def _plain(text: str, *more: tuple[str, str]) -> str:
    for code, sign in (*more, ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, sign)
    return text
