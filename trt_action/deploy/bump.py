"""An image in a YAML file, changed in place: only the bytes of the scalar are others than before. Pure.

PyYAML's marks say where a scalar stands; everything else (comments, order, quotes, line ends, documents) is not written
again but kept. ruamel.yaml, which round-trips, does not keep all of it: docs/decisions/0019-deploy.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote, quote_all
from trt_action.publish.reference import Reference

MAX_BYTES = 4_000_000
_STEP = re.compile(
    r"""\.?(?:(?P<key>[^.\[\]"']+)|\[(?P<index>\d{1,6})\]|\["(?P<quoted>[^"]+)"\]|\[(?P<field>[\w.-]+)=(?P<value>[^\]]+)\])"""
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@:+-]*")


@dataclass(frozen=True)
class Edit:
    """Characters `start` to `end` of a text become `new`."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Wish:
    """What is to be set: `full` paths get `HOST/NAME@sha256:…`, `digest` paths the digest alone, and `kustomize` names
    entries of `images:`. `document`: which of several documents, as its number (from 0) or `Kind/name`."""

    image: Reference
    full: tuple[str, ...] = ()
    digest: tuple[str, ...] = ()
    kustomize: tuple[str, ...] = ()
    document: str | None = None


def bump(content: bytes, wish: Wish, name: str) -> bytes:
    """The file with the image in it; the same bytes where it is there already.

    Args:
        name: of the file, for messages.

    Raises:
        SettingsError: no YAML, no such path, more than one, or a value that is no plain or quoted text.
    """
    text = _decoded(content, name)
    for path in wish.full:
        text = _set(text, path, str(wish.image), wish.document, name)
    for path in wish.digest:
        text = _set(text, path, str(wish.image.digest), wish.document, name)
    for entry in wish.kustomize:
        text = _kustomized(text, entry, wish.image, name)
    return text.encode()


def read(content: bytes, path: str, document: str | None, name: str) -> str:
    """What stands at a path.

    Raises:
        SettingsError: as `bump`.
    """
    text = _decoded(content, name)
    return str(_scalar(_resolved(text, path, document, name), path, name).value)


def _decoded(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise SettingsError(f"The file {quote(name)} has more than {MAX_BYTES} bytes.", fix="Name the right file.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"The file {quote(name)} is not UTF-8.", fix="Save it as UTF-8.") from None


def _set(text: str, path: str, value: str, document: str | None, name: str) -> str:
    node = _scalar(_resolved(text, path, document, name), path, name)
    return _applied(text, [_edit(text, node, value, path, name)], name)


def _kustomized(text: str, entry: str, image: Reference, name: str) -> str:
    """`digest` and `newName` of one entry of `images:`; a `newTag` makes room for the digest.
    https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/images/"""
    entries = _resolved(text, "images", None, name)
    found = [
        one
        for one in (entries.value if isinstance(entries, yaml.SequenceNode) else [])
        if isinstance(one, yaml.MappingNode) and _value(one, "name") == entry
    ]
    if len(found) != 1:
        known = [_value(one, "name") for one in getattr(entries, "value", []) if isinstance(one, yaml.MappingNode)]
        raise SettingsError(
            f"`images:` in {quote(name)} has {len(found) or 'no'} entries with the name {quote(entry)}.",
            why=f"There are: {quote_all(known)}." if known else "",
            fix="Name one of them with `--kustomize`.",
        )
    (chosen,) = found
    fields = {key.value: (key, value) for key, value in chosen.value}
    edits, lines = [], []
    if "newName" in fields:
        edits.append(_edit(text, _scalar(fields["newName"][1], "newName", name), image.name, "newName", name))
    elif entry != image.name:
        lines.append(f"newName: {image.name}")
    if "digest" in fields:
        edits.append(_edit(text, _scalar(fields["digest"][1], "digest", name), str(image.digest), "digest", name))
    elif "newTag" in fields:
        key, value = fields["newTag"]
        edits.append(Edit(key.start_mark.index, key.end_mark.index, "digest"))
        edits.append(_edit(text, _scalar(value, "newTag", name), str(image.digest), "newTag", name))
    else:
        lines.append(f"digest: {image.digest}")
    if lines:
        edits.append(_inserted(text, chosen, lines, name))
    return _applied(text, edits, name)


def _inserted(text: str, entry: yaml.MappingNode, lines: Sequence[str], name: str) -> Edit:
    """New lines behind the entry's `name`, as deep as it."""
    key, value = next((key, value) for key, value in entry.value if key.value == "name")
    if entry.flow_style:
        raise SettingsError(
            f"The entry in {quote(name)}, line {key.start_mark.line + 1}, is written in braces: no line can be added.",
            fix="Write it over several lines, or add `newName` and `digest` once by hand.",
        )
    end = text.find("\n", value.end_mark.index)
    end = len(text) if end < 0 else end
    line_end = "\r\n" if text[:end].endswith("\r") else "\n"
    end -= len(line_end) - 1
    return Edit(end, end, "".join(f"{line_end}{' ' * key.start_mark.column}{line}" for line in lines))


def _edit(text: str, node: yaml.ScalarNode, value: str, path: str, name: str) -> Edit:
    """The scalar's own characters, its quotes kept; an anchor or a tag before it stays."""
    if node.style is None and not node.value:
        return _filled(text, node, value, path, name)
    start, end = _exact(text, node)
    if node.style in ("|", ">"):
        raise SettingsError(
            f"`{path}` in {quote(name)}, line {node.start_mark.line + 1}, is a block of text.",
            fix="Write the image on one line, plain or in quotes.",
        )
    if node.style is None and not _PLAIN.fullmatch(value):
        raise SettingsError(f"{quote(value)} cannot be written without quotes.", fix=f"Put `{path}` into quotes.")
    mark = node.style or ""
    return Edit(start, end, f"{mark}{value}{mark}")


def _filled(text: str, node: yaml.ScalarNode, value: str, path: str, name: str) -> Edit:
    """Nothing stands there yet: `key:` or `-`, perhaps with a comment behind it."""
    place = node.start_mark.index
    if text[place - 1 : place] not in (":", "-") or not _PLAIN.fullmatch(value):
        raise SettingsError(
            f"`{path}` in {quote(name)}, line {node.start_mark.line + 1}, is empty.", fix="Write the image there once."
        )
    return Edit(place, place, f" {value}")


def _exact(text: str, node: yaml.ScalarNode) -> tuple[int, int]:
    """A node's marks begin at its anchor or tag; those of its token do not."""
    end = node.end_mark.index
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.ScalarToken) and token.end_mark.index == end:
            return token.start_mark.index, end
    raise AssertionError("a scalar has a token")


def _applied(text: str, edits: Sequence[Edit], name: str) -> str:
    for edit in sorted(edits, key=lambda one: one.start, reverse=True):
        text = text[: edit.start] + edit.new + text[edit.end :]
    _documents(text, name)  # still YAML
    return text


def _documents(text: str, name: str) -> list[yaml.Node]:
    try:
        return [one for one in yaml.compose_all(text, Loader=yaml.SafeLoader) if one is not None]
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"The file {quote(name)}{where} is no YAML: {getattr(error, 'problem', None) or type(error).__name__}.",
            fix="A template (Helm, Jinja) cannot be changed by path: name its values file.",
        ) from None


def _resolved(text: str, path: str, document: str | None, name: str) -> yaml.Node:
    """The node at a path, in the one document that has it."""
    steps = _steps(path)
    documents = list(enumerate(_documents(text, name)))
    chosen = [(number, one) for number, one in documents if document in (None, str(number), _called(one))]
    if not documents:
        raise SettingsError(f"The file {quote(name)} is empty.", fix="Name the right file.")
    if not chosen:
        known = [_called(one) or str(number) for number, one in documents]
        raise SettingsError(
            f"{quote(name)} has no document {quote(document)}.", why=f"There are: {quote_all(known)}.", fix="Name one."
        )
    found, missing = [], []
    for number, one in chosen:
        try:
            found.append((number, _walked(one, steps, path, name)))
        except _MissingError as error:
            missing.append(str(error))
    if len(found) > 1:
        known = [_called(documents[number][1]) or str(number) for number, _ in found]
        raise SettingsError(
            f"`{path}` is in {len(found)} documents of {quote(name)}.",
            why=f"They are: {quote_all(known)}.",
            fix="Say which one, with `--document KIND/NAME`.",
        )
    if not found:
        raise SettingsError(f"`{path}` is not in {quote(name)}.", why=missing[0] if missing else "", fix="Correct it.")
    return found[0][1]


class _MissingError(Exception):
    """A document has no such path."""


def _walked(node: yaml.Node, steps: Sequence[tuple[str, Any]], path: str, name: str) -> yaml.Node:
    for kind, what in steps:
        inner, after = _child(node, kind, what)
        if inner.start_mark.index < after:
            raise SettingsError(
                f"`{path}` in {quote(name)} goes through an alias (`*…`), so the change would show elsewhere too.",
                fix=f"Name the path of the anchor, at line {inner.start_mark.line + 1}.",
            )
        node = inner
    return node


def _child(node: yaml.Node, kind: str, what: Any) -> tuple[yaml.Node, int]:
    """The node of one step, and where it begins at the earliest if it is no alias."""
    if kind == "key":
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [str(key.value) for key, _ in pairs]
        found = [(value, key.end_mark.index) for key, value in pairs if key.value == what]
        if len(found) > 1:
            raise SettingsError(
                f"{quote(what)} is there {len(found)} times in one mapping, at line {found[-1][0].start_mark.line + 1} too.",
                fix="Remove one: most readers take the last.",
            )
        if found:
            return found[0]
        near = nearest(what, keys)
        raise _MissingError(f"There is no {quote(what)}" + (f"; there is {quote(near)}." if near else "."))
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    if kind == "index":
        if what >= len(items):
            raise _MissingError(f"There is no entry {what}: the list has {len(items)}.")
        return items[what], node.start_mark.index
    field, value = what
    matching = [one for one in items if isinstance(one, yaml.MappingNode) and _value(one, field) == value]
    if len(matching) != 1:
        raise _MissingError(f"{len(matching) or 'No'} entries of the list have {field}={value}.")
    return matching[0], node.start_mark.index


def _steps(path: str) -> list[tuple[str, Any]]:
    """`a.b[0].c`, `a["b.c"]`, `a[name=x].c`."""
    steps: list[tuple[str, Any]] = []
    end = 0
    while end < len(path):
        found = _STEP.match(path, end)
        if found is None or (path[end] == "." and end == 0):
            raise SettingsError(
                f"{quote(path)} is no path in a YAML file.",
                fix='Write it as `spec.template.spec.containers[name=detector].image`, or `a["b.c"][0]`.',
            )
        if found["index"]:
            steps.append(("index", int(found["index"])))
        elif found["field"]:
            steps.append(("match", (found["field"], found["value"])))
        else:
            steps.append(("key", found["key"] or found["quoted"]))
        end = found.end()
    if not steps:
        raise SettingsError("The path in the YAML file is empty.", fix="Write for example `--path image`.")
    return steps


def _scalar(node: yaml.Node, path: str, name: str) -> yaml.ScalarNode:
    if not isinstance(node, yaml.ScalarNode):
        raise SettingsError(
            f"`{path}` in {quote(name)} is no text, but a {'list' if isinstance(node, yaml.SequenceNode) else 'mapping'}.",
            fix="Name the path of the image's text.",
        )
    return node


def _called(document: yaml.Node) -> str:
    """`Kind/name` of a Kubernetes object; empty for other documents."""
    for kind in _values(document, "kind"):
        for metadata in _values(document, "metadata"):
            for named in _values(metadata, "name"):
                return f"{kind.value}/{named.value}"
    return ""


def _values(node: yaml.Node, key: str) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        yield from (value for one, value in node.value if one.value == key)


def _value(node: yaml.Node, key: str) -> str | None:
    found = next(_values(node, key), None)
    return str(found.value) if isinstance(found, yaml.ScalarNode) else None
