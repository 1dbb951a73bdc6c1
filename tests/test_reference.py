"""docs/reference.md says what the command line says."""

from __future__ import annotations

from reference import REFERENCE, reference_text


def test_the_reference_is_up_to_date() -> None:
    assert REFERENCE.read_text() == reference_text(), "run `make reference`"


def test_the_reference_names_commands_of_commands_and_defaults() -> None:
    text = reference_text()
    assert "\n## effvit runs show\n" in text
    assert "| `--fail-on LIMIT` |" in text
    assert "--json" in text
