"""Studies that a file describes, and the file that a study leaves behind."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from command_line import Effvit, refused
from hypothesis import given
from hypothesis import strategies as st

from effvit.cli.study_file import _toml

DESCRIBED = """
model = "test_vit"
attn = ["softmax", "linformer"]
epochs = 3
res = [32, "32x64"]
device = ["cpu", "cpu:threads=1"]
skip-corrupt = true
max-noise = inf
lr = 1e-3
"""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(DESCRIBED)
    return path


def shown(effvit: Effvit, *arguments: object) -> dict[str, object]:
    """Return the settings that a study would have."""
    answer = effvit("study", *arguments, "--show")
    assert answer.code == 0, answer.err
    return tomllib.loads(answer.out)


@pytest.mark.parametrize("how", [["study.toml"], ["--file", "study.toml"]], ids=["argument", "option"])
@pytest.mark.usefixtures("described")
def test_options_are_what_the_file_says_unless_they_are_given(effvit: Effvit, how: list[str]) -> None:
    found = shown(effvit, *how, "--epochs", "5", "--batch", "2")
    assert found["model"] == "test_vit"
    assert found["attn"] == ["softmax", "linformer"]
    assert (found["epochs"], found["batch"]) == (5, [2])
    assert found["res"] == [32, "32x64"]
    assert found["device"] == ["cpu", "cpu:threads=1"]
    assert (found["skip-corrupt"], found["max-noise"], found["lr"]) == (True, float("inf"), 0.001)
    assert found["data"] == "digits"  # nobody said so: it is the default


def test_a_model_beside_the_file_goes_before_that_of_the_file(effvit: Effvit, described: Path) -> None:
    assert shown(effvit, "vit_tiny_patch16_224", "--file", described)["model"] == "vit_tiny_patch16_224"


def test_what_is_shown_describes_the_same_study(effvit: Effvit, described: Path) -> None:
    first = effvit("study", described, "--show").out
    described.write_text(first)
    assert effvit("study", described, "--show").out == first
    assert "# train-res: what suits the data" in first


def test_nothing_is_made_where_settings_are_shown(effvit: Effvit, described: Path) -> None:
    shown(effvit, described)
    assert list(described.parent.iterdir()) == [described]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("epocs = 3", "named 'epocs'\n\nhint: did you mean epochs"),
        ("train_res = 64", "did you mean train-res"),
        ("out.folder = 3", "out is neither a text, a number nor a list"),
        ("json = true", "named 'json'"),
        ('epochs = "many"', "study.toml: epochs cannot be 'many': it should be a valid integer"),
        ("epochs = 0", "study.toml: epochs cannot be 0: it should be greater than or equal to 1"),
        ("epochs = true", "epochs is neither a text"),
        ("seed = 1.5", "seed cannot be 1.5"),
        ("attn = {softmax = 1}", "attn is neither a text"),
        ("res = [[224]]", "res is neither a text"),
        ("attn = 1979-05-27", "attn is neither a text"),
        ('skip-corrupt = "perhaps"', "skip-corrupt cannot be 'perhaps': it should be a valid boolean"),
        ('res = "big"', "'big' is not an image size"),
        ('attn = ["softmaks"]', "did you mean softmax"),
        ("attn = [", "study.toml is not TOML"),
        ("epochs = 1\nepochs = 2", "study.toml is not TOML"),
    ],
)
def test_a_file_that_says_nothing_sensible_is_one_sentence(
    effvit: Effvit, tmp_path: Path, line: str, words: str
) -> None:
    (tmp_path / "study.toml").write_text(line + "\n")
    refused(effvit("study", "study.toml"), 2, words)
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_a_file_that_cannot_be_read_is_one_sentence(effvit: Effvit, tmp_path: Path) -> None:
    refused(effvit("study", "none.toml"), 2, "none.toml cannot be read: No such file or directory")
    refused(effvit("study", "--file", tmp_path), 2, "cannot be read: Is a directory")
    (tmp_path / "a.toml").write_bytes(b"data = '\xff'")
    refused(effvit("study", "a.toml"), 2, "a.toml is not TOML")
    refused(effvit("study", "a.toml", "--file", "a.toml"), 2, "a.toml is not TOML")
    (tmp_path / "a.toml").write_text("epochs = 1")
    refused(effvit("study", "a.toml", "--file", "a.toml"), 2, "two files describe this study")


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.integers(-(2**60), 2**60),
        st.booleans(),
        st.floats(allow_nan=False),
    )
)
def test_values_are_written_as_toml_reads_them(value: object) -> None:
    assert tomllib.loads(f"key = {_toml(value)}")["key"] == value
    assert tomllib.loads(f"key = {_toml([value, value])}")["key"] == [value, value]
