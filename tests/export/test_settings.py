"""What a session uses, against what it was asked for."""

from __future__ import annotations

from dataclasses import replace

from effvit.export.settings import Placement, RuntimeSettings
from effvit.spec import Precision

ASKED = RuntimeSettings("a runtime 1.0", "cpu", Precision.FP32, 2, (Placement("CPU", 40), Placement("CPU", 2, "i32")))


def test_what_was_asked_for_is_no_departure() -> None:
    assert ASKED.departures(Precision.FP32, 2, {"CPU"}) == []


def test_another_type_other_threads_and_another_provider_are_named() -> None:
    found = replace(ASKED, placement=(*ASKED.placement, Placement("GPU", 7))).departures(Precision.BF16, 1, {"CPU"})
    assert found == [
        "asked for bf16, computes in fp32",
        "asked for 1 thread, uses 2",
        "asked for CPU, runs nodes on GPU",
    ]


def test_what_a_runtime_does_not_tell_is_not_held_against_it() -> None:
    silent = RuntimeSettings("a runtime 1.0", "cuda:0", None, None)
    assert silent.departures(Precision.FP16, 4, {"GPU"}) == []


def test_fp32_whose_products_may_round_to_tf32_is_another_precision() -> None:
    rounding = replace(ASKED, tf32=True)
    assert rounding.departures(Precision.FP32, 2, {"CPU"}) == ["asked for fp32, rounds some products to tf32"]
    products = replace(ASKED, precision=Precision.TF32, tf32=True)
    assert products.departures(Precision.FP32, 2, {"CPU"}) == ["asked for fp32, computes in tf32"]
    assert products.departures(Precision.TF32, 2, {"CPU"}) == []
    assert replace(ASKED, precision=Precision.FP16, tf32=True).departures(Precision.FP16, 2, {"CPU"}) == []


def test_attention_that_no_fused_kernel_took_is_remarked() -> None:
    plain = (("_scaled_dot_product_attention_math", 11), ("_scaled_dot_product_flash_attention", 1))
    assert replace(ASKED, attention_kernels=plain).remarks() == [
        "PyTorch computes 11 attention layers by the plain formula: no fused kernel did"
    ]
    assert replace(ASKED, attention_kernels=plain[1:]).remarks() == []
    assert ASKED.remarks() == []


def test_a_backend_that_names_no_providers_may_run_nodes_anywhere() -> None:
    assert ASKED.departures(Precision.FP32, 2, ()) == []
