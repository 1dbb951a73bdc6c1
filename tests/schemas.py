"""Whether what was written is of the published schema."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator

from effvit.errors import ResultError
from effvit.profiling.results import decode
from effvit.profiling.schema import schema_text

# Validation takes milliseconds a line: files of large sweeps are sampled.
_MOST_LINES = 20


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema_text()))


def check_result_files(folder: Path) -> None:
    """Validate every line of the result files below `folder` that a reader takes; tests leave broken ones as well."""
    for path in folder.rglob("*.jsonl"):
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        for line in lines[:_MOST_LINES]:
            if b'"effvit.result/' not in line:
                continue
            try:
                decode(line, str(path))
            except ResultError:
                continue
            validator().validate(json.loads(line))
