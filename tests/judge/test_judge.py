"""Which rules hold: every gate in every status, at the limit and beside it."""

from __future__ import annotations

from typing import Any

import pytest

from trt_action import judge
from trt_action.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_PASSED
from trt_action.evidence import (
    Accuracy,
    AchievedPrecision,
    Comparison,
    Engine,
    ErrorInfo,
    Estimate,
    Evidence,
    Gate,
    Interval,
    Latency,
    Memory,
    ModelInfo,
    OutputParity,
    Parity,
    Side,
    TaskMetric,
    Throughput,
    Tool,
)
from trt_action.judge.latency import samples_for_interval
from trt_action.layer_records import LayerReport
from trt_action.measure.stats import percentile_interval
from trt_action.settings import Settings

SHA = "0" * 64


def settings(**asked: Any) -> Settings:
    return Settings.model_validate({"model": "a.onnx", **asked})


def side(**parts: Any) -> Side:
    proof = parts.pop("proof", AchievedPrecision(asked="fp32", weight_share=1.0, nodes={}))
    info = ModelInfo(
        name="a",
        path="a.onnx",
        sha256=SHA,
        bytes=1,
        opset=20,
        parameters=1,
        flops=None,
        inputs=[],
        outputs=[],
        shapes={},
    )
    engine = Engine(
        backend="onnxruntime", backend_version="1.32.0", precision=proof.asked, achieved_precision=proof, recipe={},
        sha256=SHA, bytes=parts.pop("size", 1000), build_seconds=0.1, from_cache=False,
    )  # fmt: skip
    return Side(label="a.onnx", model=info, engine=engine, **parts)


def latency(
    p99: tuple[float, float, float] | None = (3.2, 3.1, 3.4), *, n: int = 1000, seconds: float = 3.0
) -> Latency:
    value, low, high = p99 or (3.2, 0, 0)
    interval = Interval(low_ms=low, high_ms=high) if p99 else None
    return Latency(
        n=n, seconds=seconds, warmup_iterations=10, warmup_stable=True, mean_ms=2.0, min_ms=1.0, p50_ms=2.0, p90_ms=2.5,
        p95_ms=2.8, p99_ms=value, max_ms=9.0,
        intervals={"p50": Interval(low_ms=1.9, high_ms=2.1), "p90": None, "p95": None, "p99": interval},
    )  # fmt: skip


def comparison(**parts: Any) -> Comparison:
    return Comparison.model_validate(
        {
            "verdict": "within-noise", "reason": "Because.", "margin": 0.005, "tolerance": 0.02, "confidence": 0.99,
            "pairs": 120, "iterations": 500, "seconds": 5.0, "seed": 0,
            "p50_ratio": Estimate(estimate=1.012, low=1.009, high=1.016, confidence=0.99), **parts,
        }
    )  # fmt: skip


def task(*, drop: tuple[float, float, float] | None = None, **parts: Any) -> Accuracy:
    estimate = Estimate(estimate=0.97, low=0.95, high=0.98, confidence=0.95)
    return Accuracy(
        task=TaskMetric.model_validate(
            {
                "metric": "top1", "samples": 600, "data_sha256": SHA, "reference": estimate, "head": estimate,
                "base": estimate, "drop_from": "base" if drop else None,
                "drop": Estimate(estimate=drop[0], low=drop[1], high=drop[2], confidence=0.95) if drop else None, **parts,
            }
        )
    )  # fmt: skip


def gates(
    asked: Settings, head: Side | None = None, base: Side | None = None, compared: Comparison | None = None,
    accuracy: Accuracy | None = None,
) -> dict[str, Gate]:  # fmt: skip
    found = judge.judge(
        asked,
        head=head or side(),
        base=base,
        comparison=compared,
        accuracy=accuracy or Accuracy(not_checked="No labels."),
    )
    return {gate.name: gate for gate in found}


def gate(name: str, asked: Settings, **parts: Any) -> Gate:
    found = gates(asked, **parts)
    assert list(found) == [name]
    return found[name]


def test_without_rules_and_base_there_is_no_gate() -> None:
    assert gates(settings()) == {}


@pytest.mark.parametrize(
    ("rule", "p99", "status"),
    [
        ("p99 < 3.5ms", (3.2, 3.1, 3.4), "passed"),
        ("p99 < 3.4ms", (3.2, 3.1, 3.4), "inconclusive"),
        ("p99 <= 3.4ms", (3.2, 3.1, 3.4), "passed"),
        ("p99 < 3.3ms", (3.2, 3.1, 3.4), "inconclusive"),
        ("p99 <= 3.1ms", (3.2, 3.1, 3.4), "inconclusive"),
        ("p99 < 3.1ms", (3.2, 3.1, 3.4), "failed"),
        ("p99 < 3ms", (3.2, 3.1, 3.4), "failed"),
        ("p99 < 100ms", None, "inconclusive"),
        ("p50 < 3ms", None, "passed"),
        ("mean < 2ms", None, "failed"),
        ("mean <= 2ms", None, "passed"),
        ("max < 10ms", None, "passed"),
        ("max < 8ms", None, "failed"),
    ],
)
def test_a_latency_threshold_is_judged_by_the_interval(
    rule: str, p99: tuple[float, float, float] | None, status: str
) -> None:
    found = gate("latency-threshold", settings(latency_threshold=rule), head=side(latency=latency(p99)))
    assert found.status == status
    assert found.reason.endswith(".")


def test_a_threshold_says_what_was_seen_and_what_would_decide() -> None:
    found = gate("latency-threshold", settings(latency_threshold="p99 < 3.3ms"), head=side(latency=latency()))
    assert (found.rule, found.observed, found.limit) == ("p99 < 3.3 ms", "3.20 ms [3.10, 3.40]", "3.3 ms")
    assert (
        "`measure-seconds: 18s` would probably decide it" in found.reason
    )  # half width 0.2, distance 0.1: 4 x 3 s x 1.5

    at_the_limit = gate("latency-threshold", settings(latency_threshold="p99 < 3.2ms"), head=side(latency=latency()))
    assert "no reasonable measuring time" in at_the_limit.reason

    few = latency(None, n=100, seconds=1.0)
    found = gate("latency-threshold", settings(latency_threshold=50), head=side(latency=few))
    assert "100 samples are too few for an interval of p99; it takes 368: `measure-seconds: 6s`" in found.reason

    assert gate("latency-threshold", settings(latency_threshold=50)).status == "not-checked"


@pytest.mark.parametrize(
    ("rule", "p99", "observed"),
    [
        ("p99 < 50ms", (50.04, 49.996, 50.3), "50.040 ms [49.996, 50.300]"),
        ("p99 < 50ms", (50.0, 49.9, 50.1), "50.0 ms [49.9, 50.1]"),
        ("p99 < 3ms", (50.04, 49.996, 50.3), "50.0 ms [50.0, 50.3]"),
        ("p99 < 0.1ms", (0.10001, 0.0999, 0.11), "0.10001 ms [0.099900, 0.11000]"),
        ("max < 8.9999ms", None, "9.00 ms"),
        ("max < 9.001ms", None, "9.00 ms"),
    ],
)
def test_observed_and_limit_can_be_told_apart(rule: str, p99: tuple[float, float, float] | None, observed: str) -> None:
    found = gate("latency-threshold", settings(latency_threshold=rule), head=side(latency=latency(p99)))
    assert found.observed == observed


def test_shares_changes_and_losses_can_be_told_from_the_limit() -> None:
    head = Estimate(estimate=0.96996, low=0.95, high=0.98, confidence=0.95)
    found = gate("min-accuracy", settings(min_accuracy="97%"), accuracy=task(head=head))
    assert (found.status, found.observed) == ("failed", "96.996 % [95.000, 98.000]")
    found = gate(
        "max-accuracy-drop", settings(max_accuracy_drop="0.5%"), accuracy=task(drop=(0.005, 0.00496, 0.005004))
    )
    assert found.observed == "0.5000 points [0.4960, 0.5004]"
    assert "a loss of up to 0.5004 points" in found.reason
    ratio = Estimate(estimate=0.98, low=0.97, high=1.04998, confidence=0.99)
    compared = comparison(p50_ratio=ratio, limit=0.05, limit_status="passed")
    found = gate("max-latency-regression", settings(max_latency_regression="5%"), base=side(), compared=compared)
    assert found.observed == "-2.000 % [-3.000, 4.998]"
    proof = AchievedPrecision(asked="int8", weight_share=1.0, flop_share=0.49999, nodes={})
    assert gate("min-precision-share", settings(), head=side(proof=proof)).observed == "49.999 %"


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_the_samples_that_are_asked_for_do_give_an_interval(percent: int) -> None:
    needed = samples_for_interval(percent, 0.95)
    assert percentile_interval(needed, percent, 0.95) is not None
    assert percentile_interval(needed - 1, percent, 0.95) is None


def test_one_gate_per_latency_rule() -> None:
    asked = settings(latency_threshold="p99 < 5ms; p50 < 1ms")
    found = judge.judge(asked, head=side(latency=latency()), base=None, comparison=None, accuracy=Accuracy())
    assert [(g.rule, g.status) for g in found] == [("p99 < 5 ms", "passed"), ("p50 < 1 ms", "failed")]


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("improved", "passed"), ("within-noise", "passed"), ("regressed", "failed"), ("inconclusive", "inconclusive")],
)
def test_unset_the_regression_gate_follows_the_verdict(verdict: str, status: str) -> None:
    found = gate("max-latency-regression", settings(), base=side(), compared=comparison(verdict=verdict))
    assert (found.status, found.reason) == (status, "Because.")
    assert found.rule == "not slower than base by more than 0.5 %"
    assert (found.observed, found.limit) == ("+1.20 % [0.90, 1.60]", "0.5 %")


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"limit": 0.02, "limit_status": "passed", "verdict": "regressed"}, "passed"),
        ({"limit": 0.02, "limit_status": "failed", "verdict": "regressed"}, "failed"),
        ({"limit": 0.02, "limit_status": "inconclusive", "verdict": "regressed"}, "inconclusive"),
        ({"limit": 0.02, "limit_status": "not-checked", "p50_ratio": None}, "inconclusive"),
        ({"limit": 0.05, "limit_status": "passed"}, "inconclusive"),
        ({}, "inconclusive"),
    ],
)
def test_set_the_regression_gate_is_decided_for_that_limit(parts: dict[str, Any], status: str) -> None:
    asked = settings(max_latency_regression="2%")
    found = gate("max-latency-regression", asked, base=side(), compared=comparison(**parts))
    assert found.status == status
    assert found.rule == "not slower than base by more than 2 %"


@pytest.mark.parametrize(("base", "reason"), [(None, "There is no base"), (side(), "were not compared")])
def test_a_regression_rule_without_a_comparison_is_not_checked(base: Side | None, reason: str) -> None:
    found = gate("max-latency-regression", settings(max_latency_regression="2%"), base=base)
    assert found.status == "not-checked"
    assert reason in found.reason


@pytest.mark.parametrize(
    ("asked", "drop", "status", "says"),
    [
        ("0.5%", (0.0, 0.0, 0.0), "passed", "within the limit"),
        ("0.5%", (0.005, 0.001, 0.005), "passed", "within the limit"),
        ("0.5%", (0.97 - 0.965, 0.001, 0.02), "passed", "cannot exclude a loss of up to 2.00 points"),
        ("0.5%", (-0.01, -0.02, 0.001), "passed", "within the limit"),
        ("0.5%", (0.02, 0.01, 0.03), "failed", "it is not chance"),
        ("0.5%", (0.01, -0.002, 0.022), "inconclusive", "about 864 would"),
        ("0.5%", (0.01, 0.01, 0.01), "failed", "no interval"),
        ("0%", (0.0, -0.003, 0.003), "passed", "cannot exclude"),
        ("1% relative", (0.0097, 0.001, 0.02), "passed", "within the limit"),
        ("1% relative", (0.0098, 0.001, 0.02), "failed", "above the limit"),
    ],
)
def test_the_accuracy_drop(asked: str, drop: tuple[float, float, float], status: str, says: str) -> None:
    found = gate("max-accuracy-drop", settings(max_accuracy_drop=asked), accuracy=task(drop=drop, p_value=0.004))
    assert found.status == status
    assert says in found.reason


def test_the_accuracy_drop_in_words() -> None:
    accuracy = task(drop=(0.0081, 0.0013, 0.0149))
    found = gate("max-accuracy-drop", settings(max_accuracy_drop="0.5%"), accuracy=accuracy)
    assert found.rule == "loses at most 0.5 points against base"
    assert (found.observed, found.limit) == ("0.81 points [0.13, 1.49]", "0.5 points")


def test_the_drop_of_a_custom_metric_is_in_its_unit() -> None:
    psnr = Estimate(estimate=32.5, low=32.1, high=32.9, confidence=0.95)
    accuracy = task(
        drop=(0.31, 0.2, 0.4), metric="s.py:psnr", head=psnr, base=None, reference=psnr, drop_from="reference"
    )
    asked = settings(metric="s.py:psnr", max_accuracy_drop=0.5, base="none")
    found = gate("max-accuracy-drop", asked, accuracy=accuracy)
    assert (found.status, found.observed, found.limit) == ("passed", "0.310 [0.200, 0.400]", "0.5")
    assert found.rule == "loses at most 0.5 against reference"


@pytest.mark.parametrize(
    ("asked", "status", "limit"),
    [("97%", "passed", "97 %"), (0.97, "passed", "97 %"), ("97.01%", "failed", "97.01 %"), ("95%", "passed", "95 %")],
)
def test_min_accuracy_is_judged_by_the_value(asked: object, status: str, limit: str) -> None:
    found = gate("min-accuracy", settings(min_accuracy=asked), accuracy=task())
    assert (found.status, found.limit, found.observed) == (status, limit, "97.00 % [95.00, 98.00]")
    assert "between 95.00 % and 98.00 % (95 %)" in found.reason


def test_min_accuracy_means_nothing_for_an_error_metric() -> None:
    accuracy = task(metric="s.py:rmse", higher_is_better=False)
    found = gate("min-accuracy", settings(metric="s.py:rmse", min_accuracy=0.5), accuracy=accuracy)
    assert found.status == "inconclusive"


def test_without_labels_accuracy_is_not_checked_and_never_passed() -> None:
    found = gates(settings(min_accuracy="97%", max_accuracy_drop="0.5%"))
    assert {g.status for g in found.values()} == {"not-checked"}
    assert {g.reason for g in found.values()} == {"No labels."}
    assert judge.outcome(list(found.values()), None) == "inconclusive"


def parity(**parts: Any) -> Accuracy:
    numbers: dict[str, Any] = {"max_abs": 0.1, "mean_abs": 0.01, "relative_l2": 0.01, "cosine": 0.99}
    one = OutputParity.model_validate(numbers | parts)
    return Accuracy(parity=Parity(samples=64, data="synthetic", head={"logits": one}), not_checked="No labels.")


@pytest.mark.parametrize(
    ("parts", "status", "observed"),
    [
        ({}, "passed", "none"),
        ({"nan": 3, "reference_nan": 3}, "passed", "no more than the reference"),
        ({"nan": 2, "reference_nan": 3, "max_abs": None}, "passed", "no more than the reference"),
        ({"nan": 640, "reference_nan": 640, "max_abs": None}, "passed", "no more than the reference"),
        ({"nan": 3, "inf": 1, "max_abs": None}, "failed", "logits: 3 NaN, 1 Inf"),
        ({"nan": 1, "reference_inf": 1}, "failed", "logits: 1 NaN, 0 Inf (reference 0 NaN, 1 Inf)"),
        ({"reference_nan": 3, "max_abs": None}, "passed", "none"),
        ({"max_abs": None}, "passed", "none"),
    ],
)
def test_outputs_are_numbers_where_the_references_are(parts: dict[str, Any], status: str, observed: str) -> None:
    found = gate("finite-outputs", settings(), accuracy=parity(**parts))
    assert (found.status, found.observed) == (status, observed)


@pytest.mark.parametrize(
    ("name", "asked", "parts", "status", "observed"),
    [
        ("min-throughput", "2000/s", {"rate": 2000.0}, "passed", "2000/s"),
        ("min-throughput", "2000/s", {"rate": 1999.0}, "failed", "1999/s"),
        ("min-throughput", "2000/s", {"rate": 1999.96}, "failed", "1999.96/s"),
        ("min-throughput", "2000/s", {}, "not-checked", "not measured"),
        ("max-engine-size", "1kB", {"size": 1000}, "passed", "1.00 kB"),
        ("max-engine-size", "1kB", {"size": 1001}, "failed", "1.001 kB"),
        ("max-memory", "4GB", {"memory": (4_000_000_000, None)}, "passed", "4.00 GB"),
        ("max-memory", "4GB", {"memory": (1_000, 5_000_000_000)}, "failed", "5.00 GB"),
        ("max-memory", "4GB", {}, "not-checked", "not measured"),
    ],
)
def test_resources(name: str, asked: str, parts: dict[str, Any], status: str, observed: str) -> None:
    measured: dict[str, Any] = {"size": parts["size"]} if "size" in parts else {}
    if "rate" in parts:
        measured["throughput"] = Throughput(
            samples_per_second=parts["rate"], batch=1, concurrency=1, seconds=1.0, requests=10
        )
    if "memory" in parts:
        host, device = parts["memory"]
        measured["memory"] = Memory(host_peak_bytes=host, host_engine_bytes=0, device_peak_bytes=device)
    found = gate(name, settings(**{name: asked}), head=side(**measured))
    assert (found.status, found.observed, found.limit) == (status, observed, asked)


@pytest.mark.parametrize(
    ("flops", "weights", "status", "rule"),
    [
        (0.5, 0.0, "passed", "≥ 50 % of FLOPs in int8"),
        (0.49, 1.0, "failed", "≥ 50 % of FLOPs in int8"),
        (None, 0.9, "passed", "≥ 50 % of weights in int8"),
    ],
)
def test_the_precision_that_was_really_reached(flops: float | None, weights: float, status: str, rule: str) -> None:
    proof = AchievedPrecision(asked="int8", weight_share=weights, flop_share=flops, nodes={}, kept_high=["/head"])
    found = gate("min-precision-share", settings(), head=side(proof=proof))
    assert (found.status, found.rule) == (status, rule)


def layers(share: float | None, device: str = "gpu") -> LayerReport:
    return LayerReport(source="tensorrt-inspector", device=device, layers=[], asked="int8", asked_share=share)


@pytest.mark.parametrize(
    ("found", "status", "rule", "said"),
    [
        (None, "passed", "≥ 50 % of FLOPs in int8", "Counted in the prepared graph."),
        (layers(0.95), "passed", "≥ 50 % of FLOPs in int8", "The engine spends 95.00 % of the time"),
        (layers(0.6), "passed", "≥ 50 % of the time of products and convolutions in int8", "has 90.00 % of FLOPs"),
        (layers(0.49999), "failed", "≥ 50 % of the time of products and convolutions in int8", "Timed layer by layer"),
        (layers(None), "passed", "≥ 50 % of FLOPs in int8", "Counted in the prepared graph."),
        (layers(0.0, "cpu"), "passed", "≥ 50 % of FLOPs in int8", "0.00 % of the time"),
    ],
)
def test_on_a_gpu_the_time_of_the_layers_decides_too(found: Any, status: str, rule: str, said: str) -> None:
    """The smaller of what is counted and what is timed; on a CPU the time is only said."""
    proof = AchievedPrecision(asked="int8", weight_share=1.0, flop_share=0.9, nodes={})
    head = side(proof=proof).model_copy(update={"layers": found})
    result = gate("min-precision-share", settings(), head=head)
    assert (result.status, result.rule) == (status, rule)
    assert said in result.reason


def made(*statuses: str, name: str = "min-accuracy") -> list[Gate]:
    return [
        Gate.model_validate({"name": name, "rule": "", "observed": "", "limit": "", "status": s, "reason": ""})
        for s in statuses
    ]


@pytest.mark.parametrize(
    ("found", "compared", "expected"),
    [
        (made("passed", "failed", "inconclusive"), None, "failed"),
        (made("passed", "inconclusive"), None, "inconclusive"),
        (made("passed", "not-checked"), None, "passed"),
        (made("not-checked"), None, "inconclusive"),
        (made("not-checked") + made("passed", name="finite-outputs"), None, "inconclusive"),
        (made("not-checked") + made("failed", name="finite-outputs"), None, "failed"),
        (made("passed", name="finite-outputs"), None, "passed"),
        ([], None, "inconclusive"),
        ([], comparison(verdict="within-noise"), "passed"),
        ([], comparison(verdict="regressed"), "failed"),
        (made("passed"), comparison(verdict="inconclusive"), "inconclusive"),
        (made("passed", name="max-latency-regression"), comparison(verdict="regressed"), "passed"),
    ],
)
def test_the_outcome(found: list[Gate], compared: Comparison | None, expected: str) -> None:
    assert judge.outcome(found, compared) == expected


def test_exit_codes() -> None:
    assert judge.exit_code("passed", "fail") == EXIT_PASSED
    assert judge.exit_code("failed", "pass") == EXIT_GATE_FAILED
    assert judge.exit_code("inconclusive", "pass") == EXIT_PASSED
    assert judge.exit_code("inconclusive", "fail") == EXIT_INCONCLUSIVE
    error = ErrorInfo(type="BuildError", title="", what="", why="", fix="", exit_code=5)
    evidence = Evidence(tool=Tool(version="1"), created="", outcome="failed", error=error, settings={})
    assert judge.exit_code(evidence, "pass") == 5
    assert judge.exit_code(evidence.model_copy(update={"error": None}), "pass") == EXIT_GATE_FAILED
