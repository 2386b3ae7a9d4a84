"""A language model behind an endpoint in the evidence: how it answered, at each number of requests in flight."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trt_action.records import Interval, Name, Record, Series, Sha256, Text


class Times(Record):
    """Times of one kind, ms; percentiles and intervals as in `Latency`. Nothing is deleted from the samples."""

    n: int = Field(ge=1)
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    confidence: float = 0.95
    intervals: dict[Literal["p50", "p90", "p95", "p99"], Interval | None] = Field(
        description="Order statistics; of gaps between tokens a bootstrap over requests. null where n is too small."
    )
    series: Series | None = None


class Lengths(Record):
    """How long texts are, in `unit`."""

    unit: Literal["tokens", "characters"]
    n: int = Field(ge=1)
    min: int = Field(ge=0)
    mean: float = Field(ge=0)
    p50: int = Field(ge=0)
    p90: int = Field(ge=0)
    max: int = Field(ge=0)


class LlmLevel(Record):
    """A closed loop: `concurrency` requests in flight, each answered to its end before the next one."""

    concurrency: int = Field(ge=1)
    requests: int = Field(ge=0, description="Answered to their end.")
    failed: dict[Name, int] = Field(default_factory=dict, description="Requests without a whole answer, by kind.")
    seconds: float = Field(ge=0)
    output_tokens: int = Field(ge=0)
    output_tokens_per_second: float = Field(ge=0)
    requests_per_second: float = Field(ge=0)
    ttft: Times | None = Field(None, description="Request sent to first text.")
    itl: Times | None = Field(None, description="Gaps between two pieces of text, of all requests together.")
    tpot: Times | None = Field(None, description="(e2e - ttft) / (output tokens - 1), one per request.")
    e2e: Times | None = Field(None, description="Request sent to last text.")
    client_cpu: float = Field(ge=0, description="CPUs that the measuring process itself was busy on.")


class KindScore(Record):
    """Questions of one kind, and how many were answered right."""

    questions: int = Field(ge=0)
    right: int = Field(ge=0)


class LlmReport(Record):
    """One side: what answered, and how."""

    label: Name = Field(description="URL without secrets, or the image.")
    image: Name | None = Field(None, description="Image that was started, by digest where it has one.")
    model: Name = Field(description="Name that was sent.")
    server: Name = Field("", description="What the server calls itself.")
    levels: list[LlmLevel] = Field(default_factory=list)
    prompt_lengths: Lengths | None = Field(None, description="As the server counts its tokens.")
    output_lengths: Lengths | None = None
    tokens_from: Literal["usage", "chunks"] = Field(
        "usage", description="`chunks`: the server told no token counts, so one piece of text counts as one token."
    )
    ended_early: float = Field(0.0, ge=0, le=1, description="Share of answers that ended before `max-output-tokens`.")
    warm_up_requests: int = Field(0, ge=0)
    quality: dict[Name, KindScore] = Field(default_factory=dict, description="By kind of question.")
    notes: list[Text] = Field(default_factory=list)


class LlmRun(Record):
    """A run of `backend: openai-endpoint`."""

    api: Literal["chat", "completions"]
    prompts: Lengths | None = Field(None, description="Prompts of the file, in characters.")
    prompts_sha256: Sha256 | None = None
    quality_sha256: Sha256 | None = None
    head: LlmReport
    base: LlmReport | None = None
    same_answers: float | None = Field(
        None, ge=0, le=1, description="Share of quality questions that head and base answered with the same text."
    )
