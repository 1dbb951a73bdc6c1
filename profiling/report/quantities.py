"""Numbers as people read them: SI prefixes, and only the digits that the data support. Rendering only."""

from __future__ import annotations

import math

ABSENT = "-"
_SI = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}
_BINARY = ("bytes", "KiB", "MiB", "GiB", "TiB")
# A number without an interval gets the digits of one that is known to about 5 %.
_DIGITS_WITHOUT_INTERVAL = 2
_MOST_DIGITS = 4


def decimals(value: float, low: float | None = None, high: float | None = None) -> int:
    """Return how many decimals put the last digit in the order of the interval's half-width; negative for tens."""
    if low is None or high is None:
        return _places_of(value, _DIGITS_WITHOUT_INTERVAL)
    finest = _places_of(value, _MOST_DIGITS)
    half_width = (high - low) / 2
    if half_width <= 0:
        return finest
    return max(_places_of(value, 1), min(finest, -_magnitude(half_width)))


def si(value: float, unit: str, low: float | None = None, high: float | None = None) -> str:
    """Return `value` with an SI prefix: `1.21 ms`, `6.6 k`."""
    return _prefixed(value, decimals(value, low, high), unit)


def count(value: float) -> str:
    """Return an exact count to three digits: `5.70 M`."""
    if abs(value) < 1000:
        return f"{value:g}"
    return _prefixed(value, _places_of(value, 3), "")


def size(value_bytes: float) -> str:
    """Return a size in bytes with a binary prefix, to three digits: `112 MiB`."""
    step = 0
    while abs(value_bytes) >= 999.5 and step < len(_BINARY) - 1:
        value_bytes /= 1024
        step += 1
    if step == 0:
        return f"{value_bytes:.0f} bytes"
    places = _places_of(value_bytes, 3)
    return f"{value_bytes:.{max(0, min(2, places))}f} {_BINARY[step]}"


def percent(share: float, low: float | None = None, high: float | None = None) -> str:
    """Return a share as `84 % (±2)`, the half-width in points."""
    text = f"{_fixed(100 * share, point_decimals(low, high))} %"
    return text if low is None or high is None else f"{text} (±{_points_wide(low, high)})"


def points(gap: float, low: float | None = None, high: float | None = None) -> str:
    """Return a difference of shares in percentage points: `-2 (±1)`."""
    number = _fixed(100 * gap, point_decimals(low, high))
    sign = "+" if gap > 0 and not number.startswith("-") and float(number) != 0 else ""
    text = sign + number
    return text if low is None or high is None else f"{text} (±{_points_wide(low, high)})"


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """Return a ratio as `1.12x`."""
    return f"{_fixed(value, max(0, min(2, decimals(value, low, high))))}x"


def spread(value: float, low: float | None, high: float | None) -> str:
    """Return the half-width of an interval in per cent of the value: `±1 %`; empty without an interval."""
    if low is None or high is None or not value:
        return ""
    share = 100 * (high - low) / 2 / abs(value)
    if share < 0.1:
        return "±<0.1 %"
    return f"±{share:.1f} %" if share < 0.95 else f"±{share:.0f} %"


def _magnitude(value: float) -> int:
    """Return the power of ten of the first digit; 0.0999999999, which a subtraction makes of 0.1, counts as 0.1."""
    return math.floor(round(math.log10(abs(value)), 9)) if value else 0


def _places_of(value: float, digits: int) -> int:
    """Return how many decimals show `digits` digits of `value`, also where rounding carries: 0.9996 is 1.0."""
    places = digits - 1 - _magnitude(value)
    return digits - 1 - _magnitude(round(value, places))


def point_decimals(low: float | None, high: float | None) -> int:
    """Return how many decimals of a percentage its interval supports; one without an interval."""
    if low is None or high is None:
        return 1
    half_width = 100 * (high - low) / 2
    return max(0, min(2, -_magnitude(half_width))) if half_width > 0 else 2


def _points_wide(low: float, high: float) -> str:
    return _fixed(100 * (high - low) / 2, point_decimals(low, high))


def _fixed(value: float, places: int) -> str:
    """Return `value` rounded to `places`, without the minus of a zero."""
    return f"{round(value, places) + 0.0:.{max(0, places)}f}"


def _prefixed(value: float, places: int, unit: str) -> str:
    rounded = round(value, places)
    thousands = math.floor(math.log10(abs(rounded)) / 3) if rounded else 0
    thousands = max(min(_SI), min(max(_SI), thousands))
    number = _fixed(rounded / 1000.0**thousands, places + 3 * thousands)
    return f"{number} {_SI[thousands]}{unit}".rstrip()
