"""The flash bank, driven with command sequences as drivers send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.device import DeviceError
from tandemu.device.cfi_flash import BLOCK_BYTES, CfiFlash

SIZE = 2 * BLOCK_BYTES


class Bank:
    """A small flash bank that remembers when it could be read directly."""

    def __init__(self, *, readonly: bool = False) -> None:
        self.memory = bytearray(b"\xff" * SIZE)
        self.direct: list[bool] = []
        self.flash = CfiFlash(memoryview(self.memory), self.direct.append, readonly)

    def command(self, offset: int, *values: int) -> None:
        """Write each value to both chips."""
        for value in values:
            self.flash.write(offset, 4, value << 16 | value)

    def status(self) -> int:
        value = self.flash.read(0, 4)
        assert value >> 16 == value & 0xFFFF, "both chips answer"
        return value & 0xFFFF


def test_query() -> None:
    bank = Bank()
    bank.command(0x55 * 4, 0x98)
    assert bank.direct == [False]
    assert [bank.flash.read(4 * word, 4) for word in range(0x10, 0x13)] == [
        byte << 16 | byte for byte in b"QRY"
    ]
    assert bank.flash.read(0x10 * 4 + 2, 2) == ord("Q")
    size = 1 << bank.flash.read(0x27 * 4, 1)
    blocks = bank.flash.read(0x2D * 4, 1) + 1
    block = bank.flash.read(0x2F * 4, 1) << 8 | bank.flash.read(0x30 * 4, 1) << 16
    assert (size * 2, blocks, block * 2) == (SIZE, 2, BLOCK_BYTES)
    bank.command(0, 0xFF)
    assert bank.direct == [False, True]
    assert bank.flash.read(0x40, 4) == 0xFFFF_FFFF


def test_identity() -> None:
    bank = Bank()
    bank.command(0, 0x90)
    assert (bank.flash.read(0, 4), bank.flash.read(4, 4)) == (0x0089_0089, 0x0018_0018)


def test_program_clears_bits_only() -> None:
    bank = Bank()
    bank.command(0x100, 0x40)
    bank.flash.write(0x100, 4, 0x1234_5678)
    assert bank.status() == 0x80
    bank.command(0x100, 0x10)
    bank.flash.write(0x100, 4, 0xFFFF_FF00)
    bank.command(0, 0xFF)
    assert bank.flash.read(0x100, 4) == 0x1234_5600
    assert bank.memory[0x100:0x104] == bytes((0x00, 0x56, 0x34, 0x12))


def test_erase_a_block() -> None:
    bank = Bank()
    bank.memory[:] = bytes(SIZE)
    bank.command(BLOCK_BYTES + 0x40, 0x20, 0xD0)
    assert bank.status() == 0x80
    assert bank.memory[:BLOCK_BYTES] == bytes(BLOCK_BYTES)
    assert bank.memory[BLOCK_BYTES:] == b"\xff" * BLOCK_BYTES
    bank.command(0, 0x20, 0x12)
    assert bank.status() == 0xB0, "an unconfirmed erase is an error"
    bank.command(0, 0x50, 0x70)
    assert bank.status() == 0x80


def test_buffered_write() -> None:
    bank = Bank()
    bank.command(0x1000, 0xE8)
    assert bank.status() == 0x80
    bank.command(0x1000, 3)
    for word in range(4):
        bank.flash.write(0x1000 + 4 * word, 4, word)
    bank.command(0x1000, 0xD0)
    assert bank.status() == 0x80
    assert bank.memory[0x1000:0x1010] == b"".join(n.to_bytes(4, "little") for n in range(4))


def test_buffered_write_that_goes_wrong() -> None:
    bank = Bank()
    bank.command(0, 0xE8, 0x7FFF)
    assert bank.status() & 0x10, "more than the buffer holds"
    bank.command(0, 0x50)
    bank.command(0, 0xE8, 1)
    bank.flash.write(BLOCK_BYTES, 4, 0)
    assert bank.status() & 0x10, "another block"
    bank.command(0, 0x50)
    bank.command(0, 0xE8, 0)
    bank.flash.write(0, 4, 0)
    bank.command(0, 0xFF)
    assert bank.status() & 0x30, "not confirmed"
    assert bank.memory == b"\xff" * SIZE


def test_readonly() -> None:
    bank = Bank(readonly=True)
    bank.command(0, 0x40, 0)
    assert bank.status() & 0x12 == 0x12
    bank.command(0, 0x50, 0x20, 0xD0)
    assert bank.status() & 0x22 == 0x22
    assert bank.memory == b"\xff" * SIZE


def test_state_and_reset() -> None:
    bank = Bank()
    bank.command(0, 0xE8, 1)
    bank.flash.write(0, 4, 0x1111)
    other = Bank()
    other.flash.load(bank.flash.save())
    assert other.direct == [False]
    other.flash.write(4, 4, 0x2222)
    other.command(0, 0xD0)
    assert other.memory[:8] == bytes.fromhex("1111000022220000")
    other.flash.reset()
    assert other.direct == [False, True]


def test_impossible_size() -> None:
    with pytest.raises(DeviceError, match="power of two"):
        CfiFlash(memoryview(bytearray(3 * BLOCK_BYTES)), lambda direct: None)


COMMANDS = st.sampled_from([0xFF, 0x70, 0x50, 0x90, 0x98, 0x10, 0x40, 0x20, 0xD0, 0xE8, 0x60, 0xB0])


@given(
    st.lists(
        st.tuples(
            st.integers(0, SIZE - 8),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(COMMANDS, st.integers(0, 3), st.integers(0, 2**64 - 1)),
        ),
        max_size=30,
    )
)
def test_hostile_guest(accesses: list[tuple[int, int, int]]) -> None:
    bank = Bank()
    for offset, size, value in accesses:
        bank.flash.write(offset, size, value & (1 << size * 8) - 1)
        assert 0 <= bank.flash.read(offset, size) < 1 << size * 8
    Bank().flash.load(bank.flash.save())
