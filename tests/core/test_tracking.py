"""The curves that trackers are told of are those of the history."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from models_for_tests import digits, record_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_program import request

from effvit import tracking
from effvit.errors import CheckpointError, UnavailableError, UnknownNameError
from effvit.finetune import Listener, finetune
from effvit.resume import resume
from effvit.run import EpochRecord, Run, create_run, open_run
from effvit.tracking import FOLDER, IDS, Trackers, require_trackers

TRACKED = replace(request(epochs=2), track=("tensorboard",))


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard would draw: name -> (step, value)."""
    events = EventAccumulator(str(run.folder / FOLDER))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def expected(run: Run) -> dict[str, list[tuple[int, float]]]:
    named: dict[str, list[tuple[int, float]]] = {}
    for epoch in run.history():
        for name, value in asdict(epoch).items():
            if name != "epoch" and value is not None and not isinstance(value, str):
                named.setdefault(name, []).append((epoch.epoch, pytest.approx(value, rel=1e-6)))
    return named


def test_tensorboard_draws_the_history(tmp_path: Path) -> None:
    run = finetune(TRACKED, digits(), out=tmp_path, name="tracked")
    assert {"train_loss", "val_loss", "top1", "balanced_top1", "images_per_s", "learning_rate"} <= curves(run).keys()
    assert curves(run) == expected(run)


class Cut(Listener):
    """Cuts a training short when its second epoch is on disk, and its state is not."""

    def epoch(self, record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt


def test_a_run_that_goes_on_is_drawn_once(tmp_path: Path) -> None:
    asked = replace(TRACKED, recipe={**(TRACKED.recipe or {}), "epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        finetune(asked, digits(), out=tmp_path, name="cut", listener=Cut())
    run = resume(open_run(tmp_path / "cut"), replace(asked, recipe=None), digits())
    assert curves(run) == expected(run)
    assert [step for step, _ in curves(run)["top1"]] == [1, 2, 3]


def test_what_is_missing_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="there is no tracker named 'tensorbord'") as caught:
        require_trackers(("tensorbord",))
    assert caught.value.hint == "did you mean tensorboard?"
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "wandb" else object())
    require_trackers(("tensorboard", "mlflow"))
    with pytest.raises(UnavailableError, match="tracking with wandb needs wandb, which is not installed") as missing:
        finetune(replace(TRACKED, track=("wandb",)), digits(), out=tmp_path)
    assert missing.value.hint == "install it: pip install wandb"
    assert missing.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


class FakeMlflow(ModuleType):
    """A server of MLflow with its runs: parameters, and metrics as (step, values). `gone` are runs it has lost."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.params: dict[str, dict[str, object]] = {}
        self.active = ""
        self.exceptions = ModuleType("mlflow.exceptions")
        self.exceptions.MlflowException = type("MlflowException", (Exception,), {})  # type: ignore[attr-defined]
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        self.utils = SimpleNamespace(validation=limits)

    def search_experiments(self, filter_string: str) -> list[SimpleNamespace]:
        assert filter_string == "name = 'effvit'"
        return [SimpleNamespace(experiment_id="7")]

    def start_run(self, *, run_id: str | None, experiment_id: str, run_name: str, **_: object) -> SimpleNamespace:
        assert (experiment_id, run_name) == ("7", "cut")
        if run_id is not None and run_id not in self.runs:
            raise self.exceptions.MlflowException(f"Run with id={run_id} not found\nand more")
        self.active = run_id or f"mlflow-{len(self.runs)}"
        self.runs.setdefault(self.active, [])
        return SimpleNamespace(info=SimpleNamespace(run_id=self.active))

    def log_params(self, params: dict[str, object]) -> None:
        assert self.active not in self.params, "parameters are told once"
        self.params[self.active] = params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.runs[self.active].append((step, metrics))

    def end_run(self) -> None:
        self.active = ""


class FakeWandb(ModuleType):
    """A service of Weights & Biases with its runs, as above."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.params: dict[str, dict[str, object]] = {}
        self.errors = ModuleType("wandb.errors")
        self.errors.Error = type("Error", (Exception,), {})  # type: ignore[attr-defined]
        self.config = SimpleNamespace(update=self._configure)
        self.active = ""

    def init(self, *, project: str, name: str, id: str | None, resume: str, dir: str) -> SimpleNamespace:  # noqa: A002
        assert (project, name, resume, Path(dir).name) == ("effvit", "cut", "allow", "cut")
        self.active = id or f"wandb-{len(self.runs)}"
        told = self.runs.setdefault(self.active, [])
        return SimpleNamespace(
            id=self.active, log=lambda values, step: told.append((step, values)), finish=lambda: None
        )

    def _configure(self, values: dict[str, object], allow_val_change: bool) -> None:
        assert allow_val_change
        assert self.active not in self.params, "parameters are told once"
        self.params[self.active] = values


Service = FakeMlflow | FakeWandb


@pytest.fixture(params=[FakeMlflow, FakeWandb], ids=["mlflow", "wandb"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Return a service whose package seems to be installed."""
    fake: Service = request.param()
    below = fake.exceptions if isinstance(fake, FakeMlflow) else fake.errors
    for module in (fake, below):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(tracking, "find_spec", lambda _: object())
    return fake


def test_a_service_is_told_of_one_run_however_often_it_is_cut_short(service: Service, tmp_path: Path) -> None:
    asked = replace(TRACKED, track=(service.__name__,), recipe={**(TRACKED.recipe or {}), "epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        finetune(asked, digits(), out=tmp_path, name="cut", listener=Cut())
    run = resume(open_run(tmp_path / "cut"), replace(asked, recipe=None), digits())
    ((identity, told),) = service.runs.items()
    assert identity == f"{service.__name__}-0"
    # The second epoch was told, and its state lost: it is told again, of the same step.
    assert [step for step, _ in told] == [1, 2, 2, 3]
    assert service.params[identity]["learning_rate"] == run.record.recipe.learning_rate
    first, values = run.history()[0], told[0][1]
    assert (values["top1"], values["train_loss"]) == (first.top1, first.train_loss)
    assert not {"epoch", "device_peak_bytes", "energy_note"} & values.keys()  # absent is not zero, words are no metric


def test_another_run_is_another_one_to_the_service(service: Service, tmp_path: Path) -> None:
    for root in ("first", "second"):
        trackers = Trackers((service.__name__,), create_run(tmp_path / root, "cut", record_of()), 0)
        trackers.close()
    assert len(service.runs) == 2


def test_a_run_that_the_service_has_lost_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow()
    for module in (fake, fake.exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    run = create_run(tmp_path, "cut", record_of())
    Trackers(("mlflow",), run, 0).close()
    fake.runs.clear()
    with pytest.raises(UnavailableError, match=r"told of the run: Run with id=mlflow-0 not found$") as caught:
        Trackers(("mlflow",), run, 1)
    assert "leave --track mlflow out" in caught.value.hint


def test_damaged_ids_are_one_sentence(service: Service, tmp_path: Path) -> None:
    run = create_run(tmp_path, "cut", record_of())
    (run.folder / IDS).write_text("{")
    with pytest.raises(CheckpointError, match=r"trackers\.json is damaged"):
        Trackers((service.__name__,), run, 0)
