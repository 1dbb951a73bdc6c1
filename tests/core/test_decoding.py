"""Odd images load, damaged ones are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import noise, truncate
from PIL import Image

from effvit.decoding import Encoding, decode, decoded_bytes, encoding_of, in_threads, why_unusable
from effvit.errors import DataError
from effvit.progress import silent


def test_an_image_in_memory_is_taken_as_it_is() -> None:
    pixels = np.asarray(noise())
    assert np.array_equal(np.asarray(decode(pixels)), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    noise().convert(mode).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png")
    assert (image.mode, image.size) == ("RGB", (24, 20))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.tif")
    assert decode(tmp_path / "red.tif").getpixel((0, 0)) == (255, 0, 0)


def test_a_palette_with_transparency_in_bytes_loads_without_a_warning(tmp_path: Path) -> None:
    noise().convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert decode(tmp_path / "a.png").mode == "RGB"


def test_16_bit_levels_keep_their_upper_8_bits(tmp_path: Path) -> None:
    levels = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert np.asarray(decode(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_a_16_bit_portable_grey_map_is_not_clipped_to_white(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0x80, 0x00, 0x01, 0x00]))
    assert np.asarray(decode(tmp_path / "a.pgm"))[0, :, 0].tolist() == [128, 1]


def test_an_exif_rotated_image_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to see it upright
    noise(24, 20).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(decode(tmp_path / "a.png")), np.rot90(np.asarray(noise(24, 20)), k=-1))


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, extension: str) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / f"a.{extension}", save_all=True, append_images=[second], lossless=True)
    assert decode(tmp_path / f"a.{extension}").getpixel((4, 4)) == (255, 0, 0)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif cannot be used as an image: its floating-point pixels"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "bmp", "tif"])
def test_a_truncated_image_is_named(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"half.{extension}"
    noise(64, 64).save(path)
    truncate(path)
    with pytest.raises(DataError, match=rf"half\.{extension} cannot be used as an image: ") as caught:
        decode(path)
    assert caught.value.hint == "repair or remove the file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"<html>not found</html>", "no image format fits its contents")],
)
def test_the_reason_is_said(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert why_unusable(tmp_path / "a.jpg") == reason


def test_a_missing_file_is_named() -> None:
    for function in (decode, decoded_bytes):
        with pytest.raises(DataError, match=r"gone\.jpg cannot be used as an image: no such file or directory"):
            function(Path("gone.jpg"))


@pytest.mark.parametrize("limit", [479, 239])  # 24 x 20 = 480 px: Pillow warns above the limit, refuses above twice it
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    noise().save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert why_unusable(tmp_path / "bomb.png") == f"more than {limit} pixels could be a decompression bomb"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("function", [decode, decoded_bytes, encoding_of])
def test_a_bomb_of_which_pillow_only_warns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[[Path], object]
) -> None:
    noise().save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 479)
    with pytest.raises(DataError, match=r"bomb\.png cannot be used as an image: more than 479 pixels"):
        function(tmp_path / "bomb.png")


class Bytes:
    """An image that is no file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __str__(self) -> str:
        return "cell 7"

    def read(self) -> bytes:
        return self.content


def test_an_image_that_is_no_file_is_decoded_and_named(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    stored = Bytes((tmp_path / "a.png").read_bytes())
    assert np.array_equal(np.asarray(decode(stored)), np.asarray(noise()))
    assert decoded_bytes(stored) == 1440
    with pytest.raises(DataError, match="cell 7 cannot be used as an image: the file is empty"):
        decode(Bytes(b""))


def test_an_encoding_is_what_the_header_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(24, 20).convert("L").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    assert encoding_of(tmp_path / "turned.jpg") == Encoding("JPEG", "L", 20, 24, turned=True, animated=False)
    assert encoding_of(tmp_path / "a.gif") == Encoding("GIF", "P", 8, 8, turned=False, animated=True)
    assert encoding_of(np.asarray(noise(24, 20))) == Encoding("pixels", "RGB", 24, 20, turned=False, animated=False)


def test_a_good_image_has_no_reason(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.jpg")
    assert why_unusable(tmp_path / "a.jpg") is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("metadata", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff not a directory", b"Exif\0\0nothing like it"])
def test_damaged_metadata_leaves_good_pixels(tmp_path: Path, metadata: bytes) -> None:
    noise().save(tmp_path / "a.png", exif=metadata)
    assert np.array_equal(np.asarray(decode(tmp_path / "a.png")), np.asarray(noise()))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged headers
@given(data=st.data())
def test_no_damage_raises_anything_but_a_reason(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    extension = data.draw(st.sampled_from(["jpg", "png", "webp", "bmp", "tif", "ppm"]))
    path = folder / f"a.{extension}"
    noise().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    reason = why_unusable(path)
    assert reason is None or reason


def test_memory_is_three_bytes_a_pixel(tmp_path: Path) -> None:
    noise(24, 20).convert("L").save(tmp_path / "a.png")
    assert decoded_bytes(tmp_path / "a.png") == decoded_bytes(np.asarray(noise(24, 20))) == 1440


def test_threads_keep_the_order_and_report_progress() -> None:
    seen: list[tuple[int, int]] = []
    assert list(in_threads(lambda item: item * 2, range(5), lambda done, total: seen.append((done, total)))) == [
        0, 2, 4, 6, 8,
    ]  # fmt: skip
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        list(in_threads(decode, [Path("gone.png")], silent))
