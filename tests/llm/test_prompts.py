"""Files of prompts and questions, and the order in which they are asked."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from trt_action.errors import DataError
from trt_action.llm.prompts import Prompt, Question, lengths, load, order


def written(tmp_path: Path, *lines: object, name: str = "prompts.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_both_forms_are_read(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    question = {"prompt": "2 + 2?", "expected": "4", "kind": "contains", "max_tokens": 5}
    found = load(written(tmp_path, {"messages": chat}, "", question), completions=False)
    assert [one.line for one in found.prompts] == [1, 3]
    assert found.prompts[0].messages == tuple(chat)
    assert found.prompts[0].characters == 11
    assert found.questions == (
        Prompt(({"role": "user", "content": "2 + 2?"},), "2 + 2?", 5, Question("4", "contains"), 3),
    )
    text = load(written(tmp_path, "one", "", "  two  ", name="p.txt"), completions=True)
    assert [one.text for one in text.prompts] == ["one", "two"]


BAD = {
    "no JSON": "{prompt}",
    "no object": [1],
    "unknown key": {"prompt": "a", "temperature": 1},
    "both": {"prompt": "a", "messages": []},
    "neither": {"max_tokens": 3},
    "prompt no text": {"prompt": 3},
    "no tokens": {"prompt": "a", "max_tokens": 0},
    "tokens true": {"prompt": "a", "max_tokens": True},
    "role": {"messages": [{"role": "robot", "content": "a"}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    "no user": {"messages": [{"role": "system", "content": "a"}]},
    "kind alone": {"prompt": "a", "kind": "exact"},
    "kind unknown": {"prompt": "a", "expected": "b", "kind": "fuzzy"},
    "regex": {"prompt": "a", "expected": "(", "kind": "regex"},
    "choice without": {"prompt": "a", "expected": "A", "kind": "choice"},
    "choice of others": {"prompt": "a", "expected": "A", "kind": "choice", "choices": ["B", "C"]},
    "choices of exact": {"prompt": "a", "expected": "A", "choices": ["A", "B"]},
    "expected no text": {"prompt": "a", "expected": 4},
}


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"`prompts\.jsonl`, line 2: it ") as error:
        load(written(tmp_path, {"prompt": "fine"}, BAD[name]), completions=False)
    assert error.value.fix


def test_what_cannot_be_asked_or_judged_is_refused(tmp_path: Path) -> None:
    chat = written(tmp_path, {"messages": [{"role": "user", "content": "a"}]})
    with pytest.raises(DataError, match=r"line 1.*completions"):
        load(chat, completions=True)
    with pytest.raises(DataError, match=r"line 1.*no `expected`"):
        load(chat, completions=False, questions=True)
    with pytest.raises(DataError, match="0 prompts"):
        load(written(tmp_path, "", name="p.txt"), completions=False)
    with pytest.raises(DataError, match="LFS"):
        load(written(tmp_path, "version https://git-lfs.github.com/spec/v1", name="p.txt"), completions=False)
    (tmp_path / "p.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        load(tmp_path / "p.txt", completions=False)
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "none.txt", completions=False)


def test_both_sides_get_the_same_order_and_no_server_the_same_prompt_twice(tmp_path: Path) -> None:
    prompts = load(written(tmp_path, *"abcdefghij", name="p.txt"), completions=True).prompts
    plain = [str(one.text) for one in islice(order(prompts, 7, unique=False, stream=0), 20)]
    assert sorted(plain[:10]) == sorted(plain[10:]) == list("abcdefghij")
    assert plain[:10] != plain[10:]
    head, base = ([str(one.text) for one in islice(order(prompts, 7, unique=True, stream=n), 20)] for n in (0, 1))
    assert [text[-1] for text in head] == [text[-1] for text in base] == plain
    assert len({*head, *base}) == 40
    assert {len(text) for text in head} == {len("000000. a")}


def test_a_number_stands_before_the_last_word_of_the_user(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Good"},
    ]
    marked = load(written(tmp_path, {"messages": chat}), completions=False).prompts[0].numbered(42)
    assert [one["content"] for one in marked.messages] == ["Be short.", "Hi", "Hello", "000042. Bye", "Good"]


def test_lengths_are_a_distribution() -> None:
    found = lengths([5, 1, 3, 2, 4], "tokens")
    assert found is not None
    assert (found.min, found.p50, found.p90, found.max, found.mean) == (1, 3, 5, 5, 3.0)
    assert lengths([], "tokens") is None
