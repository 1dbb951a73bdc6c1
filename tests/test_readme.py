"""The README's promises that a machine can check."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_variant_is_in_its_table() -> None:
    variants = {path.stem for path in (ROOT / "effvit" / "attention").glob("*.py")} - {"__init__", "base"}
    assert variants == set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
