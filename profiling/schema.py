"""The published form of a line of a result file, as JSON schema."""

from __future__ import annotations

import msgspec

from effvit.profiling.records import SCHEMA, Outcome

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_text() -> bytes:
    """Return the JSON schema of `Outcome`, made from its types and docstrings."""
    schema = msgspec.json.schema(Outcome)
    fields = schema["$defs"]["Outcome"]["properties"]
    # The readers accept no other version, and every line says its own.
    fields["schema"] = {"const": SCHEMA}
    schema["$defs"]["Outcome"]["required"].append("schema")
    content = {"$schema": DIALECT, "title": SCHEMA, **schema}
    return msgspec.json.format(msgspec.json.encode(content), indent=2)
