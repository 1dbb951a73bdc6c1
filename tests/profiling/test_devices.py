"""How devices are written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import make_cell

from effvit.errors import UnavailableError, UnknownNameError, UsageError
from effvit.profiling.devices import Device, check_gpus, device_from_text


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", Device()),
        ("cpu:threads=2", Device(threads=2)),
        ("cpu:threads=1,memory=512MiB", Device(threads=1, memory_bytes=536_870_912)),
        ("cpu:memory=1.5GiB", Device(memory_bytes=1_610_612_736)),
        (" cpu: memory=64KiB , threads=3", Device(threads=3, memory_bytes=65_536)),
        ("cpu:memory=1000", Device(memory_bytes=1000)),
        ("cuda", Device("cuda", index=0)),
        ("cuda:0", Device("cuda", index=0)),
        ("cuda:3", Device("cuda", index=3)),
        ("cuda:1,threads=2", Device("cuda", threads=2, index=1)),
        (" cuda: threads=4", Device("cuda", threads=4, index=0)),
    ],
)
def test_a_device_is_read_and_written_alike(text: str, device: Device) -> None:
    assert device_from_text(text) == device
    assert device_from_text(str(device)) == device


def test_a_device_is_written_as_briefly_as_it_is_read() -> None:
    assert str(Device()) == "cpu"
    assert str(Device(threads=1, memory_bytes=536_870_912)) == "cpu:threads=1,memory=512MiB"
    assert str(Device("cuda", threads=2, index=1)) == "cuda:1,threads=2"
    assert (Device(threads=1).name, Device("cuda", threads=2, index=1).name) == ("cpu", "cuda:1")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("gpu", UnknownNameError, "no device named 'gpu'"),
        ("", UnknownNameError, "no device named ''"),
        ("cpu:thread=1", UnknownNameError, "no limit of a device named 'thread'"),
        ("cpu:threads=x", UsageError, "'x' is not a number of threads"),
        ("cpu:threads=-1", UsageError, "'-1' is not a number of threads"),
        ("cpu:threads=0", UsageError, "at least 1 thread, not 0"),
        ("cpu:memory=512MB", UsageError, "'512MB' is not a size of memory"),
        ("cpu:memory=0MiB", UsageError, "at least 1 byte"),
        ("cpu:threads=1,threads=2", UsageError, "gives threads twice"),
        ("cpu:0", UnknownNameError, "no limit of a device named '0'"),
        ("cuda:x", UsageError, "'x' is not the number of a GPU"),
        ("cuda:-1", UsageError, "'-1' is not the number of a GPU"),
        ("cuda:1,2", UnknownNameError, "no limit of a device named '2'"),
        ("cuda:0,memory=1GiB", UsageError, "memory of a GPU cannot be limited"),
    ],
)
def test_what_is_no_device_is_refused_with_what_is_wrong(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        device_from_text(text)


def test_a_misspelt_limit_gets_the_closest_name() -> None:
    with pytest.raises(UnknownNameError) as caught:
        device_from_text("cpu:memor=1GiB")
    assert caught.value.closest == ("memory",)


@pytest.mark.parametrize(("kind", "index"), [("cpu", 0), ("cuda", None), ("cuda", -1)])
def test_gpus_alone_have_numbers(kind: str, index: int | None) -> None:
    with pytest.raises(UsageError, match="cannot have the number"):
        Device(kind, index=index)  # type: ignore[arg-type]


def test_cells_of_the_processor_keep_the_keys_that_they_had_before_gpus_were_devices() -> None:
    # Computed by the version before.
    assert make_cell().key == "ee579d59901a7730"
    part = replace(make_cell("linformer", 384, 8, "ort-cpu"), device=Device(threads=1, memory_bytes=2**29))
    assert part.key == "77bcfee82952b716"


def test_each_gpu_is_another_device_of_a_cell() -> None:
    devices = (Device(), Device("cuda", index=0), Device("cuda", index=1))
    assert len({replace(make_cell(), device=device).key for device in devices}) == 3


def test_a_gpu_that_is_not_here_is_told_with_what_is_here() -> None:
    second = [Device("cuda", index=1)]
    with pytest.raises(UnavailableError, match=r"no cuda:1: .* knows none here") as caught:
        check_gpus(second, lambda: ())
    assert "effvit doctor" in caught.value.hint
    with pytest.raises(UnavailableError, match="knows none beyond cuda:0"):
        check_gpus(second, lambda: ("One GPU, 1.2",))
    check_gpus(second, lambda: ("One GPU, 1.2", "Other GPU, 1.2"))


def test_nobody_looks_for_gpus_unless_one_is_asked_for() -> None:
    def look() -> tuple[str, ...]:
        raise AssertionError("looking takes time")

    check_gpus([Device(), Device(threads=1)], look)


@given(kind=st.sampled_from(["cpu", "cuda"]), text=st.text("0123456789=,.KMGiBthreadsmemory", max_size=40))
def test_no_text_is_worse_than_a_usage_error(kind: str, text: str) -> None:
    try:
        device_from_text(f"{kind}:{text}")
    except UsageError as error:
        assert error.hint  # noqa: PT017  # that it is raised is not required
