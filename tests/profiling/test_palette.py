"""Colours that people without one kind of cone can tell apart, on white and on the dark page."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from effvit.profiling.report.palette import COLOURS, GREY, colour_scale
from effvit.spec import BASELINE
from effvit.surgery import attention_variants

Floats = npt.NDArray[np.float64]
# Machado, Oliveira and Fernandes 2009, https://doi.org/10.1109/TVCG.2009.113, severity 1.0.
VISIONS = {
    "full": np.eye(3),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def _linear(colour: str) -> Floats:
    shares = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def _lab(colour: str, vision: Floats) -> Floats:
    xyz = XYZ @ np.clip(vision @ _linear(colour), 0, 1) / WHITE
    cube = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * cube[1] - 16, 500 * (cube[0] - cube[1]), 200 * (cube[1] - cube[2])])


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((float(XYZ[1] @ _linear(colour)) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_pair_of_colours_can_be_told_apart_with_and_without_a_cone() -> None:
    """A distance of 2.3 in CIELAB is just noticeable; marks of figures are small, and have shapes as well."""
    for vision in VISIONS.values():
        for one, other in itertools.combinations((GREY, *COLOURS), 2):
            assert np.linalg.norm(_lab(one, vision) - _lab(other, vision)) > 15, (one, other)


def test_every_colour_shows_on_both_pages() -> None:
    style = files("effvit.profiling.report").joinpath("report.css").read_text()
    pages = set(re.findall(r"--page: (#[0-9a-f]{6})", style))
    assert len(pages) == 2
    for page, colour in itertools.product(pages, (GREY, *COLOURS)):
        assert _contrast(page, colour) > 2.2, (page, colour)


def test_every_variant_there_is_has_a_colour_of_its_own() -> None:
    names = [BASELINE, *sorted(set(attention_variants()) - {BASELINE})]
    chosen = colour_scale(names).to_dict()["range"]
    assert len(set(chosen)) == len(names)
