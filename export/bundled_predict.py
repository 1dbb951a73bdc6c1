"""Classify images with the bundle around this file: `python predict.py IMAGE...`.

Needs numpy, Pillow and onnxruntime, or openvino where the bundle is made for it; nothing of effvit.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Floats = npt.NDArray[np.float32]
TOP = 5
# How timm calls Pillow's filters.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
# The type that OpenVINO computes a graph in; what is quantised in it stays so.
OPENVINO_TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def read_rgb(path: str) -> Image.Image:
    """Return the image in RGB, upright, without transparency; 16-bit grey levels keep their upper 8 bits."""
    with Image.open(path) as stored:
        stored.load()
        image = ImageOps.exif_transpose(stored)
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(levels.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def model_input(image: Image.Image, settings: dict[str, Any]) -> Floats:
    """Return what the model takes for one RGB image: `(3, height, width)` float32.

    It is resized, cut and normalised as it was while the model was trained and measured.
    """
    size = settings["height"], settings["width"]
    fill: tuple[int, ...] = (0, 0, 0)
    if settings["crop_mode"] == "border":
        fill = tuple(round(255 * level) for level in settings["mean"])
    image = _cropped(_resized(image, size, settings), size, fill)
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.asarray(settings[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
    normalised: Floats = (pixels - mean) / std
    return normalised


def _resized(image: Image.Image, size: tuple[int, int], settings: dict[str, Any]) -> Image.Image:
    """Resize so that `crop_fraction` of the image becomes the input."""
    rows, columns = (math.floor(pixels / settings["crop_fraction"]) for pixels in size)
    width, height = image.size
    mode = settings["crop_mode"]
    if mode == "squash":
        target = columns, rows
    elif mode == "center" and rows == columns:
        short, long = sorted((width, height))
        longer = int(rows * long / short)
        target = (rows, longer) if width <= height else (longer, rows)
    else:
        fitting = max if mode == "border" else min
        ratio = fitting(height / rows, width / columns)
        target = round(width / ratio), round(height / ratio)
    return image if target == image.size else image.resize(target, FILTERS[settings["interpolation"]])


def _cropped(image: Image.Image, size: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """Cut the middle out, padded where the image is smaller."""
    rows, columns = size
    wide, high = max(0, columns - image.width), max(0, rows - image.height)
    if wide or high:
        image = ImageOps.expand(image, (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2), fill=fill)
    left, top = round((image.width - columns) / 2), round((image.height - rows) / 2)
    return image.crop((left, top, left + columns, top + rows))


def open_model(folder: Path, manifest: dict[str, Any]) -> Callable[[Floats], Floats]:
    """Return a function from images `(batch, 3, height, width)` to logits `(batch, classes)`."""
    path = str(folder / manifest["model_file"])
    if manifest["runtime"] == "openvino":
        import openvino

        types = {"INFERENCE_PRECISION_HINT": OPENVINO_TYPES[manifest["precision"]]}
        compiled = openvino.Core().compile_model(path, "CPU", types)
        return lambda images: np.asarray(compiled(images)[0])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # On processors without VNNI 8-bit products overflow otherwise.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def best_classes(logits: Floats, labels: Sequence[str], top: int = TOP) -> list[tuple[str, int, float]]:
    """Return (class, index, probability) of the most probable classes, the best first."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    return [(labels[index], int(index), float(shares[index])) for index in order]


def main() -> None:
    """Print the best classes of every image that the command line names."""
    folder = Path(__file__).resolve().parent
    manifest, settings, labels = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("manifest.json", "preprocessing.json", "labels.json")
    )
    run = open_model(folder, manifest)
    for path in sys.argv[1:]:
        (logits,) = run(model_input(read_rgb(path), settings)[None])
        print(path)
        for name, _, share in best_classes(logits, labels):
            print(f"  {100 * share:5.1f} %  {name}")


if __name__ == "__main__":
    main()
