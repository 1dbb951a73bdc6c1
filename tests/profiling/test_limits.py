import pytest

from effvit.errors import UnknownNameError, UsageError
from effvit.profiling.limits import DEFAULT_LIMITS, Limit, limit_from_text, share_from_text

KNOWN = (
    "latency_s.p50", "latency_s.p99", "throughput.images_per_s", "memory.host_peak_bytes", "accuracy.top1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency_p50>+3%", Limit("latency_s.p50", 0.03, "lower")),
        (" latency_s.p99 > +12.5 % ", Limit("latency_s.p99", 0.125, "lower")),
        ("throughput<-3%", Limit("throughput.images_per_s", 0.03, "higher")),
        ("memory>+5%", Limit("memory.host_peak_bytes", 0.05, "lower")),
        ("top1<-0.5", Limit("accuracy.top1", 0.005, "higher")),
        ("top1<-1 point", Limit("accuracy.top1", 0.01, "higher")),
        ("accuracy.top1<-2points", Limit("accuracy.top1", 0.02, "higher")),
    ],
)
def test_limits_are_read(text: str, limit: Limit) -> None:
    assert limit_from_text(text, KNOWN) == limit
    assert limit_from_text(limit.text, KNOWN) == limit


def test_the_default_limits_are_limits() -> None:
    assert [limit_from_text(text, KNOWN).text for text in DEFAULT_LIMITS] == list(DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "'' is not a limit", "latency_p50>+3%"),
        ("latency_p50", "'latency_p50' is not a limit", "latency_p50>+3%"),
        ("latency_p50>=3%", "is not a limit", "latency_p50>+3%"),
        ("latency_p50>+3e5%", "is not a limit", "latency_p50>+3%"),
        ("latency_p50<-3%", "would fail where latency_p50 becomes better", '"latency_p50>+3%"'),
        ("top1>+0.5", "would fail where top1 becomes better", '"top1<-0.5"'),
        ("top1<0.5", "does not limit a change of top1", '"top1<-0.5"'),
        ("latency_p50>3%", "does not limit a change of latency_p50", '"latency_p50>+3%"'),
        ("top1<-0.5%", "top1 changes by points, not by per cent", '"top1<-0.5"'),
        ("memory>+5", "does not say per cent of what memory was", '"memory>+5%"'),
        ("memory>+5 points", "does not say per cent", '"memory>+5%"'),
    ],
)
def test_what_is_no_limit_is_told_how_it_is_written(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        limit_from_text(text, KNOWN)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_a_misspelt_metric_has_closest_names() -> None:
    with pytest.raises(UnknownNameError) as raised:
        limit_from_text("latncy_p50>+3%", KNOWN)
    assert "latency_p50" in raised.value.hint


def test_harm_is_what_goes_the_wrong_way() -> None:
    assert Limit("latency_s.p50", 0.03, "lower").harm(0.05) == 0.05
    assert Limit("accuracy.top1", 0.005, "higher").harm(0.05) == -0.05


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), ("2", 0.02), (" 0.5 % ", 0.005), ("0", 0.0)])
def test_percentages(text: str, share: float) -> None:
    assert share_from_text(text, "--noise-floor") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "x", "-1%", "100%", "nan", "inf", "1e3"])
def test_what_is_no_percentage(text: str) -> None:
    with pytest.raises(UsageError, match="is not a percentage"):
        share_from_text(text, "--noise-floor")
