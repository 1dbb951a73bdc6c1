from __future__ import annotations

import pytest

from effvit.errors import (
    MOST_LISTED,
    ArtifactError,
    BackendUnavailableError,
    CellsFailedError,
    ChangedFileError,
    CheckFailedError,
    CheckpointError,
    ConstraintError,
    DamagedArtifactError,
    DataError,
    DeviceMemoryError,
    EffvitError,
    ExportError,
    FallbackError,
    LackingError,
    MismatchError,
    PeerError,
    RegressionError,
    ResultError,
    StorageError,
    UnavailableError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from effvit.recipe import Recipe
from effvit.spec import Workload, check_resolution
from effvit.surgery import parse_options, pick_variant

EXIT_CODES = {
    EffvitError: 1,
    UsageError: 2,
    UnknownNameError: 2,
    UnsupportedError: 2,
    DeviceMemoryError: 2,
    DataError: 2,
    CheckpointError: 2,
    ResultError: 2,
    ArtifactError: 2,
    StorageError: 2,
    UnavailableError: 3,
    BackendUnavailableError: 3,
    LackingError: 3,
    PeerError: 3,
    CheckFailedError: 4,
    ExportError: 4,
    FallbackError: 4,
    MismatchError: 4,
    ChangedFileError: 4,
    DamagedArtifactError: 4,
    RegressionError: 4,
    ConstraintError: 4,
    CellsFailedError: 5,
}


def tree(kind: type[EffvitError]) -> set[type[EffvitError]]:
    # Pytest imports every test module, and with them no further error class: those of effvit.errors are meant.
    below = {sub for sub in kind.__subclasses__() if sub.__module__ == "effvit.errors"}
    return {kind} | {deeper for sub in below for deeper in tree(sub)}


def test_every_error_has_the_exit_code_of_its_branch() -> None:
    assert {kind: kind.exit_code for kind in tree(EffvitError)} == EXIT_CODES


def test_message_and_hint_are_kept_apart() -> None:
    error = DataError("a.jpg is damaged", "repair it")
    assert (str(error), error.message, error.hint) == ("a.jpg is damaged", "a.jpg is damaged", "repair it")


def test_the_closest_names_are_suggested_best_first() -> None:
    error = UnknownNameError("backend", "onx", ["trt", "onnx", "eager"])
    assert error.hint == "did you mean onnx?"


def test_few_names_are_listed_when_none_is_close() -> None:
    assert UnknownNameError("backend", "???", ["trt", "onnx"]).hint == "choose one of: onnx, trt"


def test_many_names_are_counted_and_not_listed() -> None:
    names = [f"model_{index}" for index in range(MOST_LISTED + 1)]
    assert UnknownNameError("model", "???", names).hint == "check the spelling: none of the 21 known names is close"


@pytest.mark.parametrize(
    "provoke",
    [
        lambda: Workload(0, 1, 1),
        lambda: Recipe(epochs=0),
        lambda: check_resolution("test_vit", (65, 64), 16),
        lambda: pick_variant("lin"),
        lambda: parse_options(pick_variant("softmax"), [("pool", 2)]),
        lambda: parse_options(pick_variant("linformer"), [("pol", 2)]),
        lambda: parse_options(pick_variant("linformer"), [("pool", "many")]),
        lambda: parse_options(pick_variant("performer"), [("features", 0)]),
    ],
)
def test_a_message_is_one_sentence_without_a_full_stop_and_has_a_hint(provoke: object) -> None:
    with pytest.raises(EffvitError) as caught:
        provoke()  # type: ignore[operator]
    for text in (caught.value.message, caught.value.hint):
        assert text
        assert not text.endswith(".")
        assert ". " not in text
        assert "\n" not in text
