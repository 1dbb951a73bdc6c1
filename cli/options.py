"""Options that several commands share, and the small languages they are written in. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from effvit.errors import UnknownNameError, UsageError
from effvit.export.pins import AUTO, PINNABLE
from effvit.export.quantisation import METHODS, Method
from effvit.mix import parse_mix
from effvit.profiling.devices import Device, device_from_text
from effvit.spec import OptionValue, Precision, mix_name

RunsOption = Annotated[
    Path, typer.Option("--runs", metavar="FOLDER", help="where runs are kept", envvar="EFFVIT_RUNS", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="write the result to stdout as JSON")]
ClassesOption = Annotated[bool, typer.Option("--classes", help="show the accuracy of every class")]
SkipCorruptOption = Annotated[bool, typer.Option("--skip-corrupt", help="leave out images that cannot be decoded")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads [default: every usable core]")
]
VerifyImagesOption = Annotated[
    int, typer.Option("--verify-images", metavar="N", min=1, help="held-out images to compare with PyTorch on")
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-drop", metavar="POINTS", min=0, help="refuse an artifact that loses more percentage points of top-1"
    ),
]
ResolutionsOption = Annotated[
    str | None,
    typer.Option("--res", metavar="PX,...", help="image sizes: 224,384 or HEIGHTxWIDTH [default: the trained one]"),
]
RunArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help="run folders or names [default: the newest run]", show_default=False),
]
AttentionsOption = Annotated[
    str | None, typer.Option("--attn", metavar="NAME,...", help="take the newest run of each of these variants")
]
FallbackOption = Annotated[
    bool,
    typer.Option("--allow-fallback", help="take runtimes that do something else than they were asked for, and say so"),
]
PinsOption = Annotated[
    str | None,
    typer.Option(
        "--pin-fp32",
        metavar="auto|NAME,...",
        help="modules that stay in fp32 where the artifact has 16 bits or less: those named, such as blocks.3.attn, or "
        "what an export with --pin-fp32 auto has found",
    ),
]
RoundsOption = Annotated[int, typer.Option(metavar="N", min=1, help="interleaved rounds, at least")]
SamplesOption = Annotated[int, typer.Option(metavar="N", min=1, help="timed launches a cell over all rounds, at least")]
LeastOption = Annotated[float, typer.Option("--least-s", metavar="SECONDS", help="timed seconds a cell, at least")]
MostOption = Annotated[
    float, typer.Option("--most-s", metavar="SECONDS", help="seconds of rounds a cell, at most, warm-up included")
]
WarmupOption = Annotated[
    float, typer.Option("--warmup-ms", metavar="MS", help="untimed milliseconds before every round")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout-s", metavar="SECONDS", help="seconds a cell's process may take")
]
EvalImagesOption = Annotated[
    int, typer.Option(metavar="N", min=0, help="held-out images for accuracy, evenly over classes; 0 is all")
]
NoiseOption = Annotated[
    float,
    typer.Option("--max-noise", metavar="PERCENT", help="half-width of the median's 95 % interval to measure down to"),
]
DevicesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="cpu, a part of it as cpu:threads=1,memory=512MiB, an NVIDIA GPU as cuda:0, or another machine as "
        "ssh://user@host:22, called as you like as name=ssh://user@host; may be given several times [default: cpu]",
        show_default=False,
    ),
]
T = TypeVar("T")
DEFAULT_RUNS = Path("runs")


def names_from_text(text: str | None) -> list[str]:
    """Split `a,b,c`; None and empty parts give nothing."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def attentions_from_text(text: str | None) -> list[str]:
    """Return the mechanisms of `softmax,linformer,0-3:atrous+4-11:linformer`, mixes as their models call them.

    Raises:
        UsageError: A mix that says nothing, or two things.
    """
    return [mix_name(parse_mix(part)) for part in names_from_text(text)]


def resolutions_from_text(text: str) -> list[tuple[int, int]]:
    """Return (height, width) px for every size in `224,384` or `224x320`.

    Raises:
        UsageError: Not a size, a size below 1, or none at all.
    """
    sizes = []
    for part in names_from_text(text):
        height, _, width = part.lower().partition("x")
        try:
            size = (int(height), int(width or height))
        except ValueError:
            raise UsageError(
                f"{part!r} is not an image size", "write --res 224,384 or --res 224x320 (height x width)"
            ) from None
        if min(size) < 1:
            raise UsageError(f"an image cannot be {part} px", "choose sizes of 1 px or more")
        sizes.append(size)
    return _some(sizes, text, "image size", "--res 224,384")


def batches_from_text(text: str) -> list[int]:
    """Return the batches of `1,8,32`, or of `1:64:2`: from 1 to 64, each twice the last.

    Raises:
        UsageError: Not a number, a number below 1, a factor below 2, or none at all.
    """
    batches: list[int] = []
    for part in names_from_text(text):
        try:
            numbers = [int(number) for number in part.split(":")]
        except ValueError:
            raise UsageError(
                f"{part!r} is not a batch", "write --batch 1,8,32, or --batch 1:64:2 for 1, 2, 4 ... 64"
            ) from None
        if min(numbers) < 1:
            raise UsageError(f"batch must be at least 1, not {min(numbers)}", "choose a batch of 1 or more")
        batches += _geometric(part, numbers)
    return _some(list(dict.fromkeys(batches)), text, "batch", "--batch 1,8")


def _geometric(part: str, numbers: list[int]) -> list[int]:
    if len(numbers) == 1:
        return numbers
    first, last, factor = (*numbers, 2)[:3]
    if len(numbers) > 3 or factor < 2 or last < first:
        raise UsageError(
            f"{part!r} is not a range of batches", "write FIRST:LAST:FACTOR with a factor of 2 or more, such as 1:64:2"
        )
    batches = [first]
    while batches[-1] * factor <= last:
        batches.append(batches[-1] * factor)
    return batches


def devices_from_texts(texts: list[str] | None, threads: int | None) -> list[Device]:
    """Return the devices; those that say nothing of their threads have `threads`.

    Raises:
        UnknownNameError: Another kind of device, or of limit.
        UsageError: A limit that cannot be.
    """
    devices = [device_from_text(text) for text in texts or ["cpu"]]
    return [replace(device, threads=device.threads or threads) for device in devices]


def precisions_from_text(text: str) -> list[Precision]:
    """Return the precisions of `fp32,fp16`.

    Raises:
        UnknownNameError: One of them is none.
        UsageError: None at all.
    """
    known = [str(precision) for precision in Precision]
    for part in names_from_text(text):
        if part not in known:
            raise UnknownNameError("precision", part, known)
    return _some([Precision(part) for part in names_from_text(text)], text, "precision", "fp32,fp16")


def pins_from_text(text: str | None, precisions: Sequence[Precision]) -> list[str]:
    """Return the names of what is to stay in fp32, `auto` alone among them; None gives nothing.

    Raises:
        UsageError: No name at all, names beside `auto`, or none of the `precisions` has anything to keep in fp32.
    """
    if text is None:
        return []
    names = _some(names_from_text(text), text, "module", "--pin-fp32 auto, or --pin-fp32 blocks.3.attn")
    if AUTO[0] in names and len(names) > 1:
        raise UsageError("auto finds the modules by itself", "write --pin-fp32 auto, or name modules, not both")
    if set(precisions).isdisjoint(PINNABLE):
        raise UsageError(
            f"nothing is pinned to fp32 in {' or '.join(precisions)}", f"add one of: {', '.join(PINNABLE)}"
        )
    return names


def calibration_method_from_text(text: str) -> Method:
    """Return the way of taking ranges that is called `text`.

    Raises:
        UnknownNameError: There is none.
    """
    for method in METHODS:
        if method == text:
            return method
    raise UnknownNameError("calibration method", text, METHODS)


def pairs_from_texts(texts: list[str] | None) -> tuple[tuple[str, OptionValue], ...]:
    """Return the pairs of `["pool=7", "seed=1"]`, values as text.

    Raises:
        UsageError: One of them has no `=`, or a name comes twice.
    """
    pairs: list[tuple[str, OptionValue]] = []
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is not NAME=VALUE", "write --attn-option pool=7")
        if name.strip() in dict(pairs):
            raise UsageError(f"the option {name.strip()} is given twice", "give every option once")
        pairs.append((name.strip(), value.strip()))
    return tuple(pairs)


def seconds_from_text(text: str, option: str) -> float:
    """Return the seconds that `10ms`, `0.5s` or `800us` mean.

    Raises:
        UsageError: No unit of time, no number, or not above 0.
    """
    return _quantity(text, _SECONDS, "a time", f"{option} 10ms")


def bytes_from_text(text: str, option: str) -> float:
    """Return the bytes that `2GiB`, `512MiB` or `2GB` mean.

    Raises:
        UsageError: No unit of memory, no number, or not above 0.
    """
    return _quantity(text, _BYTES, "a size of memory", f"{option} 2GiB")


_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "KB": 1e3, "MB": 1e6, "GB": 1e9}


def _quantity(text: str, units: Mapping[str, float], what: str, example: str) -> float:
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2] not in units or not float(match[1]):
        raise UsageError(f"{text!r} is not {what}", f"write {example}, in {', '.join(units)}")
    return float(match[1]) * units[match[2]]


def _some(values: list[T], text: str, what: str, example: str) -> list[T]:
    if not values:
        raise UsageError(f"{text!r} names no {what}", f"write {example}")
    return values
