"""Names of addresses, against what nm(1) says, and from files that are not what they seem."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tandemu.guests import GuestError
from tandemu.guests.symbols import read_symbols

COMPILER = "riscv64-linux-gnu-gcc"
SOURCE = """
int twice(int x) { return x + x; }
static int __attribute__((noinline)) hidden(int x) { return twice(x) - 1; }
int main(int argc, char **argv) { return hidden(argc); }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which(COMPILER):
        pytest.skip(f"{COMPILER} is not installed: ./test installs it")
    path = tmp_path_factory.mktemp("symbols") / "program"
    subprocess.run(
        [COMPILER, "-O1", "-x", "c", "-", "-o", path], input=SOURCE, text=True, check=True
    )
    return path


def test_functions_are_named_as_nm_names_them(program: Path) -> None:
    table = read_symbols(str(program))
    listed = subprocess.run(
        ["riscv64-linux-gnu-nm", "--defined-only", program],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    addresses = {
        fields[2]: int(fields[0], 16) for fields in map(str.split, listed.stdout.splitlines())
    }
    for name in ("main", "twice", "hidden"):
        assert table.name(addresses[name]) == name
        assert table.name(addresses[name] + 2) == f"{name}+0x2"
    assert table.name(0) is None


def test_a_shared_object_has_its_dynamic_symbols(program: Path, tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    subprocess.run(
        [COMPILER, "-O1", "-shared", "-s", "-x", "c", "-", "-o", library],
        input=SOURCE, text=True, check=True,
    )  # fmt: skip
    table = read_symbols(str(library))
    names = {table.name(address) for address in range(0, 0x2000, 2)}
    assert "twice" in names and "hidden" not in names


def test_a_list_gives_names(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(
        "ffffffff80000000 T _start\nffffffff80000100 t helper [module]\nffffffff80000180 d data\n"
    )
    table = read_symbols(str(path))
    assert table.name(0xFFFFFFFF80000004) == "_start+0x4"
    assert table.name(0xFFFFFFFF80000190) == "helper+0x90"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"nothing of the kind\n", "holds no symbols"),
        (b"\x7fELF\x02\x01\x01", "cut short or damaged"),
        (b"\x7fELF\x02\x01\x01".ljust(64, b"\0"), "holds no symbols"),
    ],
)
def test_what_holds_no_names(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(GuestError, match=reason):
        read_symbols(str(path))
    with pytest.raises(GuestError, match="cannot be read"):
        read_symbols(str(tmp_path / "missing"))


def test_damaged_files_end_in_an_error_or_in_names(program: Path, tmp_path: Path) -> None:
    whole = program.read_bytes()
    numbers = random.Random(1)
    path = tmp_path / "damaged"
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(numbers.randrange(1, 8)):
            damaged[numbers.choice((numbers.randrange(64), numbers.randrange(len(whole))))] = (
                numbers.randrange(256)
            )
        path.write_bytes(damaged[: numbers.randrange(64, len(whole) + 1)])
        try:
            read_symbols(str(path)).name(0x10400)
        except GuestError as error:
            assert str(path) in str(error)
