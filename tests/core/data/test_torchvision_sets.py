"""torchvision's data sets, out of the files that its own code reads and downloads."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torchvision.datasets
from pictures import noise
from torchvision.datasets import MNIST

from effvit.data.base import load_data
from effvit.data.torchvision_sets import SETS
from effvit.decoding import decode
from effvit.errors import UnavailableError, UnknownNameError

IDX_LABELS, IDX_IMAGES = 0x0801, 0x0803  # http://yann.lecun.com/exdb/mnist/
FILES = {
    "train-images-idx3-ubyte": (np.arange(20 * 28 * 28) % 251).astype(np.uint8).reshape(20, 28, 28),
    "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    "t10k-images-idx3-ubyte": np.full((10, 28, 28), 7, dtype=np.uint8),
    "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "torchvision"


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    magic = IDX_IMAGES if array.ndim == 3 else IDX_LABELS
    return np.array([magic, *array.shape], dtype=">u4").tobytes() + array.tobytes()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a tiny MNIST to torchvision, and return the folder that is served."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, array in FILES.items():
        content = gzip.compress(idx(array))
        (folder / f"{name}.gz").write_bytes(content)
        resources.append((f"{name}.gz", hashlib.md5(content).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_listed_set_is_torchvisions() -> None:
    assert set(SETS) <= set(torchvision.datasets.__all__)


def test_a_set_is_downloaded_once_and_read_from_the_cache(
    cache: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("torchvision:MNIST")
    assert capsys.readouterr().out == ""
    for path in mirror.iterdir():
        path.unlink()
    assert load_data("torchvision:MNIST").fingerprint == data.fingerprint
    assert sorted(path.name for path in cache.iterdir()) == [".MNIST.lock", "MNIST"]
    assert data.classes[3] == "3 - three"
    assert [sample.label for sample in data.train] == [*range(10), *range(10)]
    pixels = np.asarray(decode(data.train[1].source))
    assert np.array_equal(pixels[..., 2], FILES["train-images-idx3-ubyte"][1])
    assert len(data.val) == 10
    assert (data.hints.horizontal_flip, data.name) == (0.0, "torchvision:MNIST")


def test_other_pixels_have_another_fingerprint(
    cache: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_data("torchvision:MNIST").fingerprint
    file = cache / "MNIST/MNIST/raw/t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert load_data("torchvision:MNIST").fingerprint != before


def test_what_a_killed_download_left_is_not_taken_for_the_set(cache: Path, mirror: Path) -> None:
    half = cache / ".MNIST/MNIST/raw"
    half.mkdir(parents=True)
    for name in FILES:
        (half / name).write_bytes(b"half")
    assert len(load_data("torchvision:MNIST").train) == 20


def test_without_network_one_sentence_says_so(cache: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # where nobody listens
    with pytest.raises(UnavailableError, match="torchvision:MNIST cannot be downloaded: ") as caught:
        load_data("torchvision:MNIST")
    assert caught.value.exit_code == 3
    assert "connect to the internet once" in caught.value.hint
    assert not (cache / "MNIST").exists()


def test_a_download_with_the_wrong_checksum_is_refused(
    cache: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(UnavailableError, match="torchvision:MNIST cannot be downloaded: "):
        load_data("torchvision:MNIST")
    assert not (cache / "MNIST").exists()


def test_a_set_of_files_gives_their_paths_and_is_split_here(cache: Path) -> None:
    for seed, name in enumerate(["Forest", "Forest", "River", "River"]):
        folder = cache / "EuroSAT/eurosat/2750" / name
        folder.mkdir(parents=True, exist_ok=True)
        noise(8, 8, seed).save(folder / f"{seed}.jpg")
    data = load_data("torchvision:EuroSAT")
    assert data.classes == ("Forest", "River")
    assert [sample.label for sample in data.train] == [sample.label for sample in data.val] == [0, 1]
    assert all(isinstance(sample.source, Path) for sample in data.train)


def test_a_misspelt_set_has_a_closest_name() -> None:
    with pytest.raises(UnknownNameError, match="no torchvision data set named 'CIFR10'") as caught:
        load_data("torchvision:CIFR10")
    assert "CIFAR10" in caught.value.hint
