"""Rules and quantities as people write them: what they mean, what they print, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.settings import rules, units, values
from trt_action.settings.values import BadValueError

PERCENT: Callable[[Any], float] = units.percent
Parser = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("value", "likely"), [("4G", "4GB"), ("4Gi", "4GiB"), ("200", "200MB"), ("2 Mbit", "2MB"), ("4GiBs", "4GiB")]
)
def test_a_size_without_its_unit_is_answered_with_the_likely_one(value: str, likely: str) -> None:
    with pytest.raises(BadValueError) as caught:
        units.size(value)
    assert caught.value.example == likely


@pytest.mark.parametrize(
    ("value", "likely"), [("5mins", "5min"), ("2 hours", "2h"), ("9msec", "9ms"), ("3 days", "3s")]
)
def test_an_unknown_unit_of_time_is_answered_with_the_likely_one(value: str, likely: str) -> None:
    with pytest.raises(BadValueError) as caught:
        units.duration(value)
    assert caught.value.example == likely


@pytest.mark.parametrize(
    ("written", "statistic", "limit_ms", "strict", "said"),
    [
        ("p99 < 50ms", "p99", 50.0, True, "p99 < 50 ms"),
        ("50", "p99", 50.0, True, "p99 < 50 ms"),
        (50, "p99", 50.0, True, "p99 < 50 ms"),
        (2.5, "p99", 2.5, True, "p99 < 2.5 ms"),
        ("50 ms", "p99", 50.0, True, "p99 < 50 ms"),
        ("p50 <= 800us", "p50", 0.8, False, "p50 <= 0.8 ms"),
        ("P50≤800 µs", "p50", 0.8, False, "p50 <= 0.8 ms"),
        ("max<1s", "max", 1000.0, True, "max < 1000 ms"),
        ("median < 3ms", "p50", 3.0, True, "p50 < 3 ms"),
        ("  mean  <  3.25  ms ", "mean", 3.25, True, "mean < 3.25 ms"),
    ],
)
def test_a_latency_rule_is_read_and_said(
    written: object, statistic: str, limit_ms: float, strict: bool, said: str
) -> None:
    (rule,) = rules.latency_rules(written)
    assert (rule.statistic, rule.limit_ms, rule.strict, str(rule)) == (statistic, limit_ms, strict, said)
    assert rules.latency_rules(str(rule)) == (rule,)


def test_several_latency_rules() -> None:
    expected = ["p99 < 50 ms", "p50 <= 10 ms"]
    assert [str(rule) for rule in rules.latency_rules("p99 < 50ms; p50 <= 10ms;")] == expected
    assert [str(rule) for rule in rules.latency_rules(["p99 < 50ms", "p50 <= 10ms"])] == expected


@pytest.mark.parametrize(
    ("parse", "written", "meaning"),
    [
        (PERCENT, "2%", 0.02),
        (PERCENT, "7 %", 0.07),
        (PERCENT, "0%", 0.0),
        (units.duration, "300s", 300.0),
        (units.duration, "30m", 1800.0),
        (units.duration, "500ms", 0.5),
        (units.size, "200MB", 200_000_000),
        (units.size, "200 mib", 209_715_200),
        (units.size, "4GB", 4_000_000_000),
        (units.size, "1.5kB", 1500),
        (rules.rate, "2000/s", rules.Rate(2000.0)),
        (rules.rate, "2.5 samples/s", rules.Rate(2.5)),
        (rules.rate, "1000tok/s", rules.Rate(1000.0, "tokens")),
        (rules.accuracy_drop, "0.5%", rules.AccuracyDrop(0.005, "points")),
        (rules.accuracy_drop, "0.5% relative", rules.AccuracyDrop(0.005, "relative")),
        (rules.accuracy_drop, 0.3, rules.AccuracyDrop(0.3, "unit")),
        (rules.min_accuracy, "97%", rules.MinAccuracy(0.97, percent=True)),
        (rules.min_accuracy, 0.97, rules.MinAccuracy(0.97, percent=False)),
        (rules.min_accuracy, "0.97", rules.MinAccuracy(0.97, percent=False)),
    ],
)
def test_a_quantity_means(parse: Parser, written: object, meaning: object) -> None:
    assert parse(written) == meaning


@pytest.mark.parametrize(
    ("parse", "written"),
    [
        (rules.latency_rules, bad)
        for bad in (
            "p99 > 50ms", "p98 < 50ms", "p99 < 50", "p99 < 50 kg", "p99 < -5ms", "p99 < 0ms", "p99 <", "< 50ms", "p99",
            "50 MB", "0", -1, 0, math.nan, math.inf, True, [], "", ";", [["p99 < 5ms"]], {"p99": 50}, "p99 < 1e3ms",
            "p99 < 5m", "p99 < ٥ms", ["p99 < 5ms"] * 33,
        )
    ]
    + [(PERCENT, bad) for bad in ("2", 2, 0.02, "2ms", "-1%", "%", "nan%", "2%%", None, True, "1e2%")]
    + [(units.duration, bad) for bad in ("300", 300, "0s", "25h", "3 days", "-3s", "soon", None, [3])]
    + [(units.size, bad) for bad in ("200", 200, "4G", "4Gi", "0MB", "-1MB", "200Mbit", "10000TB")]
    + [(rules.rate, bad) for bad in ("2000", 2000, "2000/min", "0/s", "-5/s")]
    + [(rules.accuracy_drop, bad) for bad in ("0.5ms", "101%", "-0.5%", "0.5% of base", True)]
    + [(rules.min_accuracy, bad) for bad in ("97 points", "101%", "-1", "high", True, math.nan)],
)  # fmt: skip
def test_a_wrong_unit_or_value_is_refused_with_what_is_allowed(parse: Parser, written: object) -> None:
    with pytest.raises(BadValueError) as caught:
        parse(written)
    assert caught.value.reason
    assert caught.value.allowed


def test_only_settings_in_seconds_take_a_bare_number() -> None:
    assert units.duration("10", bare=True) == units.duration(10, bare=True) == 10.0


@given(st.decimals("0", "100000", places=6))
def test_percent_reads_what_it_prints(amount: Any) -> None:
    fraction = PERCENT(f"{amount}%")
    assert PERCENT(units.percent_text(fraction)) == fraction


@given(st.integers(1, 10**15))
def test_size_reads_what_it_prints(count: int) -> None:
    assert units.size(units.size_text(count)) == count


@given(st.floats(1e-6, 86_400))
def test_duration_reads_what_it_prints(seconds: float) -> None:
    written = units.duration_text(seconds)
    assert units.duration(written) == pytest.approx(seconds, rel=1e-15)


@given(st.text() | st.floats() | st.integers() | st.none() | st.booleans() | st.lists(st.text()))
def test_every_parser_gives_a_value_or_a_complaint(anything: Any) -> None:
    parsers: list[Parser] = [
        rules.latency_rules, PERCENT, units.duration, units.size, rules.rate, rules.accuracy_drop, rules.min_accuracy,
        values.text, values.path, values.boolean, values.shapes,
    ]  # fmt: skip
    for parse in parsers:
        try:
            parse(anything)
        except BadValueError as error:
            assert error.allowed  # noqa: PT017 - either outcome is right


def test_foreign_values_are_shown_short_and_on_one_line() -> None:
    assert values.shown("a\nb\x1b[31m") == r"a\nb\x1b[31m"
    assert len(values.shown("x" * 10_000)) == values.SHOWN
    assert values.shown("\udc80") == r"\udc80"
