"""The comment and the job summary: Jinja2 templates over evidence, in a byte budget."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from trt_action.errors import SettingsError
from trt_action.evidence import Evidence
from trt_action.inputs import open_regular, quote
from trt_action.report import escape
from trt_action.report import format as fmt
from trt_action.report.headline import Headline, headline, overall
from trt_action.report.mermaid import percentile_chart
from trt_action.report.parts import COMMENT, STATUS_ICON, SUMMARY, Code, Limits, Mark
from trt_action.report.table import overall_table
from trt_action.report.view import view

COMMENT_BUDGET = 65_536
"""GitHub counts characters of a comment; bytes are the safe side."""
SUMMARY_BUDGET = 1_048_576
"""Bytes per step; GitHub drops the whole summary above it."""

DROP_ORDER = {
    "settings": "settings",
    "stages": "stages",
    "fingerprint": "host fingerprint",
    "search": "search for a recipe",
    "layers": "layers",
    "gpu": "how the GPU was",
    "latency": "latency in detail",
    "llm": "served model in detail",
    "precision": "precision",
    "chart": "chart",
    "layer-diff": "differences of layers",
    "method": "method",
    "accuracy": "accuracy in detail",
    "gates": "list of gates",
    "notes": "notes",
    "footer": "footer",
    "reasons": "reasons and errors",
    "table": "table",
    "models": "details of each model",
    "overall": "table of models",
}
"""Sections in the order in which they are dropped, and what they are called in “left out for length”."""

_MARKER = "<!-- trt-action:comment"
_TEMPLATE_LIMIT = 200_000
_SMALLEST_BUDGET = 500


def marker(comment_id: str = "default") -> str:
    """The hidden first line by which our own comment is found again.

    Raises:
        SettingsError: `comment_id` could end the HTML comment or break the line.
    """
    if not re.fullmatch(r"[A-Za-z0-9._]([A-Za-z0-9._-]{0,62}[A-Za-z0-9._])?", comment_id) or "--" in comment_id:
        raise SettingsError(
            f"The comment id {escape.clip(escape.clean(comment_id), 80)!r} cannot be used.",
            fix="Use up to 64 letters, digits, `.`, `_` and single `-`, not at the ends.",
        )
    return f"{_MARKER} id={comment_id} -->"


def comment(
    evidences: Sequence[Evidence],
    *,
    template: Path | None = None,
    budget: int = COMMENT_BUDGET,
    comment_id: str = "default",
) -> str:
    """The pull-request comment, at most `budget` UTF-8 bytes.

    Sections are dropped in `DROP_ORDER` until it fits, and named at the end. The marker and the verdict always stay.

    Args:
        evidences: one or several runs, in the order of the page.
        template: a user's own Jinja2 template; it may extend `comment.md.j2`.

    Raises:
        SettingsError: the template is wrong, or what it makes lacks the hidden marker.
        StorageError: the template cannot be read.
        ValueError: no evidence, or a budget too small for a verdict (500 bytes).
    """
    chosen = _user_template(template) if template else _environment().get_template("comment.md.j2")
    return _in_budget(chosen, evidences, COMMENT, budget, marker(comment_id), template)


def check_template(path: Path) -> None:
    """What `comment` says about a template that cannot be read or parsed: before the work, not after it.

    Raises:
        SettingsError, StorageError: as `comment`.
    """
    _user_template(path)


def summary(evidences: Sequence[Evidence], budget: int = SUMMARY_BUDGET) -> str:
    """The job summary: like the comment, with longer lists and no marker."""
    return _in_budget(_environment().get_template("summary.md.j2"), evidences, SUMMARY, budget, "", None)


def _in_budget(
    template: jinja2.Template,
    evidences: Sequence[Evidence],
    limits: Limits,
    budget: int,
    mark: str,
    path: Path | None,
) -> str:
    if not evidences or budget < _SMALLEST_BUDGET:
        raise ValueError(f"{len(evidences)} evidences in {budget} bytes cannot be rendered")
    several = len(evidences) > 1
    line = overall(evidences) if several else headline(evidences[0])
    views = [view(evidence, limits) for evidence in evidences[: limits.models]]
    context: dict[str, Any] = {
        "views": views,
        "several": several,
        "headline": line,
        "overall": overall_table(evidences, limits),
        "marker": Markup(mark),  # noqa: S704 – checked by marker()
        "icons": STATUS_ICON,
    }
    order = [name for name in DROP_ORDER if several or name not in ("models", "overall")]
    for name in ("search", "gpu", "layers", "layer-diff", "llm"):  # nobody misses what most evidence never had
        if not any(name in one.sections for one in views):
            order.remove(name)

    rendered: dict[int, str] = {}

    def fits(dropped: int) -> bool:
        names = order[:dropped]
        text = _render(template, context | {"dropped": names, "left_out": [DROP_ORDER[n] for n in names]}, path)
        if mark:
            _check_marker(text, mark, path)
        rendered[dropped] = text
        return len(text.encode()) <= budget

    if fits(0):
        return rendered[0]
    fewest = bisect.bisect_left(range(len(order) + 1), True, lo=1, key=fits)
    return rendered[fewest] if fewest <= len(order) else _shortest(line, mark, budget)


def _render(template: jinja2.Template, context: dict[str, Any], path: Path | None) -> str:
    try:
        text = template.render(context)
    except (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        if path is None:
            raise
        raise _template_error(path, error) from error
    return re.sub(r"[ \t]*\n(?:[ \t]*\n){2,}", "\n\n", text).strip() + "\n"


def _check_marker(text: str, mark: str, path: Path | None) -> None:
    if text.startswith(mark) and text.count(_MARKER) == 1:
        return
    raise SettingsError(
        f"What the template {path} makes does not start with the hidden marker of the comment (once).",
        why="Without it, the next run would not find its own comment and would post a second one.",
        fix='Start with `{% extends "comment.md.j2" %}` and leave the block `marker` alone, or write `{{ marker }}` first.',
    )


def _shortest(line: Headline, mark: str, budget: int) -> str:
    """Marker and verdict, and of its details what fits."""
    end = "\n\n<sub>Left out for length: everything else.</sub>\n"
    text = f"{mark}\n\n" if mark else ""
    text += f"{line.icon} **{line.word}**"
    for detail in line.details:
        longer = f"{text} · {escape.text(detail)}"
        if len((longer + end).encode()) > budget:
            break
        text = longer
    return text + end


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    """Templates see evidence and our filters, nothing else; what they write is escaped."""
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.PackageLoader("trt_action.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": lambda value: escape.code(str(value)),
        "prose": lambda value: escape.prose(str(value)),
        "paragraph": lambda value: escape.paragraph(str(value)),
        "percentile_chart": lambda value: Markup(percentile_chart(value)),  # noqa: S704 – labels are ours
    }
    environment.tests |= {
        "mark": lambda value: isinstance(value, Mark),
        "code": lambda value: isinstance(value, Code),
    }
    return environment


def _finalize(value: object) -> object:
    """Everything that a template writes and that is not escaped yet, escaped for Markdown."""
    if isinstance(value, jinja2.Undefined) or hasattr(value, "__html__"):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Markup(fmt.count(value))  # noqa: S704 – digits
    return escape.text("" if value is None else str(value))


def _user_template(path: Path) -> jinja2.Template:
    with open_regular(path, noun="comment template", wrong=SettingsError) as file:
        content = file.read(_TEMPLATE_LIMIT + 1)
    if len(content) > _TEMPLATE_LIMIT:
        raise SettingsError(
            f"The comment template {quote(path)} has more than {fmt.count(_TEMPLATE_LIMIT)} bytes.",
            fix="A comment holds 65,536 bytes; shorten the template.",
        )
    try:
        source = content.decode()
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"The comment template {quote(path)} is no UTF-8 text: {error}.", fix="Check the setting `template`."
        ) from error
    try:
        return _environment().from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise _template_error(path, error) from error


def _template_error(path: Path, error: Exception) -> SettingsError:
    where = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    reason = escape.clip(escape.clean(str(error)), 300) or type(error).__name__
    return SettingsError(
        f"The comment template {quote(path)}{where} does not work: {reason}.",
        why="Templates are Jinja2 in a sandbox; an undefined name is an error.",
        fix="docs/report.md lists the blocks and the names that they may use.",
    )
