"""GitLab's reading of `.gitlab-ci.yml` and of components, as far as ours go; what it does not know, it refuses.

Inputs: https://docs.gitlab.com/ci/inputs/; `extends`: /ci/yaml/#extends; `rules:if`: /ci/jobs/job_rules/#cicd-variable-expressions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

KEYWORDS = {"stages", "variables", "default", "workflow", "include"}
_BLOCK = re.compile(r"\$\[\[ inputs\.([\w-]+) \]\]")
_TYPES: dict[str, Any] = {"string": str, "array": list, "boolean": bool, "number": (int, float)}


def component(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """A component with its inputs put in, as `include: component` does."""
    header, body = yaml.safe_load_all(path.read_text())
    declared: dict[str, Any] = header["spec"]["inputs"]
    unknown = set(given) - set(declared)
    assert not unknown, f"unknown input: {unknown}"
    values = {name: given.get(name, one.get("default")) for name, one in declared.items()}
    for name, one in declared.items():
        assert "default" in one or name in given, f"required input {name} has no value"
        assert isinstance(values[name], _TYPES[one.get("type", "string")]), f"{name}: {values[name]!r}"
        assert values[name] in one.get("options", [values[name]]), f"{name}: {values[name]!r} is no option"
    used = set(_BLOCK.findall(path.read_text()))
    assert used == set(declared), f"declared and not used, or the reverse: {used ^ set(declared)}"
    found = _put_in(body, values)
    assert isinstance(found, dict)
    return found


def _put_in(node: Any, values: Mapping[str, Any]) -> Any:
    """A block that is a whole text becomes the value with its type; inside a text it becomes text."""
    if isinstance(node, dict):
        return {_put_in(key, values): _put_in(one, values) for key, one in node.items()}
    if isinstance(node, list):
        return [_put_in(one, values) for one in node]
    if not isinstance(node, str):
        return node
    whole = _BLOCK.fullmatch(node)
    return values[whole[1]] if whole else _BLOCK.sub(lambda match: str(values[match[1]]), node)


def jobs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The jobs with `extends`, `default` and global variables put in, in the order of their stages."""
    raw = {name: one for name, one in config.items() if name not in KEYWORDS}
    found = {}
    for name in raw:
        if not name.startswith("."):
            job = {**config.get("default", {}), **_extended(name, raw)}
            job["variables"] = {**config.get("variables", {}), **job.get("variables", {})}
            found[name] = job
    stages = config.get("stages", [".pre", "build", "test", "deploy", ".post"])
    return dict(sorted(found.items(), key=lambda item: stages.index(item[1].get("stage", "test"))))


def _extended(name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    job = dict(raw[name])
    parents = job.pop("extends", [])
    merged: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        merged = _merged(merged, _extended(parent, raw))
    return _merged(merged, job)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged, everything else is replaced."""
    both = {
        key: _merged(below[key], above[key])
        for key in below
        if isinstance(below[key], dict) and isinstance(above.get(key), dict)
    }
    return {**below, **above, **both}


def runs(job: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    """Whether the job is in a pipeline with these variables: the first rule that fits decides."""
    for rule in job["rules"]:
        assert set(rule) <= {"if", "when"}, rule
        if "if" not in rule or evaluate(rule["if"], env):
            return bool(rule.get("when", "on_success") != "never")
    return False


_TOKEN = re.compile(r'\s*(?:(\$\w+)|"([^"]*)"|(/(?:[^/\\]|\\.)+/i?)|(==|!=|=~|!~|&&|\|\||\(|\)|null))')


def evaluate(text: str, env: Mapping[str, str]) -> bool:
    """A `rules: if` expression. `&&` binds more than `||`; a variable alone is true if it is set and not empty."""
    expression = _Expression(text, env)
    found = expression.any_of()
    assert not expression.words, f"left over: {expression.words}"
    return found


class _Expression:
    """Reads an expression from its left."""

    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self.env = env
        self.words: list[tuple[str, str]] = []
        place = 0
        while place < len(text.rstrip()):
            match = _TOKEN.match(text, place)
            assert match, f"cannot read {text[place:]!r}"
            kind = ("variable", "text", "pattern", "sign")[[group is not None for group in match.groups()].index(True)]
            self.words.append((kind, next(group for group in match.groups() if group is not None)))
            place = match.end()

    def any_of(self) -> bool:
        found = self._all_of()
        while self.words and self.words[0] == ("sign", "||"):
            self.words.pop(0)
            found = self._all_of() or found
        return found

    def _all_of(self) -> bool:
        found = self._one()
        while self.words and self.words[0] == ("sign", "&&"):
            self.words.pop(0)
            found = self._one() and found
        return found

    def _one(self) -> bool:
        if self.words[0] == ("sign", "("):
            self.words.pop(0)
            found = self.any_of()
            assert self.words.pop(0) == ("sign", ")")
            return found
        left = self._value(self.words.pop(0))
        if not self.words or self.words[0][1] not in ("==", "!=", "=~", "!~"):
            return bool(left)
        sign, right = self.words.pop(0)[1], self.words.pop(0)
        if sign in ("==", "!="):
            return (left == self._value(right)) == (sign == "==")
        assert right[0] == "pattern", "a pattern belongs right of =~"
        pattern = re.compile(right[1].rstrip("i").strip("/"), re.IGNORECASE if right[1].endswith("i") else 0)
        return (pattern.search(left or "") is not None) == (sign == "=~")

    def _value(self, word: tuple[str, str]) -> str | None:
        return self.env.get(word[1][1:]) if word[0] == "variable" else None if word == ("sign", "null") else word[1]
