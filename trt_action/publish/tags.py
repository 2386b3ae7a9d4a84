"""Which tags an image gets: rules in the manner of docker/metadata-action, and the facts of this run. Pure.

A rule is one line, `type=TYPE[,key=value]…`:

    type=sha[,format=short]            the commit (short: 7 digits)
    type=ref,event=branch|tag|pr       the branch, the Git tag, `pr-<number>`
    type=semver[,pattern=PATTERN]      of a Git tag `v1.2.3`: `1.2.3`, `1.2`, `1`, `latest`; or the pattern alone
    type=raw,value=TEXT                your own text

Patterns and values may hold `{{version}}`, `{{major}}`, `{{minor}}`, `{{patch}}`, `{{raw}}`, `{{branch}}`, `{{tag}}`,
`{{sha}}`, `{{model}}`, `{{gpu}}`, `{{precision}}` and `{{backend}}`. Every rule takes `prefix=`, `suffix=`,
`enable=true|false|{{is_default_branch}}`, and `variant=both|only|none`: with `<model>-<gpu>-<precision>-` in front too,
only so, or not at all. Versions: https://semver.org/spec/v2.0.0.html.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote
from trt_action.publish.reference import MAX_TAG, is_tag

DEFAULT_RULES = ("type=sha", "type=ref,event=branch", "type=semver")

_TYPES: Mapping[str, frozenset[str]] = {
    "sha": frozenset({"format"}),
    "ref": frozenset({"event"}),
    "semver": frozenset({"pattern"}),
    "raw": frozenset({"value"}),
}
_COMMON = frozenset({"prefix", "suffix", "enable", "variant"})
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "format": ("short", "long"),
    "event": ("branch", "tag", "pr"),
    "enable": ("true", "false", "{{is_default_branch}}"),
    "variant": ("both", "only", "none"),
}
_NUMBER = r"(?:0|[1-9]\d*)"
_WORD = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(rf"v?({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_WORD}))?(?:\+({_WORD}))?", re.ASCII)
_PLACEHOLDER = re.compile(r"\{\{\s*([a-z_]+)\s*\}\}")
_RESERVED = re.compile(
    r"latest|\d+(\.\d+){0,2}([-_].*)?|[0-9a-f]{7,64}|sha(256|512)-[0-9a-f]{32,}.*|pr-\d+|runtime-.*", re.ASCII
)
"""Names that mean something else: a branch may not take them."""


@dataclass(frozen=True)
class Facts:
    """What tags are made of. `tag` is a Git tag; `gpu` is `cpu` where there is none."""

    commit: str = ""
    branch: str | None = None
    tag: str | None = None
    pull_request: int | None = None
    default_branch: bool = False
    model: str = ""
    gpu: str = "cpu"
    precision: str = ""
    backend: str = ""

    @property
    def variant(self) -> str:
        """`<model>-<gpu>-<precision>`, lower-case; empty without a model."""
        parts = (self.model, self.gpu, self.precision) if self.model else ()
        return "-".join(sanitized(part) for part in parts if part).lower()


@dataclass(frozen=True)
class Version:
    """A semantic version. Build metadata are no part of its precedence."""

    major: int
    minor: int
    patch: int
    prerelease: str = ""
    build: str = ""

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """Of `1.2.3` or `v1.2.3`, with `-pre` and `+build` as they may follow; None of anything else."""
        found = _VERSION.fullmatch(text)
        if found is None or any(part.isdigit() and part != str(int(part)) for part in (found[4] or "").split(".")):
            return None
        return cls(int(found[1]), int(found[2]), int(found[3]), found[4] or "", found[5] or "")

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.major, self.minor, self.patch

    def __str__(self) -> str:
        """As a tag: `+` is not allowed there, and becomes `_` as Helm writes it."""
        text = f"{self.major}.{self.minor}.{self.patch}"
        return text + (f"-{self.prerelease}" if self.prerelease else "") + (f"_{self.build}" if self.build else "")


@dataclass(frozen=True)
class Rule:
    """One line of `tags`."""

    text: str
    kind: str
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tag:
    """`source`: what the tag stands for; two that stand for different things must not share a name."""

    name: str
    source: str


def rules(lines: Iterable[str]) -> tuple[Rule, ...]:
    """The rules of these lines; of none, the default ones. Empty lines and `#` comments are skipped.

    Raises:
        SettingsError: a line is no rule.
    """
    texts = [line.strip() for line in lines]
    given = [text for text in texts if text and not text.startswith("#")]
    return tuple(_rule(text) for text in given or DEFAULT_RULES)


def make(chosen: Sequence[Rule], facts: Facts, existing: Collection[str] = ()) -> list[str]:
    """The tags of an image, the first one the most telling; none twice.

    Args:
        existing: tags that the repository has: `1.2`, `1` and `latest` never go back behind a higher version.

    Raises:
        SettingsError: no rule gives a tag, two give the same for different things, or a branch has a reserved name.
    """
    found: dict[str, str] = {}
    for rule in chosen:
        if not _enabled(rule, facts):
            continue
        for one in _tags(rule, facts, existing):
            if found.setdefault(one.name, one.source) != one.source:
                raise SettingsError(
                    f"The tag {quote(one.name)} stands for {quote(found[one.name])} and for {quote(one.source)}.",
                    why="Whoever pulls it could not know what it is.",
                    fix="Give one of the rules in `tags` a `prefix=`.",
                )
    if not found:
        unknown = "" if facts.commit else " The commit is not known: the model was not measured in a Git work tree."
        sha = "Add `type=sha`, which gives the commit, or" if facts.commit else "Measure it in its repository, or add"
        raise SettingsError(
            "No rule in `tags` gives a tag for this event.",
            why=f"The rules are: {', '.join(quote(rule.text) for rule in chosen)}.{unknown}",
            fix=f"{sha} `type=raw,value=TEXT` (`trt-action publish`: `--tag type=raw,value=TEXT`).",
        )
    return list(found)


def sanitized(text: str) -> str:
    """`text` as a tag: what is not allowed becomes `-`; too long a one is cut and ends in a part of its hash."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip(".-") or "x"
    if len(name) > MAX_TAG:
        name = f"{name[: MAX_TAG - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def gpu_word(name: str | None) -> str:
    """A GPU's name as part of a tag: `NVIDIA A100-SXM4-80GB` → `a100-sxm4-80gb`; `cpu` of none."""
    bare = re.sub(r"(?i)\b(nvidia|tesla|geforce|quadro)\b", " ", name or "cpu")
    return sanitized("-".join(re.findall(r"[A-Za-z0-9_.-]+", bare))).rstrip("-.").lower() or "gpu"


def _rule(text: str) -> Rule:
    keys: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or name in keys:
            raise _bad(text, f"{quote(part)} is not `key=value`, or is there twice")
        keys[name] = value.strip()
    kind = keys.pop("type", "")
    if kind not in _TYPES:
        near = nearest(kind, _TYPES)
        raise _bad(text, f"there is no type {quote(kind)}" + (f"; did you mean `{near}`?" if near else ""))
    for name, value in keys.items():
        _check_key(text, kind, name, value)
    for needed, of in (("event", "ref"), ("value", "raw")):
        if kind == of and not keys.get(needed):
            raise _bad(text, f"`type={of}` needs `{needed}=`")
    return Rule(text, kind, keys)


def _check_key(text: str, kind: str, name: str, value: str) -> None:
    if name not in _TYPES[kind] | _COMMON:
        raise _bad(text, f"`type={kind}` has no {quote(name)}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise _bad(text, f"`{name}` is one of {', '.join(_CHOICES[name])}")
    for placeholder in _PLACEHOLDER.findall(value):
        if placeholder not in _PLACEHOLDERS and placeholder != "is_default_branch":
            raise _bad(text, f"there is no `{{{{{placeholder}}}}}`")


def _bad(text: str, why: str) -> SettingsError:
    return SettingsError(
        f"The rule {quote(text)} in `tags` cannot be read: {why}.",
        fix="Write one a line, for example `type=sha`, `type=ref,event=branch` or `type=semver,pattern={{version}}`.",
    )


def _enabled(rule: Rule, facts: Facts) -> bool:
    asked = rule.keys.get("enable", "true")
    return facts.default_branch if asked == "{{is_default_branch}}" else asked == "true"


def _tags(rule: Rule, facts: Facts, existing: Collection[str]) -> list[_Tag]:
    where = rule.keys.get("variant", "both")
    scopes = [f"{facts.variant}-"] if facts.variant and where != "none" else []
    if where != "only" or not facts.variant:
        scopes.insert(0, "")
    prefix, suffix = (_filled(rule.keys.get(key, ""), facts) for key in ("prefix", "suffix"))
    found = []
    for scope in scopes:
        front = scope + prefix
        others = [tag.removeprefix(front).removesuffix(suffix) for tag in existing if tag.startswith(front)]
        for name, source in _named(rule, facts, others):
            found.append(_Tag(_checked(front + name + suffix, rule), f"{scope}{source}"))
    return found


def _named(rule: Rule, facts: Facts, others: Sequence[str]) -> list[tuple[str, str]]:
    """(name, what it stands for), before prefix and suffix."""
    if rule.kind == "sha":
        short = rule.keys.get("format") == "short"
        return [(facts.commit[:7] if short else facts.commit, f"commit {facts.commit}")] if facts.commit else []
    if rule.kind == "ref":
        return _ref(rule, facts)
    if rule.kind == "semver":
        return _semver(rule, facts, others)
    value = _filled(rule.keys["value"], facts)
    return [(value, f"text {value}")] if value else []


def _ref(rule: Rule, facts: Facts) -> list[tuple[str, str]]:
    event = rule.keys["event"]
    if event == "pr":
        number = facts.pull_request
        return [] if number is None else [(f"pr-{number}", f"pull request {number}")]
    name = facts.branch if event == "branch" else facts.tag
    if not name:
        return []
    if event == "branch" and not rule.keys.get("prefix") and _RESERVED.fullmatch(sanitized(name)):
        raise SettingsError(
            f"The branch {quote(name)} would give a tag that means something else: a release, a commit or an artifact.",
            fix="Name it apart in `tags`: `type=ref,event=branch,prefix=branch-`.",
        )
    return [(name, f"{event} {name}")]


def _semver(rule: Rule, facts: Facts, others: Sequence[str]) -> list[tuple[str, str]]:
    version = Version.parse(facts.tag or "")
    pattern = rule.keys.get("pattern")
    if not facts.tag or (version is None and pattern):
        return []
    if version is None:
        return [(facts.tag, f"tag {facts.tag}")]
    if pattern is None:
        return release(version, others)
    held = set(_PLACEHOLDER.findall(pattern))
    digits = 2 if "minor" in held else 1 if "major" in held else 0
    moves = not held & {"version", "raw", "tag", "patch"}
    if moves and not _newest(version, digits, others):
        return []
    return [(_filled(pattern, facts), f"release {version}")]


def release(version: Version, others: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(tag, what it stands for) of a release: itself, and `1.2`, `1` and `latest`, which move to it unless a higher
    version among `others` has them. A pre-release moves none; `0` is never given: in 0.x a minor version may break."""
    known = list(others)
    moving = [(f"{version.major}.{version.minor}", 2), (f"{version.major}", 1), ("latest", 0)]
    names = [name for name, digits in moving if name != "0" and _newest(version, digits, known)]
    return [(name, f"release {version}") for name in [str(version), *names]]


def _newest(version: Version, digits: int, others: Iterable[str]) -> bool:
    """Whether no release among `others` that shares the first `digits` numbers is higher; never of a pre-release."""
    parsed = [one for one in (Version.parse(tag.replace("_", "+", 1)) for tag in others) if one and not one.prerelease]
    same = [one.numbers for one in parsed if one.numbers[:digits] == version.numbers[:digits]]
    return not version.prerelease and max(same, default=version.numbers) <= version.numbers


_PLACEHOLDERS = frozenset(
    {"version", "major", "minor", "patch", "raw", "branch", "tag", "sha", "model", "gpu", "precision", "backend"}
)


def _filled(text: str, facts: Facts) -> str:
    version = Version.parse(facts.tag or "")
    values = {
        "version": str(version) if version else "",
        "major": str(version.major) if version else "",
        "minor": str(version.minor) if version else "",
        "patch": str(version.patch) if version else "",
        "raw": facts.tag or "",
        "tag": facts.tag or "",
        "branch": facts.branch or "",
        "sha": facts.commit[:7],
        "model": facts.model,
        "gpu": facts.gpu,
        "precision": facts.precision,
        "backend": facts.backend,
    }
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], ""), text)


def _checked(name: str, rule: Rule) -> str:
    tag = sanitized(name)
    if not is_tag(tag):
        raise SettingsError(
            f"The rule {quote(rule.text)} gives {quote(name)}, which is no tag.", fix="Use other words."
        )
    return tag
