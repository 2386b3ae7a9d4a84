"""A closed loop of requests: how many are in flight is fixed, each is answered to its end before the next one."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trt_action.errors import EndpointError
from trt_action.llm import times
from trt_action.llm.client import Answer, Client
from trt_action.llm.faults import Fault
from trt_action.llm.prompts import Prompt, order
from trt_action.llm.sides import Asking, Site
from trt_action.llm_records import LlmLevel
from trt_action.process import Progress

LEAST_PER_CLIENT = 4
LONGEST_WAIT = 30.0
"""Seconds that a client waits because it was told to (429); the time of no request."""

JOIN_SECONDS = 2.0
BUSY_CLIENT = 0.8
"""CPUs of the measuring process above which a note is due: Python runs one thread at a time."""


@dataclass
class Tally:
    """What became of the requests of one side at one concurrency."""

    answers: list[Answer] = field(default_factory=list)
    early: int = 0
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    client_seconds: float = 0.0

    def add(self, other: Tally) -> None:
        self.answers += other.answers
        self.faults += other.faults
        self.early += other.early
        self.seconds += other.seconds
        self.client_seconds += other.client_seconds


def levels(
    sites: dict[str, Site], prompts: Sequence[Prompt], asking: Asking, concurrencies: Sequence[int], requests: int,
    progress: Progress,
) -> dict[str, dict[int, Tally]]:  # fmt: skip
    """Every side at every concurrency, each level in two halves with the sides in opposite order, so that drift of the
    host or the network hits them alike.

    Raises:
        EndpointError: at some concurrency a side answered nothing at all.
    """
    found: dict[str, dict[int, Tally]] = {role: {} for role in sites}
    total, done = 2 * len(concurrencies) * len(sites), 0
    for place, concurrency in enumerate(concurrencies):
        each = max(requests, LEAST_PER_CLIENT * concurrency)
        for half in (0, 1):
            number = (each + 1) // 2 if half == 0 else each // 2
            for role in sorted(sites, reverse=bool(half)):
                progress(f"{role}, {concurrency} in flight", done / total)
                stream = 100 + 10 * place + 2 * half + (role == "base")
                asked = order(prompts, asking.seed + 10 * place + half, unique=asking.unique, stream=stream)
                tally = found[role].setdefault(concurrency, Tally())
                tally.add(_half(sites[role], asked, asking, concurrency, max(number, 1)))
                done += 1
        for role in sites:
            tally = found[role][concurrency]
            if not tally.answers:
                error = tally.faults[0].error(role)
                raise EndpointError(
                    f"{role} answered none of {len(tally.faults)} requests with {concurrency} in flight. {error.what}",
                    fix=error.fix,
                )
    return found


def _half(site: Site, prompts: Iterator[Prompt], asking: Asking, concurrency: int, number: int) -> Tally:
    """`number` requests, `concurrency` in flight, after one each that is not timed (it opens the connections)."""
    with _Loop(site, asking, [next(prompts) for _ in range(number)], concurrency) as loop:
        return loop.run()


class _Loop:
    def __init__(self, site: Site, asking: Asking, prompts: list[Prompt], concurrency: int) -> None:
        self._asking = asking
        self._waiting: queue.SimpleQueue[Prompt] = queue.SimpleQueue()
        for prompt in prompts:
            self._waiting.put(prompt)
        self._stop = threading.Event()
        self._clients = [site.connect() for _ in range(concurrency)]
        self._ready = threading.Barrier(concurrency + 1)
        self._tallies = [Tally() for _ in range(concurrency)]
        self._threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(concurrency)]

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._ready.abort()
        until = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            if thread.is_alive():  # a hung server must not keep a stopped run; the threads are daemons
                thread.join(max(until - time.monotonic(), 0.0))
        for client in self._clients:
            client.__exit__()

    def run(self) -> Tally:
        for thread in self._threads:
            thread.start()
        self._ready.wait()
        start, busy = time.perf_counter(), time.process_time()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.5)  # short, so that a signal is handled
        found = Tally(seconds=time.perf_counter() - start, client_seconds=time.process_time() - busy)
        for tally in self._tallies:
            found.add(tally)
        return found

    def _work(self, index: int) -> None:
        client, tally = self._clients[index], self._tallies[index]
        with contextlib.suppress(Fault):  # it will be met again, and counted
            _ask(client, self._asking.first, 1, self._asking)
        try:
            self._ready.wait()
        except threading.BrokenBarrierError:
            return
        while not self._stop.is_set():
            try:
                prompt = self._waiting.get_nowait()
            except queue.Empty:
                return
            wanted = prompt.max_tokens or self._asking.max_tokens
            try:
                answer = _ask(client, prompt, wanted, self._asking)
            except Fault as fault:
                tally.faults.append(fault)
                client.reconnect()
                self._stop.wait(min((fault.retry and fault.retry.after) or 0.0, LONGEST_WAIT))
            else:
                tally.answers.append(answer)
                tally.early += answer.output_tokens < wanted


def _ask(client: Client, prompt: Prompt, max_tokens: int, asking: Asking) -> Answer:
    return client.ask(prompt, max_tokens=max_tokens, seed=asking.seed, ignore_eos=asking.ignore_eos)


def level(concurrency: int, tally: Tally, seed: int) -> LlmLevel:
    """The record of one level."""
    answers = tally.answers
    tokens = sum(one.output_tokens for one in answers)
    per_token = [
        (one.e2e_ns - one.ttft_ns) // (one.output_tokens - 1)
        for one in answers
        if one.output_tokens > 1 and one.gaps_ns
    ]
    seconds = max(tally.seconds, 1e-9)
    return LlmLevel(
        concurrency=concurrency,
        requests=len(answers),
        failed=dict(Counter(fault.kind for fault in tally.faults)),
        seconds=tally.seconds,
        output_tokens=tokens,
        output_tokens_per_second=tokens / seconds,
        requests_per_second=len(answers) / seconds,
        ttft=times.of([one.ttft_ns for one in answers]),
        itl=times.of_gaps(answers, seed),
        tpot=times.of(per_token),
        e2e=times.of([one.e2e_ns for one in answers]),
        client_cpu=tally.client_seconds / seconds,
    )


def notes(level: LlmLevel, tally: Tally) -> list[str]:
    """What a reader of the level's numbers must know."""
    found = []
    where = f"{level.concurrency} in flight"
    if level.client_cpu > min(BUSY_CLIENT, 0.8 * (os.cpu_count() or 1)):
        found.append(
            f"With {where}, the measuring client itself was busy on {level.client_cpu:.2f} CPUs: its own speed may limit these "
            "numbers. Use fewer requests in flight, or a faster host."
        )
    total = level.requests + sum(level.failed.values())
    for kind, count in level.failed.items():
        first = next(fault for fault in tally.faults if fault.kind == kind)
        found.append(f"With {where}, {count} of {total} requests failed ({kind}): {first.said}")
    pieces = sum(1 + len(one.gaps_ns) for one in tally.answers)
    if level.output_tokens > 1.2 * pieces:
        found.append(
            f"With {where}, the server sent {level.output_tokens / pieces:.1f} tokens at a time: gaps (itl) are between "
            "pieces, tpot is per token."
        )
    return found
