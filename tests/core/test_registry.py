from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from effvit.errors import UnknownNameError
from effvit.registry import discover, pick


@dataclass(frozen=True)
class Plugin:
    name: str


def package(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, str]) -> str:
    """Write a package of plug-ins; its name is new to this process, because Python keeps what it has imported."""
    (root / name).mkdir()
    (root / name / "__init__.py").write_text("")
    for file, value in files.items():
        (root / name / f"{file}.py").write_text(f"from effvit_test_plugin import Plugin\n{value}\n")
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setitem(
        __import__("sys").modules, "effvit_test_plugin", __import__("types").SimpleNamespace(Plugin=Plugin)
    )
    return name


def test_plugins_are_found_in_the_order_of_their_files_and_base_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"zebra": "P = Plugin('zebra')", "ape": "P = Plugin('ape')", "base": "P = 3"}
    found = discover(package(tmp_path, monkeypatch, "plugins_sorted", files), "P", Plugin)
    assert list(found.items()) == [("ape", Plugin("ape")), ("zebra", Plugin("zebra"))]


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("plugins_lacking", "Q = Plugin('ape')", r"plugins_lacking\.ape must bind P to a Plugin, not None"),
        ("plugins_mistyped", "P = 'ape'", r"plugins_mistyped\.ape must bind P to a Plugin, not 'ape'"),
    ],
)
def test_a_file_without_a_plugin_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        discover(package(tmp_path, monkeypatch, name, {"ape": value}), "P", Plugin)


def test_two_plugins_of_one_name_are_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"ape": "P = Plugin('ape')", "bee": "P = Plugin('ape')"}
    with pytest.raises(TypeError, match=r"bee: the name 'ape' is taken"):
        discover(package(tmp_path, monkeypatch, "plugins_twice", files), "P", Plugin)


def test_a_misspelt_name_gets_the_closest_ones() -> None:
    with pytest.raises(UnknownNameError, match="there is no animal named 'zebar'") as caught:
        pick({"ape": 1, "zebra": 2}, "zebar", "animal")
    assert caught.value.closest == ("zebra",)
    assert pick({"ape": 1}, "ape", "animal") == 1
