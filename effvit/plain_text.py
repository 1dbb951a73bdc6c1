"""Text that comes from elsewhere, as text and nothing more: names come from files, and files from others."""

from __future__ import annotations

import re

# Control characters but tabulators and line breaks, those that change the direction of what follows, and two that are
# no characters.
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def plain_text(text: str) -> str:
    """Return `text` without characters that a terminal obeys, that turn a line around, or that no XML may hold."""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)
