from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from effvit import autocast
from effvit.autocast import amp_of, mixed_precision
from effvit.errors import UnavailableError
from effvit.recipe import Amp

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: spectre_v1\n")
    monkeypatch.setattr(autocast, "CPUINFO", tmp_path / "cpuinfo")


def test_a_processor_computes_in_single_precision_unless_asked() -> None:
    assert amp_of(CPU, None) == "off"
    with mixed_precision(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(("native", "amp"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_computes_in_the_half_precision_it_has(native: bool, amp: Amp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert amp_of(GPU, None) == amp
    assert amp_of(GPU, "off") == "off"
    assert amp_of(GPU, "fp16") == "fp16"
    if not native:
        with pytest.raises(UnavailableError, match="cuda does not compute in bf16"):
            amp_of(GPU, "bf16")


def test_a_processor_without_the_instructions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(tmp_path, monkeypatch, "avx2 avx512f amx_bf16")
    assert amp_of(CPU, "bf16") == "bf16"
    with pytest.raises(UnavailableError, match="cpu does not compute in fp16") as caught:
        amp_of(CPU, "fp16")
    assert "--amp off" in caught.value.hint
    monkeypatch.setattr(autocast, "CPUINFO", tmp_path / "nowhere")
    with pytest.raises(UnavailableError, match="cpu does not compute in bf16"):
        amp_of(CPU, "bf16")


def test_asked_for_a_type_products_are_computed_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(tmp_path, monkeypatch, "avx512_bf16 avx512_fp16")
    for amp, dtype in autocast.DTYPES.items():
        with mixed_precision(CPU, amp):  # type: ignore[arg-type]
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_processor_is_spared_what_takes_it_longer_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(tmp_path, monkeypatch, "avx512_bf16")
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 17, 64).bfloat16().requires_grad_() for _ in range(3))
    images, weight = torch.randn(2, 3, 32, 32), torch.randn(8, 3, 16, 16)
    with mixed_precision(CPU, "bf16"):
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(17, 17).bfloat16())
        embedded = F.conv2d(images, weight, stride=16)
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert torch.equal(mixed, exact.bfloat16())
    assert torch.equal(embedded, F.conv2d(images, weight, stride=16))
    mixed.sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.bfloat16
