"""Agent expressions, packets and addresses: what is bounded, and what comes out."""

from __future__ import annotations

import random

import pytest

from tandemu.debug import DebugError
from tandemu.debug.architecture import find_architecture
from tandemu.debug.expressions import evaluate
from tandemu.debug.packets import PacketReader, escape, frame, unescape


def value(code: str) -> int:
    return evaluate(
        bytes.fromhex(code), lambda number: 1000 + number, lambda at, size: b"\1" * size
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("26000a 23 03e8 03 27", 10),  # reg 10, const 1000, subtract
        ("22 05 22 03 14 27", 0),  # 5 < 3
        ("22 ff 16 08 27", (1 << 64) - 1),  # sign extension
        ("22 ff 16 08 2a 04 27", 15),
        ("22 ff 16 08 22 02 05 27", 0),  # -1 / 2 is 0
        ("22 ff 16 08 22 02 07 27", (1 << 64) - 1),  # -1 % 2 is -1
        ("22 10 18 27", 0x0101),
        ("22 00 20 0008 22 07 27 22 09 27", 7),
        ("22 01 20 0008 22 07 27 22 09 27", 9),
        ("22 01 22 02 22 03 33 27", 2),  # rot: the top goes below the others
        ("22 01 22 02 32 01 27", 1),
    ],
)
def test_expressions(code: str, expected: int) -> None:
    assert value(code) == expected


@pytest.mark.parametrize("code", ["", "27", "02", "22", "21 0000", "22 00 22 00 06 27", "ff", "21"])
def test_bad_expressions(code: str) -> None:
    with pytest.raises(DebugError):
        value(code)


def test_random_expressions_end() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        try:
            result = value(chance.randbytes(chance.randrange(40)).hex())
            assert 0 <= result < 1 << 64
        except DebugError:
            pass


def test_packets_in_pieces() -> None:
    chance = random.Random(2)
    payloads = [escape(chance.randbytes(chance.randrange(50))) for _ in range(100)]
    stream = b"+".join(frame(payload) for payload in payloads)
    reader, found = PacketReader(), []
    while stream:
        size = chance.randrange(1, 20)
        found += [one for one in reader.feed(stream[:size]) if isinstance(one, bytes)]
        stream = stream[size:]
    assert found == payloads
    assert all(escape(unescape(one)) == one for one in payloads)


@pytest.mark.parametrize("name", ["riscv64", "riscv32", "x86_64"])
def test_descriptions(name: str) -> None:
    architecture = find_architecture(name)
    names = [register.name for register in architecture.registers]
    assert len(set(names)) == len(names)
    assert all(register.bits % 8 == 0 for register in architecture.registers)
    assert architecture.description.count(b"<reg ") == len(names)
