"""May this engine be published? Only what was measured, and only if its run held."""

from __future__ import annotations

from trt_action.errors import NotPublishedError
from trt_action.evidence import Evidence
from trt_action.inputs import quote, quote_all


def check(evidence: Evidence) -> None:
    """Refuse an engine whose run was red, ended early, measured nothing, or could not decide where that has to fail.

    Raises:
        NotPublishedError: with the gates that are broken.
    """
    if evidence.error is not None:
        raise NotPublishedError(
            f"Nothing is published: the run ended early ({quote(evidence.error.title)}).",
            why=evidence.error.what[:500],
        )
    broken = [gate.name for gate in evidence.gates if gate.status == "failed"]
    if evidence.outcome == "failed":
        raise NotPublishedError(
            f"Nothing is published: a gate does not hold ({quote_all(broken) or 'see the evidence'})."
        )
    if evidence.outcome == "inconclusive" and evidence.settings.get("on-inconclusive") == "fail":
        raise NotPublishedError("Nothing is published: the run is inconclusive, and `on-inconclusive` is `fail`.")
    if evidence.head is None or evidence.head.latency is None:
        raise NotPublishedError(
            "Nothing is published: this engine was built and never measured.",
            why="An image carries the numbers of its engine; there are none.",
            fix="Measure it with `trt-action run --keep DIR`, and publish that folder.",
        )
