import pytest

from effvit.profiling.report import quantities


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.00121, 0.0012, 0.00122, "1.21 ms"),  # known to 10 µs
        (0.1234, 0.1084, 0.1384, "120 ms"),  # known to 15 ms: the last digit is tens
        (0.0453, 0.0439, 0.0467, "45 ms"),  # known to 1.4 ms
        (0.9996, None, None, "1.0 s"),
        (1.5e-6, None, None, "1.5 µs"),
        (0.0123456789, 0.0123456788, 0.012345679, "12.35 ms"),  # never more than four digits
        (0.5, 0.01, 3.0, "500 ms"),  # a hopeless interval still leaves the order of magnitude
    ],
)
def test_seconds_show_the_digits_their_interval_supports(
    value: float, low: float | None, high: float | None, text: str
) -> None:
    assert quantities.si(value, "s", low, high) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (197, "197"), (5_717_416, "5.72 M"), (999_999, "1.00 M"), (1.2e9, "1.20 G")]
)
def test_counts_show_three_digits(value: int, text: str) -> None:
    assert quantities.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 bytes"), (512, "512 bytes"), (117_440_512, "112 MiB"), (2**31, "2.00 GiB")]
)
def test_sizes_have_binary_prefixes(value: int, text: str) -> None:
    assert quantities.size(value) == text


def test_shares_are_per_cent_with_points_of_doubt() -> None:
    assert quantities.percent(0.842, 0.826, 0.858) == "84 % (±2)"
    assert quantities.percent(0.842) == "84.2 %"
    assert quantities.points(-0.015, -0.018, -0.012) == "-1.5 (±0.3)"
    assert quantities.points(0.002, -0.02, 0.024) == "0 (±2)"
    assert quantities.points(-0.002, -0.024, 0.02) == "0 (±2)"
    assert quantities.points(0.02, 0.01, 0.03) == "+2 (±1)"


def test_ratios_and_spreads() -> None:
    assert quantities.ratio(1.1234, 1.11, 1.14) == "1.12x"
    assert quantities.ratio(12.6, 11.0, 14.0) == "13x"
    assert quantities.spread(1.0, 0.98, 1.02) == "±2 %"
    assert quantities.spread(1.0, 0.997, 1.003) == "±0.3 %"
    assert quantities.spread(1.0, 0.99999, 1.00001) == "±<0.1 %"
    assert quantities.spread(1.0, None, None) == ""
