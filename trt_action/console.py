"""One way to talk to a person while a run goes on: bars in a terminal, plain lines and log groups elsewhere.

Everything here goes to stderr; stdout belongs to the result.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from trt_action.process import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

LINE_SECONDS = 2.0
"""In a log, a step that counts (`share`) gets a line at most this often."""


class Console(Protocol):
    """What the pipeline needs: stages, notes, warnings."""

    def stage(self, name: str, title: str) -> contextlib.AbstractContextManager[Progress]: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def settings(self, effective: Mapping[str, Any], sources: Mapping[str, str]) -> None: ...
    def show(self, renderable: RenderableType) -> None: ...


def clean(text: str) -> str:
    """Foreign text for a terminal or a CI log: no control characters, no workflow commands, one line."""
    visible = "".join(c if c.isprintable() else " " for c in text)
    return visible.replace("::", ": :").replace("##[", "# #[").strip()


def console(stream: TextIO | None = None, expected: Mapping[str, float] | None = None) -> Console:
    """The console that fits `stream` (stderr): a terminal, GitHub's log, GitLab's log, or a plain pipe.

    `expected` holds seconds per stage from an earlier run, shown beside the elapsed time.
    """
    stream = stream or sys.stderr
    if os.environ.get("GITHUB_ACTIONS") == "true":
        return PlainConsole(stream, expected or {}, group=_github_group)
    if os.environ.get("GITLAB_CI") == "true":
        return PlainConsole(stream, expected or {}, group=_gitlab_group)
    if stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
        return TerminalConsole(stream, expected or {})
    return PlainConsole(stream, expected or {})


class PlainConsole:
    """Lines without escape codes; a stage is one log group where the host has such a thing."""

    def __init__(
        self,
        stream: TextIO,
        expected: Mapping[str, float],
        group: Callable[[str, str, bool], str] | None = None,
    ) -> None:
        self._stream = stream
        self._expected = expected
        self._group = group

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[Progress]:
        if self._group:
            self._line(self._group(name, title, True))
        else:
            self._line(f"• {title}{_about(self._expected.get(name))}")
        start = time.monotonic()
        last_text, last_time = "", 0.0

        def progress(text: str, share: float | None) -> None:
            nonlocal last_text, last_time
            now = time.monotonic()
            counting = share is not None and now - last_time < LINE_SECONDS
            if text != last_text and not counting:
                last_text, last_time = text, now
                self._line(f"    {clean(text)}")

        try:
            yield progress
        finally:
            self._line(f"    {title}: {time.monotonic() - start:.1f} s")
            if self._group:
                self._line(self._group(name, title, False))

    def note(self, text: str) -> None:
        self._line(clean(text))

    def warn(self, text: str) -> None:
        self._line(f"! {clean(text)}")

    def settings(self, effective: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        if self._group:
            self._line(self._group("settings", "settings", True))
        for name, value in effective.items():
            source = sources.get(name, "default")
            if source != "default" or self._group:
                self._line(f"  {name}: {_shown(value)}" + ("" if source == "default" else f"  ({source})"))
        if self._group:
            self._line(self._group("settings", "settings", False))

    def show(self, renderable: RenderableType) -> None:
        from rich.console import Console as RichConsole

        RichConsole(file=self._stream, color_system=None, width=110, highlight=False).print(renderable, crop=False)

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class TerminalConsole:
    """Progress bars with stage, elapsed and expected time."""

    def __init__(self, stream: TextIO, expected: Mapping[str, float]) -> None:
        from rich.console import Console as RichConsole

        self._console = RichConsole(file=stream, highlight=False)
        self._expected = expected

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[Progress]:
        from rich import progress as bars
        from rich.markup import escape

        expected = self._expected.get(name)
        columns = (
            bars.SpinnerColumn(finished_text="[green]✓"),
            bars.TextColumn("{task.description}", table_column=None),
            bars.BarColumn(bar_width=24),
            bars.TimeElapsedColumn(),
            bars.TextColumn(f"[dim]{_about(expected).strip(' ()')}[/]"),
            bars.TextColumn("[dim]{task.fields[text]}[/]"),
        )
        with bars.Progress(*columns, console=self._console, transient=False) as bar:
            task = bar.add_task(f"{title:<28}", total=None, text="")

            def progress(text: str, share: float | None) -> None:
                if share is not None:
                    bar.update(task, total=1.0, completed=min(share, 1.0))
                bar.update(task, text=escape(clean(text))[:80])

            yield progress
            bar.update(task, total=1.0, completed=1.0, text="")

    def note(self, text: str) -> None:
        from rich.markup import escape

        self._console.print(f"[dim]{escape(clean(text))}[/]")

    def warn(self, text: str) -> None:
        from rich.markup import escape

        self._console.print(f"[yellow]![/] {escape(clean(text))}")

    def settings(self, effective: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        from rich.markup import escape

        for name, value in effective.items():
            line = escape(f"{name}: {_shown(value)}")
            source = sources.get(name, "default")
            self._console.print(f"  [dim]{line}[/]" if source == "default" else f"  {line}  [dim]({source})[/]")

    def show(self, renderable: RenderableType) -> None:
        self._console.print(renderable, crop=False)


def _shown(value: object) -> str:
    """A setting's value as a person writes it in the config file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(clean(str(one)) for one in value) or "–"
    return "–" if value is None else clean(str(value))


def _about(seconds: float | None) -> str:
    return f"  (about {seconds:.0f} s)" if seconds and seconds >= 1 else ""


def _github_group(name: str, title: str, begin: bool) -> str:
    return f"::group::{title}" if begin else "::endgroup::"


def _gitlab_group(name: str, title: str, begin: bool) -> str:
    kind, text = ("start", title) if begin else ("end", "")
    return f"\x1b[0Ksection_{kind}:{int(time.time())}:trt_action_{name}\r\x1b[0K{text}"
