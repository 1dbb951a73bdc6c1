import json
from pathlib import Path

import pytest
from command_line import Effvit
from jsonschema import Draft202012Validator, ValidationError
from outcomes import make_outcome, make_sweep
from schemas import check_result_files, validator

from effvit.profiling.results import append, encode


def test_the_published_schema_is_one(effvit: Effvit) -> None:
    answer = effvit("schema")
    assert answer.code == 0
    schema = json.loads(answer.out)
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == "effvit.result/3"
    assert schema["$defs"]["Samples"]["properties"]["seconds"]["items"] == {"type": "number"}


def test_every_kind_of_outcome_is_of_the_schema() -> None:
    for outcome in make_sweep():
        validator().validate(json.loads(encode(outcome)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "effvit.result/2"),
        (("status",), "fine"),
        (("cell", "workload", "batch"), "8"),
        (("evidence", "samples", "seconds"), ["fast"]),
        (("environment", "cpu"), None),
    ],
)
def test_what_is_of_another_form_is_not(path: tuple[str, ...], value: object) -> None:
    data = json.loads(encode(make_outcome()))
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        validator().validate(data)


@pytest.mark.parametrize("name", ["cell", "status", "environment", "schema"])
def test_what_lacks_a_field_is_not(name: str) -> None:
    data = json.loads(encode(make_outcome()))
    del data[name]
    with pytest.raises(ValidationError):
        validator().validate(data)


def test_files_that_tests_write_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path / "deep" / "results.jsonl", make_outcome())
    check_result_files(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("schemas.validator", lambda: Draft202012Validator({"required": ["colour"]}))
        with pytest.raises(ValidationError, match="colour"):
            check_result_files(tmp_path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_of_every_version_are_reported_recommended_from_and_compared(effvit: Effvit, version: int) -> None:
    file = Path(__file__).parents[1] / "profiling/versions" / f"{version}.jsonl"
    for command in (["report", file, "--out", "report"], ["recommend", file], ["compare", file, file]):
        answer = effvit(*command)
        assert answer.code == 0, answer.err
        assert "linformer" in answer.out
