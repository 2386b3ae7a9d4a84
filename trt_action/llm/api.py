"""The wire format of OpenAI's chat completions and completions: what is sent, and what a streamed piece holds.

Source: OpenAI's API reference (https://platform.openai.com/docs/api-reference/chat/create), and what vLLM, TensorRT-LLM
and llama.cpp add to it (`ignore_eos`, `reasoning_content`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from trt_action.llm.prompts import Prompt

Api = Literal["chat", "completions"]
DONE = "[DONE]"
PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
TOP_LOGPROBS: dict[Api, int] = {"chat": 20, "completions": 5}
"""The most that the API reference allows."""

DROPPABLE = ("stream_options", "seed", "ignore_eos")
"""Fields that not every server knows; a request is tried again without the one that a server names."""


class WrongAnswerError(ValueError):
    """A piece of an answer is not what the API says; the message says what."""


@dataclass(frozen=True)
class Piece:
    """What one event of a stream says. `text` is shown to a user, `hidden` is reasoning or a tool call."""

    text: str = ""
    hidden: bool = False
    finish: str | None = None
    usage: tuple[int, int] | None = None
    """Tokens of the prompt and of the answer."""
    logprobs: Mapping[str, float] = field(default_factory=dict)
    choices: int = 0
    error: str = ""

    @property
    def is_token(self) -> bool:
        return bool(self.text) or self.hidden


def request(
    api: Api, model: str, prompt: Prompt, *, max_tokens: int, seed: int, ignore_eos: bool, logprobs: bool
) -> dict[str, Any]:
    """The body of a streamed request without chance: temperature 0 and a fixed seed."""
    body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": 0, "seed": seed, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if api == "chat":
        body["messages"] = list(prompt.messages)
    else:
        body["prompt"] = prompt.text
    if ignore_eos:
        body["ignore_eos"] = True
    if logprobs:
        asked = {"logprobs": True, "top_logprobs": TOP_LOGPROBS["chat"]}
        body |= asked if api == "chat" else {"logprobs": TOP_LOGPROBS["completions"]}
    return body


def parse(api: Api, data: str) -> Piece:
    """The data of one event, `[DONE]` excepted.

    Raises:
        WrongAnswerError: no JSON object, a member of the wrong type, NaN.
    """
    content = load(data)
    if error := content.get("error"):
        return Piece(error=message(error))
    choices = content.get("choices")
    if choices is None and content.get("usage") is not None:
        choices = []
    if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
        raise WrongAnswerError("a piece has no list `choices`")
    usage = _usage(content.get("usage"))
    if not choices:
        return Piece(usage=usage)
    first = choices[0]
    text, hidden = _chat_text(first) if api == "chat" else (_string(first, "text"), False)
    finish = first.get("finish_reason")
    if finish is not None and not isinstance(finish, str):
        raise WrongAnswerError("`finish_reason` is no text")
    found = _chat_logprobs(first) if api == "chat" else _completion_logprobs(first)
    return Piece(text, hidden, finish, usage, found, len(choices))


def load(data: str | bytes) -> dict[str, Any]:
    """A JSON object without NaN.

    Raises:
        WrongAnswerError: anything else.
    """
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WrongAnswerError(f"it is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise WrongAnswerError("it is no JSON object")
    return content


def message(error: object) -> str:
    """What an error object of the API says."""
    if isinstance(error, Mapping):
        inner = error.get("error")
        if isinstance(inner, Mapping | str):
            return message(inner)
        for key in ("message", "detail"):
            if isinstance(error.get(key), str):
                return str(error[key])
    return error if isinstance(error, str) else json.dumps(error, default=str)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def _chat_text(choice: Mapping[str, Any]) -> tuple[str, bool]:
    delta = choice.get("delta")
    if delta is None:
        delta = {}
    if not isinstance(delta, dict):
        raise WrongAnswerError("`delta` is no object")
    hidden = any(_string(delta, name) for name in ("reasoning_content", "reasoning")) or bool(delta.get("tool_calls"))
    return _string(delta, "content"), hidden


def _string(owner: Mapping[str, Any], name: str) -> str:
    value = owner.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise WrongAnswerError(f"`{name}` is no text")
    return value


def _usage(found: object) -> tuple[int, int] | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise WrongAnswerError("`usage` is no object")
    return _count(found.get("prompt_tokens")), _count(found.get("completion_tokens"))


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WrongAnswerError("`usage` holds no token counts")
    return value


def _chat_logprobs(choice: Mapping[str, Any]) -> dict[str, float]:
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    if not content:
        return {}
    try:
        return {one["token"]: _finite(one["logprob"]) for one in content[0]["top_logprobs"]}
    except (KeyError, IndexError, TypeError):
        raise WrongAnswerError("`logprobs` are not as the API says") from None


def _completion_logprobs(choice: Mapping[str, Any]) -> dict[str, float]:
    found = choice.get("logprobs")
    if not found:
        return {}
    try:
        if "content" in found:  # llama.cpp answers completions in the form of chat completions
            return _chat_logprobs(choice)
        return {token: _finite(value) for token, value in found["top_logprobs"][0].items()}
    except (AttributeError, KeyError, IndexError, TypeError):
        raise WrongAnswerError("`logprobs` are not as the API says") from None


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WrongAnswerError("a log probability is no finite number")
    return float(value)
