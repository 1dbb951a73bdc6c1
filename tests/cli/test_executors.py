"""`effvit profile --executor ray`: what is refused before a cluster is looked for."""

from __future__ import annotations

import pytest
from command_line import Effvit, refused


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--executor", "rya"], 2, ["no executor named 'rya'", "did you mean ray?"]),
        (["--ray-address", "auto"], 2, ["add --executor ray"]),
        (["--executor", "ray", "--device", "ssh://pi"], 2, ["are no nodes of a Ray cluster"]),
        (["--executor", "ray", "--max-batch"], 2, ["--max-batch does not go with --executor ray"]),
        (
            ["--executor", "ray", "--precision", "fp16", "--pin-fp32", "auto"],
            2,
            ["--pin-fp32 does not go with --executor ray"],
        ),
        (["--executor", "ray", "--until-crossover"], 2, ["--until-crossover does not go with --executor ray"]),
    ],
)
def test_what_cannot_be_is_a_sentence(effvit: Effvit, arguments: list[str], code: int, words: list[str]) -> None:
    refused(effvit("profile", *arguments), code, *words)
