"""What --data says leads to a data set or to one clear sentence."""

from pathlib import Path

import pytest
from pictures import write_folder

from effvit.data.base import data_sources, fingerprint, load_data
from effvit.errors import DataError


def test_every_source_is_found_and_described() -> None:
    sources = data_sources()
    assert list(sources) == ["digits", "folder", "hf", "imagenet100", "table", "torchvision"]
    assert all(source.summary for source in sources.values())


def test_every_form_but_that_of_a_path_begins_with_the_sources_name() -> None:
    forms = {source.name: source.form for source in data_sources().values()}
    assert forms.pop("folder") == "PATH"
    assert all(form == name or form.startswith(f"{name}:") for name, form in forms.items())


@pytest.mark.parametrize("name", ["digits:", "digits:x", "folder:x", "hfx:y", "imagenet100"])
def test_a_name_in_another_form_is_no_data_set(name: str) -> None:
    with pytest.raises(DataError, match="is neither a data set nor a path that exists"):
        load_data(name)


def test_a_path_with_a_sources_name_in_it_is_reached_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "hf:pets", {"cat": 2, "dog": 2})
    monkeypatch.chdir(tmp_path)
    assert load_data("./hf:pets").classes == ("cat", "dog")


def test_a_misspelt_name_gets_the_closest_one_and_a_way_out() -> None:
    with pytest.raises(DataError, match="'digts' is neither a data set nor a path that exists") as caught:
        load_data("digts")
    assert caught.value.hint == ("name digits, or give the path of an existing folder with one sub-folder a class")


@pytest.mark.parametrize("name", ["no/such/folder", "folder", "~nobody-of-that-name/data", "x" * 5000, ""])
def test_a_path_that_does_not_exist_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        load_data(name)


def test_a_name_wins_over_a_folder_and_a_path_reaches_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "digits", {"cat": 2, "dog": 2})
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits").classes) == 10
    assert load_data("./digits").classes == ("cat", "dog")


def test_a_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_data("~/pets").name == "~/pets"


def test_a_fingerprint_tells_names_sizes_labels_and_parts_apart() -> None:
    one, two = ("a", 1, 0), ("b", 1, 0)
    variants = [
        fingerprint([one], [two]),
        fingerprint([two], [one]),
        fingerprint([one, two], []),
        fingerprint([("a", 2, 0)], [two]),
        fingerprint([("a", 1, 1)], [two]),
        fingerprint([("c", 1, 0)], [two]),
    ]
    assert len(set(variants)) == len(variants)
    assert fingerprint([one], [two]) == variants[0]


def test_a_name_that_is_not_unicode_has_a_fingerprint() -> None:
    assert fingerprint([("caf\udce9.png", 1, 0)], []) != fingerprint([("cafe.png", 1, 0)], [])
