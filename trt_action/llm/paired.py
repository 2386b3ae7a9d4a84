"""Is head slower than base? The duet of `measure/`, where an iteration is a request.

A block is one short request that wakes the side up (its time is dropped, as the first iteration of every block is) and one
or several whole answers of fixed length, one after the other. The time that decides is from request to last text; the time
to first text is the witness. A unit is a new connection to each side, and one more to base for the noise floor; of images
it is fresh containers.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trt_action.errors import EndpointError
from trt_action.evidence import Comparison
from trt_action.llm import sides
from trt_action.llm.client import Answer, Client
from trt_action.llm.faults import Fault
from trt_action.llm.prompts import Prompt, order
from trt_action.llm.sides import Asking, Place, Site
from trt_action.measure import Plan, compare
from trt_action.measure.duet import Block
from trt_action.process import Progress

BLOCK_SECONDS = 0.15
MAX_KEPT = 16
WARM_UP = 2
"""Whole answers after each new connection."""

TRIES = 4
LONGEST_WAIT = 60.0


class Requests:
    """One side of a pair (`duet.Runner`): its prompts come in the same order as those of the others."""

    def __init__(
        self,
        client: Client,
        prompts: Iterator[Prompt],
        asking: Asking,
        label: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._prompts, self._asking, self._label, self._sleep = client, prompts, asking, label, sleep
        self.early = 0
        """Answers that ended before they had all their tokens."""

    def block(self, iterations: int) -> Block:
        """A request for one token, then `iterations - 1` whole answers. `cpu_ns` holds their times to first text.

        Raises:
            EndpointError: a request was not answered.
        """
        wall = [self._whole(self._asking.first, 1).e2e_ns]
        first_texts = 0
        for _ in range(iterations - 1):
            prompt = next(self._prompts)
            wanted = prompt.max_tokens or self._asking.max_tokens
            answer = self._whole(prompt, wanted)
            self.early += answer.output_tokens < wanted
            wall.append(answer.e2e_ns)
            first_texts += answer.ttft_ns
        return Block(wall, first_texts)

    def reload(self) -> None:
        self._client.reconnect()
        self.warm_up()

    def warm_up(self) -> float:
        """Returns the seconds of the fastest whole answer."""
        times = [self._whole(next(self._prompts), self._asking.max_tokens).e2e_ns for _ in range(WARM_UP)]
        return min(times) / 1e9

    def _whole(self, prompt: Prompt, max_tokens: int) -> Answer:
        """An answer, asked for again where the server says that it may be: only the last try is timed."""
        for attempt in itertools.count(1):
            try:
                return self._client.ask(
                    prompt, max_tokens=max_tokens, seed=self._asking.seed, ignore_eos=self._asking.ignore_eos
                )
            except Fault as fault:
                wait = None if fault.retry is None else fault.retry.after or float(2 ** (attempt - 1))
                if wait is None or wait > LONGEST_WAIT or attempt == TRIES:
                    raise fault.error(self._label) from None
                self._sleep(wait)
        raise AssertionError  # count() does not end


@dataclass(frozen=True)
class _Sides:
    head: Requests
    base: Requests
    floor: Requests | None


class _Clock:
    """Monotonic seconds without those in which containers start: `max-seconds` is for measuring."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._stopped: float | None = None

    def __call__(self) -> float:
        return (time.monotonic() if self._stopped is None else self._stopped) - self._lost

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self._stopped = time.monotonic()
        try:
            yield
        finally:
            self._lost += time.monotonic() - self._stopped
            self._stopped = None


class Pairing:
    """Opens the units of a comparison. `clock` stands still while they open."""

    def __init__(
        self, places: dict[str, Place], prompts: tuple[Prompt, ...], asking: Asking, progress: Progress
    ) -> None:
        self._places, self._prompts, self._asking, self._progress = places, prompts, asking, progress
        self.opened: list[Requests] = []
        self.clock = _Clock()

    @contextlib.contextmanager
    def open(self, unit: int) -> Iterator[_Sides]:
        """The sides of one unit, warmed up; neither is always the first."""
        wanted = {"head": "head", "base": "base", "second base": "base"}
        base_image = self._places["base"].image
        if base_image is not None and base_image.gpus != "none":
            del wanted["second base"]  # a third copy of the weights has no room on most GPUs
        labels = list(wanted)
        with contextlib.ExitStack() as stack:
            with self.clock.stopped():
                found = {
                    label: self._side(stack, label, self._places[wanted[label]], unit)
                    for label in labels[unit % len(labels) :] + labels[: unit % len(labels)]
                }
            for runner in found.values():
                runner.warm_up()
            self.opened += found.values()
            yield _Sides(found["head"], found["base"], found.get("second base"))

    def _side(self, stack: contextlib.ExitStack, label: str, place: Place, unit: int) -> Requests:
        found: Site = stack.enter_context(sides.site(place, self._asking, self._progress))
        stream = ("head", "base", "second base").index(label) + 3 * unit
        prompts = order(self._prompts, self._asking.seed + unit, unique=self._asking.unique, stream=stream)
        return Requests(stack.enter_context(found.connect()), prompts, self._asking, label)

    @property
    def early(self) -> int:
        return sum(one.early for one in self.opened)


def kept(seconds: float) -> int:
    """Whole answers per block: one, or as many as last 0.15 s: the fastest of several is spared by most interruptions."""
    return min(max(round(BLOCK_SECONDS / max(seconds, 1e-6)), 1), MAX_KEPT)


def run(pairing: Pairing, plan: Plan, *, progress: Progress | None = None) -> Comparison:
    """Head against base until the answer is clear or the time is over.

    Raises:
        EndpointError: a side does not answer from the start.
    """
    found = compare(pairing.open, plan, clock=pairing.clock, progress=progress)
    if not found.pairs and found.stopped:
        raise EndpointError(found.stopped)
    if pairing.early:
        note = (
            f"{pairing.early} answers ended before their full length, so times of different lengths were compared; "
            "`ignore-eos: true` makes them equal where the server knows it."
        )
        found = found.model_copy(update={"warnings": [*found.warnings, note]})
    return found
