"""How devices are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvit.errors import UnknownNameError, UsageError
from effvit.profiling.devices import Device, device_from_text


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", Device()),
        ("cpu:threads=2", Device(threads=2)),
        ("cpu:threads=1,memory=512MiB", Device(threads=1, memory_bytes=536_870_912)),
        ("cpu:memory=1.5GiB", Device(memory_bytes=1_610_612_736)),
        (" cpu: memory=64KiB , threads=3", Device(threads=3, memory_bytes=65_536)),
        ("cpu:memory=1000", Device(memory_bytes=1000)),
    ],
)
def test_a_device_is_read_and_written_alike(text: str, device: Device) -> None:
    assert device_from_text(text) == device
    assert device_from_text(str(device)) == device


def test_a_device_is_written_as_briefly_as_it_is_read() -> None:
    assert str(Device()) == "cpu"
    assert str(Device(threads=1, memory_bytes=536_870_912)) == "cpu:threads=1,memory=512MiB"


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
    ],
)
def test_what_is_no_device_is_refused_with_what_is_wrong(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        device_from_text(text)


def test_a_misspelt_limit_gets_the_closest_name() -> None:
    with pytest.raises(UnknownNameError) as caught:
        device_from_text("cpu:memor=1GiB")
    assert caught.value.closest == ("memory",)


@given(text=st.text("0123456789=,.KMGiBthreadsmemory", max_size=40))
def test_no_text_is_worse_than_a_usage_error(text: str) -> None:
    try:
        device_from_text(f"cpu:{text}")
    except UsageError as error:
        assert error.hint  # noqa: PT017  # that it is raised is not required
