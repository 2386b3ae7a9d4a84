"""What counts as a right answer, and what becomes of questions that are not answered at once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.doubles.openai_server import MODEL, OpenAI
from trt_action.errors import DataError, EndpointError
from trt_action.llm import patterns, quality
from trt_action.llm.api import Api
from trt_action.llm.client import Access, Answer
from trt_action.llm.prompts import Prompt, Question
from trt_action.llm.quality import Scored, is_right
from trt_action.llm.sides import Asking, Place, Site


def answer(text: str = "", **logprobs: float) -> Answer:
    return Answer(1, 1, (), text, 1, None, "stop", logprobs)


RIGHT = [
    (Question("4"), answer(" 4\n"), True),
    (Question("4"), answer("4."), False),
    (Question("4", "contains"), answer("It is 4."), True),
    (Question("4", "contains"), answer("It is four."), False),
    (Question("A", "choice", ("A", "B")), answer(A=-0.2, B=-1.0), True),
    (Question("B", "choice", ("A", "B")), answer(A=-0.2, B=-1.0), False),
    (
        Question("B", "choice", ("A", "B")),
        Answer(1, 1, (), "", 1, None, "", {" A": -2.0, " B": -1.0, "The": -0.1}),
        True,
    ),
    (Question("A", "choice", ("A", "B")), answer(C=-0.2), False),
]


@pytest.mark.parametrize(("question", "given", "right"), RIGHT)
def test_an_answer_is_right_or_not(question: Question, given: Answer, right: bool) -> None:
    assert is_right(question, given) is right


def test_patterns_are_searched() -> None:
    assert patterns.searched([(1, r"\b4\b", "2 + 2 is 4, not 44"), (2, "^4$", "44"), (3, "ü", "\ud800ü")]) == [
        True,
        False,
        True,
    ]


def test_a_pattern_that_does_not_end_is_given_up() -> None:
    with pytest.raises(DataError, match=r"`\(a\+\)\+\$` of the question on line 7 .* 41 characters"):
        patterns.searched([(6, "a", "a"), (7, "(a+)+$", "a" * 40 + "!")], seconds=5.0)


def asked(text: str, question: Question, line: int = 1) -> Prompt:
    return Prompt(({"role": "user", "content": text},), text, None, question, line)


def site(openai: OpenAI, api: Api = "chat") -> Site:
    access = Access(openai.url, api, MODEL, timeout=1.0)
    return Site(Place("head", access), access)


QUESTIONS = [
    asked("2 + 2?", Question("4"), 1),
    asked("3 + 3?", Question("6", "contains"), 2),
    asked("A or B?", Question("B", "choice", ("A", "B")), 3),
    asked("4 + 4?", Question(r"\b8\b", "regex"), 4),
    asked("5 + 5?", Question(r"^10$", "regex"), 5),
]
ASKING = Asking(QUESTIONS[0], 0, False, 8, True)


def no_progress(text: str, share: float | None) -> None:
    pass


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_questions_are_asked_as_they_are_and_scored(openai: OpenAI, api: Api) -> None:
    openai.answers = {"2 + 2?": "4", "3 + 3?": "about 7", "A or B?": "BA", "4 + 4?": "8 of them", "5 + 5?": "10."}
    found = quality.ask(site(openai, api), QUESTIONS, ASKING, 2, no_progress)
    assert found.right.tolist() == [True, False, True, True, False]
    assert found.texts[:2] == ("4", "about 7")
    texts = {one["messages"][0]["content"] if api == "chat" else one["prompt"] for one in openai.requests}
    assert texts == {"2 + 2?", "3 + 3?", "A or B?", "4 + 4?", "5 + 5?"}  # no numbers in front
    kinds = quality.by_kind(QUESTIONS, found)
    assert {kind: (one.right, one.questions) for kind, one in kinds.items()} == {
        "exact": (1, 1), "contains": (0, 1), "choice": (1, 1), "regex": (1, 2),
    }  # fmt: skip


def test_a_server_that_asks_for_patience_gets_it(openai: OpenAI) -> None:
    openai.answers = {"2 + 2?": "4"}
    openai.faults = ["429:0", "429:0", "429:0"]
    found = quality.ask(site(openai), QUESTIONS[:1], ASKING, 1, no_progress)
    assert found.right.tolist() == [True]
    assert len(openai.requests) == 4


def test_a_question_without_an_answer_ends_the_check(openai: OpenAI) -> None:
    openai.always = "401"
    with pytest.raises(EndpointError, match=r"head, question on line [1-5]: .*401") as error:
        quality.ask(site(openai), QUESTIONS, ASKING, 3, no_progress)
    assert "TRT_ACTION_ENDPOINT_KEY" in error.value.fix


def test_loss_is_paired() -> None:
    base = Scored(np.array([True] * 90 + [False] * 10), ("",) * 100)
    head = Scored(np.array([True] * 80 + [False] * 20), ("",) * 100)
    found = quality.metric(head, base, "0" * 64)
    assert found.head.estimate == 0.8
    assert found.drop is not None
    assert found.drop.estimate == pytest.approx(0.1)
    assert 0 < found.drop.low < 0.1 < found.drop.high < 0.25
    assert found.p_value == pytest.approx(2 / 2**10)
    alone = quality.metric(head, None, "0" * 64)
    assert (alone.drop, alone.drop_from, alone.base) == (None, None, None)
