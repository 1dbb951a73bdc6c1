from __future__ import annotations

import pytest

from effvit.errors import UsageError
from effvit.spec import Cost, ModelSpec, Precision, Swap, Workload, file_name


@pytest.mark.parametrize("field", ["batch", "height", "width"])
def test_a_workload_without_images_or_pixels_is_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} must be at least 1, not 0"):
        Workload(**{"batch": 1, "height": 8, "width": 8, field: 0})


def test_a_resolution_is_one_number_for_squares_and_height_x_width_otherwise() -> None:
    assert Workload(8, 224, 224).resolution == "224"
    assert Workload(8, 224, 320).resolution == "224x320"


@pytest.mark.parametrize(
    ("swaps", "name"),
    [
        ([Swap("linformer")], "linformer"),
        ([Swap("linformer", (), (0, 1, 2, 9))], "0-2:linformer+9:linformer"),
        ([Swap("linformer", (), (4, 5)), Swap("atrous", (), (0, 6))], "0:atrous+4-5:linformer+6:atrous"),
        ([Swap("linformer", (), tuple(range(2, 12))), Swap("atrous", (), (0, 1))], "0-1:atrous+2-11:linformer"),
    ],
)
def test_mechanisms_are_named_by_block(swaps: list[Swap], name: str) -> None:
    assert ModelSpec("test_vit", tuple(swaps), 10, (64, 64)).attention == name


def test_the_options_of_a_mix_say_whose_they_are() -> None:
    first, second = Swap("linformer", (("pool", 2),), (0,)), Swap("atrous", (("levels", 2), ("window", 4)), (1,))
    assert ModelSpec("test_vit", (first,), 10, (64, 64)).options == (("pool", 2),)
    both = ModelSpec("test_vit", (first, second), 10, (64, 64)).options
    assert both == (("linformer.pool", 2), ("atrous.levels", 2), ("atrous.window", 4))


def test_a_mix_in_a_file_name_has_no_colon() -> None:
    assert file_name("0-3:atrous+4-11:linformer") == "0-3.atrous+4-11.linformer"


def test_the_ceiling_is_the_speed_up_of_a_core_that_costs_nothing() -> None:
    assert Cost(parameters=1, macs=300, core_macs=100, tokens=1).ceiling == 1.5
    assert Cost(parameters=1, macs=300, core_macs=300, tokens=1).ceiling is None


def test_a_number_takes_the_bytes_of_its_type() -> None:
    sizes = {precision.value: precision.size_bytes for precision in Precision}
    assert sizes == {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
