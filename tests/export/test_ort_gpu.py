"""ONNX Runtime on GPUs: computing on the processor in a GPU's place, and options on autospecs of its classes."""

from __future__ import annotations

import contextlib
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import graphs
import numpy as np
import onnxruntime as ort
import pytest
import torch
from artifacts import ARTIFACT
from onnx import TensorProto, helper
from untrained_runs import make_run

from effvit.errors import BackendUnavailableError, ExportError, FallbackError, UnsupportedError
from effvit.export import ort_gpu
from effvit.export.backends import ort_cuda, ort_trt
from effvit.export.base import Artifact, Images, Source, StagedSession, pick_backend
from effvit.export.cache import find, forget, make, reference_logits, verify
from effvit.export.device import GpuDevice
from effvit.export.ort import CPU_PROVIDER, Assigned, Provider, computed_in, opened, options
from effvit.export.ort_gpu import OrtGpuSession, gpu_unavailable, open_on_device
from effvit.export.pins import Pinned
from effvit.export.torch_device import TorchDevice
from effvit.spec import Precision

CUDA = ort_cuda.PROVIDER
NODES = [Assigned(CUDA, "MatMul", "one"), Assigned(CUDA, "Softmax", "two")]


class FakeCuda:
    """What is used of `torch.cuda`, for tensors that stay on the processor; streams count the waits for them."""

    class Stream:
        cuda_stream = 4711

        def __init__(self, index: int) -> None:
            self.waits = 0

        def synchronize(self) -> None:
            self.waits += 1

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing, "without timing elapsed_time fails"
            self.at_s = 0.0

        def record(self, stream: FakeCuda.Stream) -> None:
            self.at_s = time.perf_counter()

        def elapsed_time(self, end_event: FakeCuda.Event) -> float:
            return (end_event.at_s - self.at_s) * 1e3

    def get_device_properties(self, index: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(uuid="0-1-2")

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        yield


def device() -> TorchDevice:
    return TorchDevice(0, cuda=FakeCuda(), place="cpu")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return replace(ARTIFACT, path=str(graphs.write(tmp_path / "model.onnx", graphs.classifier())))


def computing(artifact: Artifact) -> OrtGpuSession:
    session = ort.InferenceSession(artifact.path, providers=[CPU_PROVIDER])
    return OrtGpuSession(session, artifact, CPU_PROVIDER, device(), memory="cpu")


def images(count: int = 2, seed: int = 0) -> Images:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8), dtype=np.float32)


def expected(artifact: Artifact, batch: Images) -> np.ndarray:
    (logits,) = ort.InferenceSession(artifact.path, providers=[CPU_PROVIDER]).run(None, {"images": batch})
    return np.asarray(logits)


def test_a_launch_computes_the_logits_of_what_was_bound_last(artifact: Artifact) -> None:
    one = computing(artifact)
    assert isinstance(one, StagedSession)
    for count, seed in ((2, 0), (2, 1), (5, 2)):
        one.bind(images(count, seed))
        one.launch()
        one.synchronize()
        np.testing.assert_allclose(one.logits(), expected(artifact, images(count, seed)), rtol=1e-5)


def test_pytorchs_memory_is_copied_to_and_from_as_that_of_any_device() -> None:
    one: GpuDevice = device()
    sent, received = one.page_locked((2, 3)), one.page_locked((2, 3))
    buffer = one.allocate(24)
    sent[:], received[:] = np.arange(6).reshape(2, 3), 0
    one.upload(sent, buffer)
    sent[:] = 7
    one.download(buffer, received)
    one.synchronize()
    np.testing.assert_array_equal(received, [[0, 1, 2], [3, 4, 5]])
    assert (sent.dtype, buffer.size_bytes, buffer.address % 4) == (np.float32, 24, 0)
    assert (one.stream, one.index, one.gpu) == (4711, 0, "GPU-0-1-2")


def test_buffers_stay_where_they_are_for_batches_of_one_shape(artifact: Artifact) -> None:
    """A CUDA graph has recorded their addresses."""
    one = computing(artifact)
    one.bind(images())
    with mock.patch.object(one, "_binding", mock.create_autospec(ort.IOBinding, instance=True)) as binding:
        one.bind(images(seed=1))
        assert binding.mock_calls == []
        one.bind(images(3))
        (call,) = binding.bind_input.call_args_list
        assert call.args[:5] == ("images", "cpu", 0, np.float32, (3, 3, 8, 8))
        (call,) = binding.bind_output.call_args_list
        assert call.args[:5] == ("logits", "cpu", 0, np.float32, (3, 10))


def test_images_are_copied_and_logits_are_the_callers(artifact: Artifact) -> None:
    one, batch = computing(artifact), images()
    one.bind(batch)
    batch[:] = 0
    one.upload()
    one.launch()
    first = one.logits()
    one.bind(images(seed=1))
    one.launch()
    one.logits()
    np.testing.assert_allclose(first, expected(artifact, images()), rtol=1e-5)


def test_a_launch_and_its_copies_do_not_wait(artifact: Artifact) -> None:
    one = computing(artifact)
    one.bind(images())
    waits = one._device._stream.waits
    begin = one.mark()
    one.upload()
    one.launch()
    one.download()
    assert one._device._stream.waits == waits
    time.sleep(0.01)
    assert 0.01 <= one.seconds_between(begin, one.mark()) < 1
    assert one.gpu == "GPU-0-1-2"


def a_session(known: dict[str, str], nodes: list[Assigned], *providers: str) -> mock.Mock:
    """Return an autospec of a session on `providers` that tells these options of the first of them, and these nodes."""
    session = mock.create_autospec(ort.InferenceSession, instance=True)
    session.get_providers.return_value = list(providers)
    session.get_provider_options.return_value = {providers[0]: known}
    session.get_session_options.return_value = types.SimpleNamespace(intra_op_num_threads=1)
    session.get_provider_graph_assignment_info.return_value = [
        types.SimpleNamespace(
            ep_name=node.provider,
            get_nodes=lambda node=node: [types.SimpleNamespace(op_type=node.kind, name=node.name)],
        )
        for node in nodes
    ]
    return session


class FakeOrt:
    """What is used of the module `onnxruntime`, around one session."""

    SessionOptions, RunOptions, capi = ort.SessionOptions, ort.RunOptions, ort.capi

    def __init__(self, session: mock.Mock) -> None:
        self.InferenceSession = mock.create_autospec(ort.InferenceSession, return_value=session)


def cuda_options(precision: Precision = Precision.FP32, **changes: str) -> dict[str, str]:
    return {**ort_cuda.provider_options(precision, device())[1], **changes}


def open_cuda(session: mock.Mock, artifact: Artifact = ARTIFACT) -> tuple[OrtGpuSession, mock.Mock]:
    """Return a session of ours around an autospec, and what it was made by."""
    here, fake = device(), FakeOrt(session)
    ours = open_on_device(fake, artifact, 1, ort_cuda.provider_options(artifact.precision, here), here)
    return ours, fake.InferenceSession


def test_everything_that_the_provider_would_choose_is_stated() -> None:
    assert cuda_options() == {
        "device_id": "0",
        "has_user_compute_stream": "1",
        "user_compute_stream": "4711",
        "use_tf32": "0",
        "sdpa_kernel": "27",
        "enable_cuda_graph": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert cuda_options(Precision.TF32)["use_tf32"] == "1"
    assert ort_cuda.provider_options(Precision.FP16, device(), cuda_graph=True)[1]["enable_cuda_graph"] == "1"


def test_a_session_has_one_provider_no_fallback_and_does_not_wait() -> None:
    ours, made = open_cuda(a_session(cuda_options(), [], CUDA, CPU_PROVIDER))
    (call,) = made.call_args_list
    assert call.args[0] == ARTIFACT.path
    assert call.kwargs == {"providers": [(CUDA, cuda_options())], "enable_fallback": 0}
    ours.launch()
    run_options = ours._session.run_with_iobinding.call_args.args[1]
    assert run_options.get_run_config_entry("disable_synchronize_execution_providers") == "1"


def test_a_provider_that_does_not_load_is_no_session_on_the_processor() -> None:
    with pytest.raises(BackendUnavailableError, match="cannot load CUDAExecutionProvider and would compute on the CPU"):
        open_cuda(a_session({}, [], CPU_PROVIDER))


def test_a_provider_that_refuses_its_options_is_one_sentence() -> None:
    fake = FakeOrt(a_session({}, [], CUDA))
    fake.InferenceSession.side_effect = RuntimeError("[ONNXRuntimeError] Invalid value for use_tf32\nsome trace")
    with pytest.raises(ExportError, match=r"cannot load /nowhere: .* Invalid value for use_tf32$"):
        opened(fake, "/nowhere", options(ort, 1), [(CUDA, {"use_tf32": "perhaps"})])


def test_an_option_that_was_not_taken_is_a_fallback() -> None:
    known = cuda_options(use_tf32="1")
    del known["sdpa_kernel"]
    with pytest.raises(FallbackError, match=r"other options than it was given: use_tf32=1, sdpa_kernel=None$"):
        open_cuda(a_session(known, [], CUDA))


def test_switches_are_alike_however_they_are_spelt() -> None:
    open_cuda(a_session(cuda_options(has_user_compute_stream="True", use_tf32="false"), [], CUDA))


class Recorded:
    """What `ort_gpu.open_on_device` is called with, and a session whose launches are counted."""

    def __init__(self) -> None:
        self.providers: list[Provider] = []
        self.launches = 0

    def open(self, _ort: object, artifact: Artifact, _threads: int, provider: Provider, on: TorchDevice) -> object:
        self.providers.append(provider)
        known, nodes = dict(provider[1]), NODES
        session = a_session(known, nodes, provider[0])
        session.run_with_iobinding.side_effect = lambda *_: setattr(self, "launches", self.launches + 1)
        session.get_inputs.return_value = [types.SimpleNamespace(name="images")]
        session.get_outputs.return_value = [types.SimpleNamespace(name="logits", shape=["batch", 10])]
        return OrtGpuSession(session, artifact, provider[0], on, memory="cpu")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made = Recorded()
    monkeypatch.setattr(ort_gpu, "open_on_device", made.open)
    monkeypatch.setattr(ort_gpu, "require_gpu", lambda _: None)
    monkeypatch.setattr(ort_gpu, "TorchDevice", lambda _: device())
    return made


def test_a_cuda_graph_is_recorded_for_the_first_batch_and_told(recorded: Recorded) -> None:
    session = pick_backend("ort-cuda-graph").open_on(ARTIFACT, 1, 0)
    assert recorded.providers == []  # for the first batch, and no sooner
    session.bind(images(2))
    ((name, stated),) = recorded.providers
    assert (name, stated["enable_cuda_graph"]) == (CUDA, "1")
    assert recorded.launches == 2  # one allocates, one is recorded
    session.launch()
    assert recorded.launches == 3
    assert session.settings().cuda_graph is True
    session.bind(images(3))
    session.launch()
    assert len(recorded.providers) == 1
    assert recorded.launches == 5  # three images in two pieces of two


def test_an_engine_is_built_for_the_first_batch_and_keeps_no_module_in_fp32(recorded: Recorded, tmp_path: Path) -> None:
    artifact = replace(ARTIFACT, path=str(tmp_path / "soft.onnx"), sha256="f" * 64, precision=Precision.FP16)
    session = pick_backend("ort-trt").open_on(artifact, 1, 0)
    session.bind(images(2))
    ((name, stated),) = recorded.providers
    assert (name, stated["trt_profile_opt_shapes"]) == ("TensorrtExecutionProvider", "images:2x3x64x64")
    assert Path(stated["trt_engine_cache_path"]).is_dir()
    assert recorded.launches == 1
    assert session.settings().cuda_graph is False
    with pytest.raises(UnsupportedError, match="keeps no module in fp32"):
        pick_backend("ort-trt").open_on(replace(artifact, pinned=Pinned(("blocks.3",))), 1, 0)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16])
def test_settings_are_those_of_the_provider(precision: Precision) -> None:
    artifact = replace(ARTIFACT, precision=precision)
    settings = open_cuda(a_session(cuda_options(precision), NODES, CUDA), artifact)[0].settings()
    assert settings.departures(precision, 1, pick_backend("ort-cuda").providers) == []
    assert (settings.device, settings.precision, settings.threads) == ("cuda:0", precision, 1)
    assert (settings.tf32, settings.cuda_graph) == (precision is Precision.TF32, False)
    assert dict(settings.options)["sdpa_kernel"] == "27"
    assert "user_compute_stream" not in dict(settings.options)  # another address every time
    assert [(one.provider, one.nodes) for one in settings.placement] == [(CUDA, 2)]


def shaped(folder: Path) -> Path:
    """Return a graph that reads the size of its batch, an integer, and multiplies."""
    made = graphs.classifier()
    made.graph.node.insert(0, helper.make_node("Shape", ["images"], ["size"], "size"))
    made.graph.value_info.append(helper.make_tensor_value_info("size", TensorProto.INT64, [4]))
    made.graph.value_info.append(helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", 7]))
    return graphs.write(folder / "shaped.onnx", made)


@pytest.mark.parametrize(
    ("node", "departures"),
    [
        (Assigned(CPU_PROVIDER, "Shape", "size"), []),
        (
            Assigned(CPU_PROVIDER, "MatMul", "hidden"),
            ["asked for CUDAExecutionProvider, runs nodes on CPUExecutionProvider"],
        ),
    ],
)
def test_nodes_on_the_processor_are_a_fallback_unless_they_are_about_shapes(
    tmp_path: Path, node: Assigned, departures: list[str]
) -> None:
    artifact = replace(ARTIFACT, path=str(shaped(tmp_path)))
    session = a_session(cuda_options(), [*NODES, node], CUDA, CPU_PROVIDER)
    settings = open_cuda(session, artifact)[0].settings()
    assert settings.departures(Precision.FP32, 1, pick_backend("ort-cuda").providers) == departures


def test_products_behind_casts_that_were_added_are_not_in_the_type_of_the_graph() -> None:
    cast = Assigned(CUDA, "Cast", "")
    assert computed_in(Precision.FP16, [*NODES, cast, cast]) is Precision.FP16
    assert computed_in(Precision.FP16, [cast, *NODES]) is Precision.FP32


def test_an_engine_of_tensorrt_states_its_types_and_where_it_is_kept(tmp_path: Path) -> None:
    artifact = replace(ARTIFACT, path=str(tmp_path / "soft.onnx"), sha256="f" * 64, precision=Precision.FP16)
    folder = ort_trt.engine_folder(artifact)
    assert folder == tmp_path / "soft.ffffffffff.ort-trt"
    name, stated = ort_trt.provider_options(artifact, device(), 8, folder)
    assert name == "TensorrtExecutionProvider"
    types_of = [f"trt_{kind}_enable" for kind in ("fp16", "bf16", "int8")]
    assert [stated[name] for name in types_of] == ["1", "0", "0"]
    assert stated["trt_profile_max_shapes"] == "images:8x3x64x64"
    assert stated["trt_engine_cache_path"] == str(folder)
    exact = ort_trt.provider_options(replace(artifact, precision=Precision.TF32), device(), 8, folder)[1]
    assert [exact[name] for name in types_of] == ["0", "0", "0"]
    assert Precision.FP32 not in pick_backend("ort-trt").precisions


def test_backends_on_gpus_alone_say_so() -> None:
    for name in ("ort-cuda", "ort-cuda-graph", "ort-trt"):
        backend = pick_backend(name)
        assert backend.devices == ("cuda",)
        assert backend.format == pick_backend("ort-cpu").format
        with pytest.raises(UnsupportedError, match=f"{name} computes on cuda, not on cpu"):
            backend.open_on(ARTIFACT, 1, None)


def test_the_verdict_of_a_backend_on_gpus_alone_is_found_there(tmp_path: Path) -> None:
    source = Source(make_run(tmp_path, "softmax"), 32, 32, Precision.FP32)
    backend = replace(pick_backend("torch"), gpu_only=True)
    reference = reference_logits(source, np.zeros((2, 32, 32, 3), dtype=np.uint8))
    known = verify(make(source, backend), source, backend, reference, reference)
    assert find(source, backend, device="cuda") == known
    forget(source, backend)
    assert find(source, backend, device="cuda") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_what_is_missing_is_named_with_how_to_get_it() -> None:
    for name, install in (("ort-cuda", "effvit[gpu]"), ("ort-trt", "tensorrt-cu13")):
        missing = pick_backend(name).unavailable()
        assert missing is not None
        assert "lacks" in missing or "no CUDA GPU" in missing
        assert install in pick_backend(name).install


def test_the_library_that_a_provider_misses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "capi").mkdir()
    assert str(gpu_unavailable(CUDA, "missing.so")).endswith("has no missing.so")
    (tmp_path / "capi" / "torn.so").write_bytes(b"no library")
    assert str(gpu_unavailable(CUDA, "torn.so")).startswith("torn.so cannot be loaded: ")
    monkeypatch.setattr(ort_gpu.ctypes, "CDLL", lambda _: None)
    assert gpu_unavailable(CUDA, "torn.so") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_unavailable(CUDA, "torn.so") == "there is no CUDA GPU"
    assert gpu_unavailable("OtherProvider", "torn.so") == "this build of onnxruntime lacks OtherProvider"


def test_the_names_used_of_torch_are_there() -> None:
    """The fake follows a module that can change."""
    for name in ("Event", "Stream", "stream", "get_device_properties", "is_available"):
        assert hasattr(torch.cuda, name)
    assert hasattr(torch.cuda.Stream, "synchronize")
