"""Weights on disk: safetensors, or PyTorch files read as plain tensors. Nothing is ever unpickled."""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import clean_state_dict
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from effvit.errors import CheckpointError, first_line
from effvit.storage import replacing, storage_errors

CLASSIFIERS = ("head", "head_dist")
# What torch.load raises on damaged files: its reader of tensors trips over whatever bytes it finds.
READ_ERRORS = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AssertionError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's weights to `path` as safetensors, whole or not at all.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    save_tensors(path, model.state_dict(), {"format": "pt"})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors`, and texts beside them, to `path` as safetensors, whole or not at all.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(on_host, temporary, metadata=dict(metadata))
        except SafetensorError as error:  # the library wraps the operating system's error in text
            code = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(0, str(error))) from error


def remove_unfinished_tensors(folder: Path) -> None:
    """Remove what safetensors left in `folder` in processes that were killed: it writes into a file of its own first.

    Raises:
        StorageError: The folder cannot be written.
    """
    with storage_errors(folder):
        for temporary in folder.glob(".tmp??????"):
            temporary.unlink(missing_ok=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the checkpoint at `path`, under the names timm's models use.

    Accepted are safetensors, and PyTorch files that hold tensors alone (with or without `state_dict`, `model` or
    `state_dict_ema` around them).

    Raises:
        CheckpointError: No file, a truncated one, or one that would have to be unpickled.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}", "check the path given to --weights")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is not a whole safetensors file: {error}", "copy or download the file again"
            ) from error
    return _read_torch(path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # Of a damaged file; what becomes of it is said below.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects and would have to be unpickled, which can run any code",
            "convert it to safetensors where you trust it: safetensors.torch.save_file(model.state_dict(), PATH)",
        ) from error
    except READ_ERRORS as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of PyTorch's", "copy the file again, or name another"
        ) from error
    for wrapper in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no named tensors", "name a checkpoint of model weights")
    return dict(clean_state_dict(content))


def converted_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint from elsewhere as `model` would hold them.

    Names become timm's; patch and position embedding are resampled where patch size or grid differ. Tensors that were
    saved from this very architecture must not pass through here: timm takes a position embedding with as many patches
    as the backbone's own square grid for one of that grid.

    Raises:
        CheckpointError: timm cannot convert them.
    """
    try:
        converted = checkpoint_filter_fn(dict(tensors), model)  # type: ignore[arg-type]  # any ViT-like module will do
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{source} cannot be converted for {type(model).__name__}: {first_line(error)}",
            "name the model the checkpoint was trained as",
        ) from error
    return dict(converted)


def load_weights(
    model: nn.Module, tensors: dict[str, Tensor], source: str, *, new: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Load `tensors` into `model` and return the names that keep their fresh initialisation.

    Only the classifier (when its classes differ) and the parameters in `new` (those a swap has added) may be missing.

    Raises:
        CheckpointError: The tensors belong to another architecture; the first clash is named.
    """
    own = model.state_dict()
    tensors = dict(tensors)
    head = {name for name in own if name.split(".")[0] in CLASSIFIERS}
    for name in head & set(tensors):
        if tensors[name].shape != own[name].shape:
            del tensors[name]
    fresh = tuple(name for name in own if name not in tensors)
    missing = [name for name in fresh if name not in head and name not in new]
    unexpected = [name for name in tensors if name not in own and name.split(".")[0] not in CLASSIFIERS]
    misshapen = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    for names, clash in ((missing, "lacks"), (unexpected, "has an unknown"), (misshapen, "has another shape of")):
        if names:
            raise CheckpointError(
                f"{source} is of another architecture than {type(model).__name__} as configured: it {clash} {names[0]}"
                + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                "name the model the checkpoint was trained as, with the same patch size and attention",
            )
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if name in own}, strict=False)
    return fresh
