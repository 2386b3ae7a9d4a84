"""The story of a served language model: its stages, as `pipeline._story` is the one of an ONNX model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trt_action import __version__, judge, measure
from trt_action.draft import Draft, Work
from trt_action.errors import SettingsError
from trt_action.evidence import Accuracy, Comparison, Fingerprint
from trt_action.llm import load, paired, prompts, quality, sides
from trt_action.llm.load import Tally
from trt_action.llm.paired import Pairing
from trt_action.llm.prompts import Prompt, PromptFile
from trt_action.llm.quality import Scored
from trt_action.llm.sides import Asking, Place, Site
from trt_action.llm_records import LlmReport, LlmRun
from trt_action.process import Progress

if TYPE_CHECKING:
    from trt_action.pipeline import Part


@dataclass(frozen=True)
class Asked:
    """What the files hold."""

    timed: PromptFile | None
    questions: PromptFile | None

    first: Prompt
    """Asked before anything is timed."""


def story(draft: Draft, work: Work, parts: frozenset[Part]) -> None:
    """What became of it is in `draft.llm`, `draft.comparison`, `draft.accuracy` and `draft.gates`.

    Raises:
        TrtActionError: as the stages.
    """
    s = work.settings
    if not parts:
        raise SettingsError(
            "An endpoint is not built: it is served already.", fix="Use `trt-action run`, `bench` or `compare`."
        )
    with work.stage(draft, "host", "Host"):
        draft.fingerprint = fingerprint()
    with work.stage(draft, "data", "Prompts"):
        asked = read(draft, work)
        _check_asked(asked, parts)
        places = sides.places(s, os.environ)
        draft.base_note = "" if "base" in places else "No `base-endpoint` is named: head is judged alone."
        draft.warnings += (text for place in places.values() for text in sides.warnings(place))
    asking = Asking(asked.first, s.seed, s.ignore_eos, s.max_output_tokens, s.unique_prompts)
    with work.stage(draft, "contact", "First contact") as progress, _sites(draft, places, asking, progress) as sites:
        draft.llm = _reports(draft, work, asked, sites)
        pace = _pace(sites["head"], asked, asking)
    if asked.timed and "compare" in parts and "base" in places:
        with work.stage(draft, "compare", "Compare head and base") as progress:
            draft.comparison = compare(work, places, asked.timed.prompts, asking, pace, progress)
    _passes(draft, work, parts, asked, places, asking)
    draft.gates = judge.judge_endpoint(s, draft.llm, draft.comparison, draft.accuracy)
    draft.outcome = judge.outcome(draft.gates, draft.comparison)


def fingerprint() -> Fingerprint:
    """Who asked. What answered is elsewhere and tells nothing about its hardware."""
    hardware = {"machine": f"asked from {platform.machine()}, {os.cpu_count()} CPUs"}
    software = {"python": platform.python_version(), "trt-action": __version__}
    runtime = {"backend": "openai-endpoint"}
    stable = json.dumps([hardware, software, runtime], sort_keys=True)
    return Fingerprint(
        digest=hashlib.sha256(stable.encode()).hexdigest(),
        hardware=dict(hardware),
        software=dict(software),
        runtime=dict(runtime),
    )


def read(draft: Draft, work: Work) -> Asked:
    """Prompts and questions. Prompts that have an answer are the questions where there is no file of them."""
    s = work.settings
    completions = s.endpoint_api == "completions"
    timed = prompts.load(s.prompts, completions=completions) if s.prompts else None
    if s.quality:
        questions = prompts.load(s.quality, completions=completions, questions=True)
        return Asked(timed, questions, (timed or questions).prompts[0])
    if timed is None:
        raise SettingsError("There is nothing to ask.", fix="Set `prompts`, `quality`, or both.")
    answered = PromptFile(timed.questions, timed.sha256) if timed.questions else None
    return Asked(timed, answered, timed.prompts[0])


def _check_asked(asked: Asked, parts: frozenset[Part]) -> None:
    """Raises: SettingsError: the command has nothing to do with what the files hold."""
    if asked.timed is None and "accuracy" not in parts:
        raise SettingsError("There are no prompts to time.", fix="Set `prompts`, or use `trt-action accuracy`.")
    if asked.questions is None and parts == {"accuracy"}:
        raise SettingsError("There are no questions with right answers.", fix="Set `quality: FILE` (docs/llm.md).")


def compare(
    work: Work, places: dict[str, Place], timed: Sequence[Prompt], asking: Asking, pace: float, progress: Progress
) -> Comparison:
    s = work.settings
    plan = measure.Plan(
        max_seconds=s.max_seconds,
        margin=s.margin,
        tolerance=s.tolerance,
        limit=s.max_latency_regression,
        confidence=s.confidence,
        seed=s.seed,
        kept=paired.kept(pace),
        of="requests",
    )
    return paired.run(Pairing(places, tuple(timed), asking, progress), plan, progress=progress)


@contextlib.contextmanager
def _sites(draft: Draft, places: dict[str, Place], asking: Asking, progress: Progress) -> Iterator[dict[str, Site]]:
    """Both sides at once, known to answer."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Site] = {}
        for role, place in places.items():
            model = found["head"].access.model if role == "base" else ""
            found[role] = stack.enter_context(sides.site(place, asking, progress, fallback_model=model))
        yield found


def _pace(head: Site, asked: Asked, asking: Asking) -> float:
    """Seconds of a whole answer, to choose how many make a block."""
    if asked.timed is None:
        return 1.0
    with head.connect() as client:
        drawn = prompts.order(asked.timed.prompts, asking.seed, unique=asking.unique, stream=99)
        return paired.Requests(client, drawn, asking, "head").warm_up()


def _reports(draft: Draft, work: Work, asked: Asked, sites: dict[str, Site]) -> LlmRun:
    reports = {role: _report(site) for role, site in sites.items()}
    characters = [one.characters for one in asked.timed.prompts] if asked.timed else []
    return LlmRun(
        api=work.settings.endpoint_api,
        prompts=prompts.lengths(characters, "characters"),
        prompts_sha256=asked.timed.sha256 if asked.timed else None,
        quality_sha256=asked.questions.sha256 if asked.questions else None,
        head=reports["head"],
        base=reports.get("base"),
    )


def _report(site: Site) -> LlmReport:
    return LlmReport(
        label=site.place.label[:1_000],
        image=site.image,
        model=site.access.model[:1_000],
        server=site.server[:200],
        notes=site.notes,
    )


def _passes(
    draft: Draft, work: Work, parts: frozenset[Part], asked: Asked, places: dict[str, Place], asking: Asking
) -> None:
    """Load and questions, on sides that are up for both."""
    loaded = asked.timed is not None and "bench" in parts
    checked = asked.questions is not None and "accuracy" in parts
    if "accuracy" not in parts:
        draft.accuracy = Accuracy(not_checked="This command asks no questions.")
    elif not checked:
        draft.accuracy = Accuracy(not_checked="There are no questions with right answers (`quality`).")
    if not (loaded or checked):
        return
    with contextlib.ExitStack() as stack:
        sites: dict[str, Site] | None = None
        if loaded and asked.timed:
            with work.stage(draft, "measure", "Measure") as progress:
                sites = stack.enter_context(_sites(draft, places, asking, progress))
                _measure(draft, work, sites, asked.timed.prompts, asking, progress)
        if checked and asked.questions:
            with work.stage(draft, "accuracy", "Questions") as progress:
                sites = sites or stack.enter_context(_sites(draft, places, asking, progress))
                _check(draft, work, sites, asked.questions, asking, progress)


def _measure(
    draft: Draft, work: Work, sites: dict[str, Site], timed: Sequence[Prompt], asking: Asking, progress: Progress
) -> None:
    s = work.settings
    found = load.levels(sites, timed, asking, s.concurrencies, s.requests, progress)
    for role, tallies in found.items():
        _update(draft, role, **_measured(tallies, s.seed))


def _measured(tallies: dict[int, Tally], seed: int) -> dict[str, object]:
    """What the levels of one side add to its report."""
    levels = [load.level(concurrency, tally, seed) for concurrency, tally in tallies.items()]
    answers = [answer for tally in tallies.values() for answer in tally.answers]
    told = [answer.prompt_tokens for answer in answers if answer.prompt_tokens is not None]
    notes = [text for level in levels for text in load.notes(level, tallies[level.concurrency])]
    if len(told) < len(answers):
        notes.insert(0, "The server tells no token counts: each piece of text that it sent counts as one token.")
    early = sum(tally.early for tally in tallies.values())
    return {
        "levels": levels,
        "prompt_lengths": prompts.lengths(told, "tokens"),
        "output_lengths": prompts.lengths([answer.output_tokens for answer in answers], "tokens"),
        "tokens_from": "chunks" if len(told) < len(answers) else "usage",
        "ended_early": early / len(answers),
        "warm_up_requests": 2 * sum(tallies),
        "notes": notes,
    }


def _check(
    draft: Draft, work: Work, sites: dict[str, Site], questions: PromptFile, asking: Asking, progress: Progress
) -> None:
    scored: dict[str, Scored] = {}
    for role, site in sites.items():
        scored[role] = quality.ask(site, questions.prompts, asking, max(work.settings.concurrencies), progress)
        _update(draft, role, quality=quality.by_kind(questions.prompts, scored[role]))
    base = scored.get("base")
    task = quality.metric(scored["head"], base, questions.sha256)
    draft.accuracy = Accuracy(task=task)
    if base is not None and draft.llm is not None:
        same = sum(a == b for a, b in zip(scored["head"].texts, base.texts, strict=True)) / task.samples
        draft.llm = draft.llm.model_copy(update={"same_answers": same})


def _update(draft: Draft, role: str, **changes: object) -> None:
    if draft.llm is not None:
        report: LlmReport = getattr(draft.llm, role)
        if "notes" in changes:
            changes["notes"] = [*report.notes, *changes["notes"]]  # type: ignore[misc]
        draft.llm = draft.llm.model_copy(update={role: report.model_copy(update=changes)})
