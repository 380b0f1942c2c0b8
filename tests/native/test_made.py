"""Native code that comes with the package, for hosts without LLVM."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tandemu.native import made

PACKAGES = ("bits", "native")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Tandemu that has two packages."""
    root = Path(made.__file__).resolve().parents[1]
    for name in PACKAGES:
        shutil.copytree(root / name, tmp_path / name)
    monkeypatch.setattr(made, "_root", lambda: str(tmp_path))
    return tmp_path


def test_what_was_made_is_taken(package: Path) -> None:
    assert made.read_made("thing", PACKAGES) is None
    made.write_made(str(package), "thing", b"code", PACKAGES)
    assert made.read_made("thing", PACKAGES) == b"code"
    assert made.made_or_built("thing", lambda: b"built", PACKAGES) == b"code"


def test_sources_may_be_missing_but_not_others(package: Path) -> None:
    made.write_made(str(package), "thing", b"code", PACKAGES)
    shutil.rmtree(package / "bits")
    assert made.read_made("thing", PACKAGES) == b"code"
    (package / "native/compiler.py").write_text("# another")
    assert made.read_made("thing", PACKAGES) is None


@pytest.mark.parametrize("damage", [b"", b"TANDEMUM", b"x" * 64])
def test_a_damaged_file_is_not_taken(package: Path, damage: bytes) -> None:
    made.write_made(str(package), "thing", b"code", PACKAGES)
    file = package / "native/made/thing"
    file.write_bytes(damage or file.read_bytes()[:-1])
    assert made.read_made("thing", PACKAGES) is None
