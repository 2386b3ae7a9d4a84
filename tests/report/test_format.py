"""Numbers as a reader sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.evidence import Estimate, Interval
from trt_action.report import format as fmt


def ratio(estimate: float, low: float, high: float) -> Estimate:
    return Estimate(estimate=estimate, low=low, high=high, confidence=0.99)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (fmt.ms(0.412), "0.412 ms"),
        (fmt.ms(9.996), "10.0 ms"),
        (fmt.ms(48.25), "48.2 ms"),
        (fmt.ms(1234.5), "1,234 ms"),
        (fmt.ms(12_345), "12.3 s"),
        (fmt.ms(0.0853), "85.3 µs"),
        (fmt.ms(None), "–"),
        (fmt.ms(0), "0 ms"),
        (fmt.ms_interval(0.52, Interval(low_ms=0.5, high_ms=0.61)), "0.520 ms [0.500, 0.610]"),
        (fmt.seconds(0.85), "850 ms"),
        (fmt.seconds(3.21), "3.2 s"),
        (fmt.seconds(125), "2 min 5 s"),
        (fmt.seconds(7322), "2 h 2 min"),
        (fmt.size(812), "812 B"),
        (fmt.size(1_234_567), "1.23 MB"),
        (fmt.rate(2412.3), "2,412/s"),
        (fmt.share(0.989), "98.9 %"),
        (fmt.share(0.9999), "99.99 %"),
        (fmt.share(1.0), "100.0 %"),
        (fmt.share(0.9999999), "> 99.999 %"),
        (fmt.share(1e-9), "< 0.001 %"),
        (fmt.percent(0.99), "99 %"),
        (fmt.percent(0.005), "0.5 %"),
        (fmt.change(1.021), "+2.1 %"),
        (fmt.change(0.99999), "0.0 %"),
        (fmt.change_interval(ratio(1.021, 1.018, 1.024)), "+2.1 % [1.8, 2.4]"),
        (fmt.change_interval(ratio(0.877, 0.871, 0.882)), "−12.3 % [−12.9, −11.8]"),
        (fmt.change_interval(ratio(1.0003, 1.0001, 1.0005)), "+0.03 % [0.01, 0.05]"),
        (fmt.points_interval(ratio(0.012, 0.002, 0.022), flip=True), "−1.2 points [−2.2, −0.2]"),
        (fmt.times(ratio(3.41, 3.35, 3.48)), "3.41× [3.35, 3.48]"),
        (fmt.faster_or_slower(0.877), "12.3 % faster than base"),
        (fmt.faster_or_slower(1.054), "5.4 % slower than base"),
        (fmt.faster_or_slower(1.0001), "as fast as base"),
        (fmt.faster_or_slower(3.1), "takes 3.10× as long as base"),
        (fmt.faster_or_slower(0.25), "4.00× as fast as base"),
        (fmt.large(25_557_032), "25.6 M"),
        (fmt.plural(1, "gate"), "1 gate"),
        (fmt.plural(2500, "gate"), "2,500 gates"),
    ],
)
def test_numbers(got: str, expected: str) -> None:
    assert got == expected


FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@given(FINITE, FINITE, FINITE)
def test_no_number_of_an_evidence_breaks_the_format(a: float, b: float, c: float) -> None:
    estimate = ratio(a, b, c)
    for text in (
        fmt.change_interval(estimate),
        fmt.points_interval(estimate, flip=True),
        fmt.times(estimate),
        fmt.faster_or_slower(a),
        fmt.share(a),
        fmt.percent(a),
        fmt.ms(a),
        fmt.rate(a),
        fmt.size(abs(a)),
        fmt.seconds(abs(a)),
    ):
        assert text
        assert "nan" not in text
