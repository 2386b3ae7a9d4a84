"""Foreign text made harmless: model names, paths, error texts and settings come from strangers' pull requests.

Two kinds of places exist in Markdown. `text` is for running text and table cells, `code` for names and paths, `block`
for output of several lines. Each returns `Markup`: text that the templates pass through unchanged. The rules follow the
GitHub Flavored Markdown specification (tables, autolinks, raw HTML) and GitHub's own additions (mentions, issue
references, `$` math).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from markupsafe import Markup

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that are not shown: control, format (zero width, bidi), surrogate, private, unassigned."""

_BREAK = "&#8203;"
"""A zero-width space: GitHub links mentions, references and URLs in the rendered text, where an entity is already resolved."""

_INTERVAL = r"\[[−+-]?\d[\d.,]*, [−+-]?\d[\d.,]*\](?![\[(:])"
"""`[1.8, 2.4]`, which is no link; left as it is because every table is full of it."""

_COMPARISON = r"(?<= )[<>](?= )|\A<(?= )"
_SNAKE = r"(?<=[^\W_])_(?=[^\W_])"
_SPECIAL = re.compile(
    rf"(?P<keep>{_INTERVAL}|{_COMPARISON}|{_SNAKE})"
    r"|(?P<url>://)|(?P<www>\bwww\.)|(?P<ref>#(?=\w)|\bGH-(?=\d))|(?P<at>@)"
    r"|(?P<mark>[&<>\\`*_\[\]|~$]+|#)",
    re.IGNORECASE,
)
_LINE_START = re.compile(r"^(\d{1,9})([.)])(?=\s|$)|^([-+](?=\s|$)|-(?=-)|=(?==|$)|:(?=-))")
_PLAIN_CODE = re.compile(r"[\w ./:=,%()−–+×-]+")


def clean(foreign: str, *, lines: bool = False) -> str:
    """The visible characters only, white space collapsed; with `lines`, line ends are kept."""
    if lines:
        kept = foreign.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
        return "".join(c for c in kept if c == "\n" or unicodedata.category(c) not in _HIDDEN)
    spaced = re.sub(r"\s+", " ", foreign)
    return "".join(c for c in spaced if unicodedata.category(c) not in _HIDDEN).strip()


def clip(foreign: str, limit: int) -> str:
    """At most `limit` characters; what is cut is cut from the middle, since both ends of a path or a log matter."""
    if len(foreign) <= limit:
        return foreign
    tail = limit // 3
    return f"{foreign[: limit - tail - 1]}…{foreign[len(foreign) - tail :]}"


def text(foreign: str) -> Markup:
    """Running text or a table cell, one line: no markup, mention, reference, link or HTML of its own."""
    escaped = _SPECIAL.sub(_neutral, clean(foreign))
    return Markup(_LINE_START.sub(_neutral_start, escaped))  # noqa: S704 – this is the escaping


def code(foreign: str) -> Markup:
    """A name, path or value in monospace; `–` when there is nothing visible in it."""
    visible = clean(foreign)
    if not visible:
        return Markup("–")
    if _PLAIN_CODE.fullmatch(visible) and "://" not in visible:
        return Markup(f"`{visible}`")  # noqa: S704 – only the characters of _PLAIN_CODE
    return Markup(f"<code>{_entities(visible)}</code>")  # noqa: S704


def prose(foreign: str) -> Markup:
    """Running text in which `backticks` mean code, as in error messages. One line."""
    pieces = clean(foreign).split("`")
    if len(pieces) % 2 == 0:  # an odd backtick is only a sign
        return text(foreign)
    written = [code(piece) if i % 2 else _SPECIAL.sub(_neutral, piece) for i, piece in enumerate(pieces)]
    written[0] = _LINE_START.sub(_neutral_start, written[0])
    return Markup("".join(written))  # noqa: S704 – every piece is escaped


def paragraph(foreign: str) -> Markup:
    """`prose`, or a preformatted block if the text has several lines (such as the end of a log)."""
    return block(foreign) if "\n" in clean(foreign, lines=True).strip() else prose(foreign)


def block(foreign: str) -> Markup:
    """Text of several lines, preformatted."""
    return Markup(f"<pre>{_entities(clean(foreign, lines=True).strip(chr(10)))}</pre>")  # noqa: S704


def _entities(visible: str) -> str:
    """Every ASCII sign that Markdown, HTML or GitHub could read as more than itself becomes a character reference."""
    replace: Callable[[re.Match[str]], str] = lambda match: f"&#{ord(match.group())};"  # noqa: E731
    return re.sub(r"[!-,:-@\[-`{-~]", replace, visible)


def _neutral(match: re.Match[str]) -> str:
    found = match.group()
    if match["keep"]:
        return found
    if match["url"]:
        return f":{_BREAK}//"
    if match["www"]:
        return f"{found[:-1]}{_BREAK}."
    if match["at"]:
        return f"&#64;{_BREAK}"
    if match["ref"]:
        return (found if found != "#" else "&#35;") + _BREAK
    return "".join(f"&#{ord(sign)};" for sign in found)


def _neutral_start(match: re.Match[str]) -> str:
    if match[1]:
        return f"{match[1]}&#{ord(match[2])};"
    return f"&#{ord(match[3])};"
