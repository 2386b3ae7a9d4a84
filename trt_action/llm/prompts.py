"""Prompts and questions from files, and the order in which they are asked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trt_action.errors import DataError
from trt_action.inputs import is_lfs_pointer, open_regular, quote, quote_all
from trt_action.llm_records import Lengths

Kind = Literal["exact", "contains", "regex", "choice"]
KINDS: tuple[Kind, ...] = ("exact", "contains", "regex", "choice")
ROLES = {"system", "developer", "user", "assistant"}
KEYS = {"prompt", "messages", "max_tokens", "expected", "kind", "choices", "id"}
MAX_BYTES = 64_000_000
MAX_PROMPTS = 100_000
MAX_TOKENS = 100_000


@dataclass(frozen=True)
class Question:
    """The right answer. For `choice`, `expected` is one of `choices`; for `regex` a pattern that is searched."""

    expected: str
    kind: Kind = "exact"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """What is asked, in both forms. `line`: where it stands in its file."""

    messages: tuple[Mapping[str, str], ...]
    text: str | None
    max_tokens: int | None = None
    question: Question | None = None
    line: int = 0

    @property
    def characters(self) -> int:
        return sum(len(one["content"]) for one in self.messages)

    def numbered(self, number: int) -> Prompt:
        """With `number` before the last thing that the user says: what comes before it (a system prompt) may be
        answered from the server's prefix cache, as in production, and the rest not."""
        mark = f"{number:06d}. "
        last = max(i for i, one in enumerate(self.messages) if one["role"] == "user")
        messages = list(self.messages)
        messages[last] = {**messages[last], "content": mark + messages[last]["content"]}
        return replace(self, messages=tuple(messages), text=None if self.text is None else mark + self.text)


@dataclass(frozen=True)
class PromptFile:
    """What a file holds. `sha256` is over its bytes."""

    prompts: tuple[Prompt, ...]
    sha256: str

    @property
    def questions(self) -> tuple[Prompt, ...]:
        return tuple(one for one in self.prompts if one.question)


def load(path: Path, *, completions: bool, questions: bool = False) -> PromptFile:
    """Read `.jsonl` (an object per line) or anything else as text, one prompt per line that is not empty.

    Args:
        completions: only texts can be asked, no lists of messages.
        questions: each line must have an `expected` answer.

    Raises:
        DataError: missing, empty, too large, or a line that is not as it must be; names the line.
        StorageError: it cannot be read.
    """
    with open_regular(path, noun="prompts file", wrong=DataError) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(
            f"The prompts file {quote(path)} is larger than {MAX_BYTES // 1_000_000} MB.", fix="Shorten it."
        )
    if is_lfs_pointer(content):
        raise DataError(f"{quote(path)} is a Git LFS pointer.", fix="Fetch the file: `git lfs pull`.")
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"The prompts file {quote(path)} is no UTF-8 text: {error}.", fix="Save it as UTF-8.") from None
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(filled) <= MAX_PROMPTS:
        raise DataError(
            f"The prompts file {quote(path)} holds {len(filled)} prompts.", fix=f"Give 1 to {MAX_PROMPTS:,} of them."
        )
    as_json = path.suffix in {".jsonl", ".ndjson", ".json"}
    prompts = [_json_line(path, number, line) if as_json else _of_text(line, number) for number, line in filled]
    for prompt in prompts:
        if completions and prompt.text is None:
            raise _bad(path, prompt.line, "has `messages`, and `endpoint-api: completions` takes a `prompt`")
        if questions and prompt.question is None:
            raise _bad(path, prompt.line, "has no `expected` answer")
    return PromptFile(tuple(prompts), hashlib.sha256(content).hexdigest())


def _of_text(text: str, line: int) -> Prompt:
    return Prompt(({"role": "user", "content": text},), text, line=line)


def _json_line(path: Path, number: int, line: str) -> Prompt:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(path, number, f"is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise _bad(path, number, "is no JSON object")
    if unknown := set(content) - KEYS:
        raise _bad(path, number, f"has the unknown keys {quote_all(sorted(unknown))}")
    max_tokens = content.get("max_tokens")
    if max_tokens is not None and not (type(max_tokens) is int and 1 <= max_tokens <= MAX_TOKENS):
        raise _bad(path, number, f"has a `max_tokens` that is no whole number from 1 to {MAX_TOKENS:,}")
    if ("prompt" in content) == ("messages" in content):
        raise _bad(path, number, "needs either `prompt` or `messages`")
    if "prompt" in content:
        if not isinstance(content["prompt"], str) or not content["prompt"]:
            raise _bad(path, number, "has a `prompt` that is no text")
        prompt = _of_text(content["prompt"], number)
    else:
        prompt = Prompt(_messages(path, number, content["messages"]), None, line=number)
    return replace(prompt, max_tokens=max_tokens, question=_question(path, number, content))


def _messages(path: Path, number: int, found: Any) -> tuple[dict[str, str], ...]:
    messages = found if isinstance(found, list) else []
    for one in messages:
        known = isinstance(one, dict) and set(one) == {"role", "content"} and one["role"] in ROLES
        if not known or not isinstance(one["content"], str):
            raise _bad(path, number, "has a message without `role` (system, user, assistant) and `content` (text)")
    if not any(one["role"] == "user" for one in messages):
        raise _bad(path, number, "has no message of a user")
    return tuple(messages)


def _question(path: Path, number: int, content: Mapping[str, Any]) -> Question | None:
    if "expected" not in content:
        if "kind" in content or "choices" in content:
            raise _bad(path, number, "has a `kind` and no `expected` answer")
        return None
    expected, kind = content["expected"], content.get("kind", "exact")
    if not isinstance(expected, str) or not expected:
        raise _bad(path, number, "has an `expected` answer that is no text")
    if kind not in KINDS:
        raise _bad(path, number, f"has the unknown `kind` {quote(kind)}; there are {', '.join(KINDS)}")
    choices = content.get("choices", [])
    if kind == "choice":
        texts = isinstance(choices, list) and all(isinstance(one, str) and one for one in choices)
        if not texts or len(set(choices)) < 2 or expected not in choices:
            raise _bad(path, number, "is a `choice` and needs `choices`: two texts or more, `expected` one of them")
    elif choices:
        raise _bad(path, number, f"has `choices`, and its `kind` is `{kind}`")
    if kind == "regex":
        try:
            re.compile(expected)
        except (re.error, OverflowError, RecursionError) as error:
            raise _bad(path, number, f"has an `expected` that is no regular expression ({error})") from None
    return Question(expected, kind, tuple(choices))


def _bad(path: Path, number: int, reason: str) -> DataError:
    return DataError(
        f"{quote(path.name)}, line {number}: it {reason}.",
        fix='Write for example {"prompt": "What is 2 + 2?", "expected": "4", "kind": "contains"} (docs/llm.md).',
    )


def lengths(values: Sequence[int], unit: Literal["tokens", "characters"]) -> Lengths | None:
    """The distribution of lengths; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    n = len(ordered)
    return Lengths(
        unit=unit,
        n=n,
        min=ordered[0],
        mean=sum(ordered) / n,
        p50=ordered[(n - 1) // 2],
        p90=ordered[min(n - 1, int(0.9 * n))],
        max=ordered[-1],
    )


def order(prompts: Sequence[Prompt], seed: int, *, unique: bool, stream: int) -> Iterator[Prompt]:
    """Prompts without end: all of them in a seeded order, then again in another one. The order depends on `seed` alone,
    so that both sides get the same; the numbers in front of them (`unique`) depend on `stream` too, so that a server
    that is asked by two streams does not meet a prompt twice."""
    shuffle = np.random.default_rng(seed)
    numbers = np.random.default_rng((seed, stream))
    while True:
        for index in shuffle.permutation(len(prompts)):
            prompt = prompts[int(index)]
            yield prompt.numbered(int(numbers.integers(0, 1_000_000))) if unique else prompt
