"""ExecuTorch programs (.pte) as they are found: whole or refused in a sentence, and what effvit wrote into one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from effvit.errors import DamagedArtifactError
from effvit.export.base import pick_backend
from effvit.export.graph_file import AGAIN, read_file
from effvit.export.quantisation import Quantised
from effvit.export.silence import silent_stderr
from effvit.spec import ModelSpec, Precision

SUFFIX = ".pte"
# A method that takes nothing and returns this text: the place that programs have for what goes with them.
METADATA = "effvit"
FORWARD = "forward"
XNNPACK = "XnnpackBackend"
# The header in front of the program, numbers little-endian: where its root lies, the format (ET and a version), `eh00`,
# the header's length, the program's size, where segments of weights and delegates start (0: there are none), and their
# size. https://github.com/pytorch/executorch/blob/main/docs/source/pte-file-format.md
_HEADER = struct.Struct("<I2s2s4sIQQQ")


@dataclass(frozen=True, slots=True)
class Leftover:
    """An operator that the delegate did not take: `count` of them, of which the mechanism of attention has some."""

    operator: str
    count: int
    in_attention: int


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """What effvit writes into a program: what it was made of, and how; `leftovers` are most frequent first."""

    model: ModelSpec
    precision: Precision
    quantised: Quantised | None = None
    leftovers: tuple[Leftover, ...] = ()


def read_program(path: Path) -> bytes:
    """Return the content of the file `path`.

    Raises:
        ArtifactError: There is no such file.
        DamagedArtifactError: It is no ExecuTorch program, or a part of one.
    """
    content = read_file(path)
    _, format_name, _, extended, _, program_bytes, segments_at, segments_bytes = _HEADER.unpack_from(
        content.ljust(_HEADER.size, b"\0")
    )
    if format_name != b"ET":
        raise DamagedArtifactError(
            f"{path} is not an ExecuTorch program", "name a .pte file, a graph, an engine or a run"
        )
    if extended != b"eh00" or len(content) < max(_HEADER.size, program_bytes, segments_at + segments_bytes):
        raise DamagedArtifactError(f"{path} is damaged: it breaks off", AGAIN)
    return content


def parsed_program(content: bytes, path: Path) -> Any:
    """Return the program of a file's `content` as ExecuTorch's own dataclass, `executorch.exir.schema.Program`.

    Raises:
        DamagedArtifactError: It is damaged.
        BackendUnavailableError: ExecuTorch is not here.
    """
    pick_backend("executorch").require()
    from executorch.exir._serialize._program import _flatbuffer_to_program, _get_extended_header
    from executorch.extension.pybindings.portable_lib import _load_program_from_buffer

    try:
        # The runtime checks every offset of the file, which the reader in Python does not.
        with silent_stderr():
            _load_program_from_buffer(content)
    except RuntimeError as error:
        raise DamagedArtifactError(f"{path} is damaged: ExecuTorch cannot read it", AGAIN) from error
    header = _get_extended_header(content)
    return _flatbuffer_to_program(content if header is None else content[: header.program_size])


def record_of(program: Any) -> ProgramRecord | None:
    """Return what effvit wrote into `program`; None where that is nothing, or another effvit's."""
    for plan in program.execution_plan:
        if plan.name == METADATA and plan.values:
            try:
                return msgspec.json.decode(plan.values[0].val.string_val, type=ProgramRecord)
            except (AttributeError, msgspec.DecodeError):
                return None
    return None
