"""The verdict in a terminal: short, and plain text where there are no colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from trt_action.evidence import Evidence, GateStatus
from trt_action.report import gpu, search
from trt_action.report.escape import clean
from trt_action.report.headline import verdict
from trt_action.report.parts import COMMENT, STATUS_WORD, Cell, Code, Mark, Table
from trt_action.report.view import Problem, View, view

_STYLE: dict[GateStatus, str] = {
    "passed": "green",
    "failed": "bold red",
    "inconclusive": "yellow",
    "not-checked": "dim",
}
_SIGN: dict[GateStatus, str] = {"passed": "ok", "failed": "FAILED", "inconclusive": "unclear", "not-checked": ""}


def terminal(evidence: Evidence, files: Mapping[str, Path] | None = None) -> RenderableType:
    """Verdict, table, broken gates and where the files are (`files`: what it is → path), for a rich console.

    Foreign text is shown as it is, without markup or control sequences of its own.
    """
    one = view(evidence, COMMENT)
    shown: list[RenderableType] = [Text("")]
    head = Text(f"{one.headline.word}", style=_STYLE[verdict(evidence)] + " bold")
    head.append(f"  {clean(one.name)}", style="bold")
    shown.append(head)
    shown += [Text(f"  {clean(detail)}") for detail in one.headline.details]
    if one.error:
        shown += [Text(""), Text(_lines(one.error.what), style="red")]
        shown += [Text(_lines(one.error.why))] if one.error.why else []
        shown += [Text.assemble(("Next step: ", "bold"), _lines(one.error.fix))] if one.error.fix else []
    if one.table:
        shown += [Text(""), _table(one.table, one.name)]
    shown += _below_the_table(evidence, one)
    if one.slower_layers:
        shown += [Text(""), Text("Layers that cost most:", style="bold")]
        shown += [Text(f"  {clean(line)}") for line in one.slower_layers]
    for problem in one.problems:
        shown += [Text(""), *_problem(problem)]
    if one.problems_left_out:
        shown.append(Text(f"and {one.problems_left_out} more gates"))
    if one.notes:
        shown += [Text(""), *(Text(f"Note: {clean(note)}", style="dim") for note in one.notes)]
    if files:
        shown.append(Text(""))
        shown += [Text(f"{name:<10}{clean(str(path))}", overflow="fold") for name, path in files.items()]
    return Group(*shown)


def _below_the_table(evidence: Evidence, one: View) -> list[Text]:
    shown = [Text(f"Speed-up: {clean(one.speedup)}")] if one.speedup else []
    for role, side in (("base", evidence.base), ("head", evidence.head)):
        if side and side.latency and side.latency.device:
            shown.append(Text(gpu.line(role, side.latency.device)))
    return shown + _search(evidence, one.search)


def searched(evidence: Evidence) -> RenderableType:
    """What a search has found, and the lines to commit; nothing without one."""
    return Group(*_search(evidence, search.line(evidence)))


def _search(evidence: Evidence, line: str) -> list[Text]:
    found = search.of(evidence)
    if found is None:
        return []
    shown = [Text(f"Search: {clean(line)}")]
    if found.found:
        shown.append(Text("To commit, instead of searching again:", style="bold"))
        # ASCII, and in one piece on a screen of any width: a line that is broken is another name.
        shown += [Text(f"  {text}", no_wrap=True, overflow="ignore") for text in search.to_commit(found)]
    return shown


def _table(found: Table, name: str) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for i, column in enumerate(found.columns):
        table.add_column(Text(clean(column or name)), justify="right" if i and found.numbers else "left")
    for row in found.rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Cell) -> Text:
    if isinstance(value, Mark):
        words = " ".join(one for one in (_SIGN[value.status], clean(value.text)) if one)
        return Text(words, style=_STYLE[value.status])
    return Text(clean(value.text if isinstance(value, Code) else value))


def _problem(problem: Problem) -> list[Text]:
    status = problem.status.status
    head = Text.assemble((f"{STATUS_WORD[status]}: ", _STYLE[status]), (clean(problem.status.text), "bold"))
    head.append(f" ({clean(problem.rule)}; observed {clean(problem.observed)})")
    lines = [head, Text(f"  {clean(problem.reason)}")]
    return [*lines, Text(f"  Next step: {clean(problem.next_step)}")] if problem.next_step else lines


def _lines(foreign: str) -> str:
    return clean(foreign, lines=True).strip()
