"""Errors cross process boundaries whole."""

import pickle

import pytest

from effvit.errors import DataError, EffvitError, ExportError, MismatchError, UnknownNameError


@pytest.mark.parametrize(
    "error",
    [
        DataError("a.jpg is damaged", "repair it"),
        UnknownNameError("backend", "onxn", ["onnx", "trt"]),
        ExportError("simplify", "it failed", "try again"),
        MismatchError("logits differ", "look", max_abs=0.5, cosine=0.9, agreement=0.8),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling_with_every_field(error: EffvitError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
