"""Labels: what an image says about itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report import samples
from trt_action.evidence import Evidence, Source
from trt_action.publish import labels
from trt_action.publish.reference import Reference

DIGEST = "sha256:" + "a" * 64
SOURCE = Source(
    repository="https://github.example/acme/models",
    commit="89abcdef" * 5,
    ref="refs/heads/main",
    run_url="https://github.example/acme/models/actions/runs/7",
)


def on(gpu: Any, **software: str) -> Evidence:
    found = samples.fingerprint()
    found = found.model_copy(
        update={"hardware": {**found.hardware, "gpu": gpu}, "software": {**found.software, **software}}
    )
    return samples.passed(fingerprint=found, source=SOURCE)


def made(evidence: Evidence, **changes: Any) -> dict[str, str]:
    return labels.labels(evidence, **{"variant": "onnxruntime", "evidence_digest": DIGEST, **changes})


def test_what_was_measured_is_on_the_image() -> None:
    evidence = on({"name": "NVIDIA L4", "compute_capability": [8, 9], "driver": "580.1"})
    assert evidence.head
    assert evidence.head.latency
    found = made(evidence, base=Reference.parse(f"docker.io/library/python:3.12@{DIGEST}"))
    assert found == found | {
        "org.opencontainers.image.title": "digits",
        "org.opencontainers.image.revision": SOURCE.commit,
        "org.opencontainers.image.source": SOURCE.repository,
        "org.opencontainers.image.url": SOURCE.run_url,
        "org.opencontainers.image.created": evidence.created,
        "org.opencontainers.image.base.name": "docker.io/library/python:3.12",
        "org.opencontainers.image.base.digest": DIGEST,
        "io.github.trt-action.precision": "int8",
        "io.github.trt-action.backend": "onnxruntime",
        "io.github.trt-action.backend.version": "1.32.1",
        "io.github.trt-action.engine.sha256": evidence.head.engine.sha256,
        "io.github.trt-action.gpu": "NVIDIA L4",
        "io.github.trt-action.gpu.compute-capability": "8.9",
        "io.github.trt-action.gpu.driver": "580.1",
        "io.github.trt-action.p99-ms": f"{evidence.head.latency.p99_ms:.6g}",
        "io.github.trt-action.evidence": DIGEST,
    }
    assert list(found) == sorted(found)


def test_what_is_not_known_is_not_there() -> None:
    evidence = samples.passed(source=Source(), accuracy=samples.no_labels().accuracy)
    found = made(evidence)
    assert labels.GPU not in found
    assert labels.ACCURACY not in found
    assert f"{labels.OCI}revision" not in found
    assert all(found.values())


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (None, None),
        ("", None),
        ([], None),
        ("NVIDIA T4", labels.Gpu("NVIDIA T4", "", "")),
        ([{"name": "NVIDIA T4", "compute_capability": "7.5"}], labels.Gpu("NVIDIA T4", "7.5", "570")),
    ],
)
def test_the_gpu_of_evidence(gpu: Any, expected: labels.Gpu | None) -> None:
    assert labels.gpu(on(gpu, driver="570")) == expected


def test_foreign_text_stays_one_short_line() -> None:
    evidence = samples.passed(source=SOURCE.model_copy(update={"ref": "refs/heads/a\nFROM evil" + "x" * 990}))
    value = made(evidence)[f"{labels.OCI}ref.name"]
    assert "\n" not in value
    assert len(value) <= labels.MAX_VALUE


def test_the_users_labels_win() -> None:
    found = made(samples.passed(), given={f"{labels.OCI}title": "ours", "team": "vision"})
    assert (found[f"{labels.OCI}title"], found["team"]) == ("ours", "vision")


def test_facts_for_tags() -> None:
    facts = labels.facts(on({"name": "NVIDIA L4"}), branch="main", default_branch=True)
    assert (facts.commit, facts.branch, facts.variant) == (SOURCE.commit, "main", "digits-l4-int8")
    assert labels.facts(samples.passed()).variant == "digits-cpu-int8"
