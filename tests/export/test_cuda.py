"""PyTorch's session on a GPU, with a module in place of `torch.cuda` that computes on the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from untrained_runs import make_run

from effvit.errors import BackendUnavailableError, LackingError, UnsupportedError
from effvit.export.base import Images, Session, Source, StagedSession, pick_backend
from effvit.export.cache import find, make, reference_logits, verify
from effvit.export.cuda import CudaSession, require_gpu, set_tf32
from effvit.export.pieces import FixedBatchSession, StagedFixedBatchSession
from effvit.export.pytorch import TorchSession
from effvit.export.typed import TypedModel
from effvit.spec import Precision


class FakeStream:
    waits = 0

    def synchronize(self) -> None:
        self.waits += 1


class FakeEvent:
    """An event of a stream that is always done, told in milliseconds."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing, "without timing elapsed_time fails"
        self.at_s: float | None = None

    def record(self, stream: FakeStream) -> None:
        assert isinstance(stream, FakeStream)
        self.at_s = time.perf_counter()

    def elapsed_time(self, end_event: FakeEvent) -> float:
        assert self.at_s is not None
        assert end_event.at_s is not None
        return (end_event.at_s - self.at_s) * 1e3


class FakeProperties:
    uuid = "01234567-89ab-cdef-0123-456789abcdef"


class FakeCuda:
    """What is used of `torch.cuda`, for `gpus` of them."""

    Event = FakeEvent

    def __init__(self, gpus: int = 1) -> None:
        self.gpus, self.stream = gpus, FakeStream()

    def is_available(self) -> bool:
        return self.gpus > 0

    def device_count(self) -> int:
        return self.gpus

    def current_stream(self, index: int) -> FakeStream:
        return self.stream

    def get_device_properties(self, index: int) -> FakeProperties:
        return FakeProperties()


def session(precision: Precision = Precision.FP32, cuda: FakeCuda | None = None) -> CudaSession:
    torch.manual_seed(0)
    model = TypedModel(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), precision)
    return CudaSession(model, model, 0, cuda or FakeCuda())


def images(count: int = 3, seed: int = 0) -> Images:
    return np.random.default_rng(seed).standard_normal((count, 3, 2, 2), dtype=np.float32)


def expected(of: CudaSession, batch: Images) -> np.ndarray:
    weight, bias = (part.detach().numpy() for part in of._model.parameters())
    return batch.reshape(len(batch), -1) @ weight.T + bias


@pytest.fixture
def _switches() -> Iterator[None]:
    yield
    set_tf32(False)


def test_the_names_used_of_torch_are_there() -> None:
    """The fake follows a module that can change."""
    for name in ("Event", "current_stream", "get_device_properties", "is_available", "device_count", "set_device"):
        assert hasattr(torch.cuda, name)
    assert all(hasattr(torch.cuda.Event, name) for name in ("record", "elapsed_time"))


def test_a_launch_computes_the_logits_of_what_was_bound_last() -> None:
    one = session()
    for seed in (0, 1):
        one.bind(images(seed=seed))
        one.launch()
        one.synchronize()
        np.testing.assert_allclose(one.logits(), expected(one, images(seed=seed)), atol=1e-6)


def test_what_becomes_of_the_callers_images_after_binding_is_nobodys_business() -> None:
    one, batch = session(), images()
    one.bind(batch)
    batch[:] = 0
    one.upload()
    one.launch()
    np.testing.assert_allclose(one.logits(), expected(one, images()), atol=1e-6)


def test_logits_stay_as_they_were_when_the_next_are_downloaded() -> None:
    one = session()
    one.bind(images(seed=0))
    one.launch()
    first = one.logits()
    kept = first.copy()
    one.bind(images(seed=1))
    one.launch()
    one.logits()
    np.testing.assert_array_equal(first, kept)


def test_binding_and_reading_wait_for_the_copies_and_launching_does_not() -> None:
    cuda = FakeCuda()
    one = session(cuda=cuda)
    one.bind(images())
    assert cuda.stream.waits == 1
    one.launch()
    one.upload()
    one.download()
    assert cuda.stream.waits == 1
    one.logits()
    assert cuda.stream.waits == 2


def test_time_between_marks_is_in_seconds() -> None:
    one = session()
    first = one.mark()
    time.sleep(0.02)
    assert 0.02 <= one.seconds_between(first, one.mark()) < 1


def test_a_gpu_is_named_as_its_driver_names_it() -> None:
    assert session().gpu == "GPU-01234567-89ab-cdef-0123-456789abcdef"


@pytest.mark.usefixtures("_switches")
@pytest.mark.parametrize("rounded", [True, False])
def test_tf32_is_set_for_products_and_convolutions_and_read_back(rounded: bool) -> None:
    set_tf32(not rounded)
    set_tf32(rounded)
    one = session(Precision.TF32 if rounded else Precision.FP32)
    one.bind(images())
    settings = one.settings()
    assert settings.tf32 is rounded
    assert settings.precision is (Precision.TF32 if rounded else Precision.FP32)
    assert settings.departures(settings.precision, torch.get_num_threads(), ()) == []
    # The older switches, which libraries still ask, fail where they do not agree with the newer ones.
    assert torch.backends.cuda.matmul.allow_tf32 is rounded
    assert torch.backends.cudnn.allow_tf32 is rounded


@pytest.mark.usefixtures("_switches")
def test_convolutions_that_round_alone_are_seen() -> None:
    set_tf32(False)
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    one = session()
    one.bind(images())
    assert one.settings().departures(Precision.FP32, torch.get_num_threads(), ()) == [
        "asked for fp32, rounds some products to tf32"
    ]


def test_the_type_of_the_weights_is_the_precision() -> None:
    one = session(Precision.BF16)
    one.bind(images())
    assert one.settings().precision is Precision.BF16


def test_attention_by_the_plain_formula_is_read_back() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            q = (x * self.scale).reshape(len(x), 3, 2, 2)
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                return torch.nn.functional.scaled_dot_product_attention(q, q, q).flatten(1)

    model = TypedModel(Attention(), Precision.FP32)
    one = CudaSession(model, model, 0, FakeCuda())
    one.bind(images())
    assert one.settings().remarks() == ["PyTorch computes 1 attention layer by the plain formula: no fused kernel did"]


def test_a_gpu_that_pytorch_does_not_see_is_unavailable() -> None:
    require_gpu(1, FakeCuda(2))
    for index, gpus in ((2, 2), (0, 0)):
        with pytest.raises(BackendUnavailableError, match=f"cuda:{index} cannot be used: torch "):
            require_gpu(index, FakeCuda(gpus))


def compiled_for_two(counted: list[int]) -> StagedFixedBatchSession:
    def compile_for(batch: Images) -> StagedSession:
        counted.append(len(batch))
        one = session()
        one.bind(batch)
        return one

    return StagedFixedBatchSession(compile_for)


def test_a_session_of_one_batch_passes_its_stages_on() -> None:
    counted: list[int] = []
    one = compiled_for_two(counted)
    one.bind(images(2))
    assert isinstance(one, StagedSession)
    begin = one.mark()
    one.upload()
    one.launch()
    one.download()
    assert one.seconds_between(begin, one.mark()) > 0
    assert one.gpu.startswith("GPU-")
    one.bind(images(5))
    one.launch()
    np.testing.assert_allclose(one.logits(), expected(session(), images(5)), atol=1e-6)
    assert counted == [2]


def test_sessions_of_the_processor_have_no_stages() -> None:
    model = TypedModel(nn.Linear(1, 1), Precision.FP32)
    assert not isinstance(TorchSession(model, model), StagedSession)
    assert not isinstance(FixedBatchSession(lambda _batch: TorchSession(model, model)), StagedSession)


def test_a_backend_is_opened_where_it_computes_and_nowhere_else() -> None:
    opened: list[tuple[str, int]] = []

    def on_cpu(artifact: object, threads: int) -> Session:
        opened.append(("cpu", threads))
        return session()

    def on_gpu(artifact: object, threads: int, index: int) -> Session:
        opened.append((f"cuda:{index}", threads))
        return session()

    both = replace(pick_backend("torch"), open=on_cpu, open_on_gpu=on_gpu)
    both.open_on(None, 2, None)  # type: ignore[arg-type]
    both.open_on(None, 3, 1)  # type: ignore[arg-type]
    assert opened == [("cpu", 2), ("cuda:1", 3)]
    assert both.devices == ("cpu", "cuda")
    with pytest.raises(UnsupportedError, match="ort-cpu computes on cpu, not on cuda"):
        pick_backend("ort-cpu").open_on(None, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="tensorrt computes on cuda, not on cpu") as caught:
        pick_backend("tensorrt").open_on(None, 1, None)  # type: ignore[arg-type]
    assert caught.value.hint == "add --device cuda"


def test_the_processor_does_not_round_to_tf32(tmp_path: Path) -> None:
    run = make_run(tmp_path, "softmax")
    backend = pick_backend("torch")
    artifact = make(Source(run, 32, 32, Precision.TF32), backend)
    with pytest.raises(LackingError, match="does not compute in tf32"):
        backend.open(artifact, 1)


def test_what_was_verified_on_the_processor_is_not_verified_on_a_gpu(tmp_path: Path) -> None:
    run = make_run(tmp_path, "softmax")
    source, backend = Source(run, 32, 32, Precision.FP32), pick_backend("torch")
    artifact = make(source, backend)
    reference = reference_logits(source, np.zeros((2, 32, 32, 3), dtype=np.uint8))
    verify(artifact, source, backend, reference, reference)
    on_cpu, on_gpu = find(source, backend), find(source, backend, device="cuda")
    assert on_cpu is not None
    assert on_cpu.parity is not None
    assert on_gpu is not None
    assert on_gpu.parity is None
    verify(artifact, source, backend, reference, reference, device="cuda")
    on_gpu = find(source, backend, device="cuda")
    assert on_gpu is not None
    assert on_gpu.parity is not None
