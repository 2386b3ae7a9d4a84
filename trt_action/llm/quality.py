"""Is it still right? Questions with known answers, asked of both sides, and compared question by question."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_action.accuracy import intervals
from trt_action.accuracy.intervals import PairedTable
from trt_action.accuracy.task import PROPORTION
from trt_action.errors import EndpointError
from trt_action.evidence import TaskMetric
from trt_action.llm.client import Answer, Client
from trt_action.llm.faults import Fault
from trt_action.llm.patterns import searched
from trt_action.llm.prompts import Prompt, Question
from trt_action.llm.sides import Asking, Site
from trt_action.llm_records import KindScore
from trt_action.process import Progress

METRIC = "quality"
CONFIDENCE = 0.95
MAX_IN_FLIGHT = 8
TRIES = 5
LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Scored:
    """The answers of one side: which are right, and their texts."""

    right: npt.NDArray[np.bool_]
    texts: tuple[str, ...]


def ask(site: Site, questions: Sequence[Prompt], asking: Asking, in_flight: int, progress: Progress) -> Scored:
    """Every question once; temperature 0, nothing put in front.

    Raises:
        EndpointError: a question was not answered, after some tries where the server allows them. A score without it
            would be of other questions than the other side's.
        DataError: a regular expression does not come to an end.
    """
    workers = min(in_flight, MAX_IN_FLIGHT, len(questions))
    clients = [site.connect() for _ in range(workers)]
    answers: dict[int, Answer] = {}
    stop, failures = threading.Event(), list[EndpointError]()

    def share(worker: int) -> None:
        try:
            answer_share(worker)
        except EndpointError as error:
            failures.append(error)
            stop.set()

    def answer_share(worker: int) -> None:
        for index in range(worker, len(questions), workers):
            if stop.is_set():
                return
            answers[index] = _answer(clients[worker], questions[index], asking, site.place.role)
            if worker == 0:
                progress(f"questions to {site.place.role}", index / len(questions))

    try:
        _in_threads(share, workers)
    finally:
        stop.set()
        for client in clients:
            client.__exit__()
    if failures:
        raise failures[0]
    in_order = [answers[index] for index in range(len(questions))]
    return Scored(_right(questions, in_order), tuple(answer.text for answer in in_order))


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Daemons, so that a hung server does not keep a stopped run."""
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)  # short, so that a signal is handled


def _answer(
    client: Client, prompt: Prompt, asking: Asking, role: str, sleep: Callable[[float], None] = time.sleep
) -> Answer:
    choice = prompt.question is not None and prompt.question.kind == "choice"
    for attempt in range(1, TRIES + 1):
        try:
            answer = client.ask(
                prompt,
                max_tokens=1 if choice else prompt.max_tokens or asking.max_tokens,
                seed=asking.seed,
                logprobs=choice,
            )
        except Fault as fault:
            wait = None if fault.retry is None else fault.retry.after or float(2 ** (attempt - 1))
            if attempt == TRIES or wait is None or wait > LONGEST_WAIT:
                error = fault.error(role)
                raise EndpointError(f"{role}, question on line {prompt.line}: {fault.said}", fix=error.fix) from None
            client.reconnect()
            sleep(wait)
            continue
        if choice and not answer.logprobs:
            raise EndpointError(
                f"{role}: the server gives no log probabilities, and the question on line {prompt.line} is a `choice`.",
                fix="Start the server with log probabilities, or ask with `kind: exact` or `contains`.",
            )
        return answer
    raise AssertionError  # the last try returns or raises


def _right(questions: Sequence[Prompt], answers: Sequence[Answer]) -> npt.NDArray[np.bool_]:
    """Whether each answer is the expected one."""
    right = np.zeros(len(questions), dtype=np.bool_)
    patterns: dict[int, tuple[int, str, str]] = {}
    for index, (prompt, answer) in enumerate(zip(questions, answers, strict=True)):
        question = prompt.question
        if question is not None and question.kind == "regex":
            patterns[index] = (prompt.line, question.expected, answer.text)
        elif question is not None:
            right[index] = is_right(question, answer)
    if patterns:
        right[list(patterns)] = searched(patterns.values())
    return right


def is_right(question: Question, answer: Answer) -> bool:
    """Whether the answer is the expected one, of every kind but `regex` (`patterns.py`).

    `exact`: the same text but for white space at its ends; `contains`: it holds the text; `choice`: of the choices, the
    expected one has the largest log probability as the first token.
    """
    if question.kind == "choice":
        return _chosen(question, answer.logprobs) == question.expected
    if question.kind == "exact":
        return answer.text.strip() == question.expected.strip()
    return question.expected in answer.text


def _chosen(question: Question, logprobs: Mapping[str, float]) -> str | None:
    """The choice that is the likeliest first token (white space around tokens does not count); None if none is there."""
    best: dict[str, float] = {}
    for token, value in logprobs.items():
        name = token.strip()
        if name in question.choices and value > best.get(name, -np.inf):
            best[name] = value
    return max(best, key=lambda name: best[name]) if best else None


def metric(head: Scored, base: Scored | None, sha256: str) -> TaskMetric:
    """Share of right answers; head's loss against base question by question (McNemar, Tango's interval)."""
    n = len(head.right)
    drop, p_value = None, None
    if base is not None:
        table = PairedTable.of(base.right, head.right)
        drop = intervals.paired_difference(table, CONFIDENCE)
        p_value = intervals.mcnemar_exact(table.only_first, table.only_second)
    return TaskMetric(
        metric=METRIC,
        samples=n,
        data_sha256=sha256,
        reference=None,
        head=intervals.wilson(int(head.right.sum()), n, CONFIDENCE),
        base=intervals.wilson(int(base.right.sum()), n, CONFIDENCE) if base is not None else None,
        drop=drop,
        drop_from="base" if base is not None else None,
        p_value=p_value,
        method=PROPORTION,
    )


def by_kind(questions: Sequence[Prompt], scored: Scored) -> dict[str, KindScore]:
    """How many questions of each kind were answered right."""
    found: dict[str, list[bool]] = {}
    for prompt, right in zip(questions, scored.right, strict=True):
        if prompt.question is not None:
            found.setdefault(prompt.question.kind, []).append(bool(right))
    return {kind: KindScore(questions=len(flags), right=sum(flags)) for kind, flags in found.items()}
