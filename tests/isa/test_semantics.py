"""What instructions do: the evaluator against unicorn, and against plain Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import unicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import riscv_const

from tandemu.bits import mask, sign_extend
from tandemu.isa.instruction import Instruction, Kind
from tandemu.isa.riscv.instruction_set import RV32GC, RV64GC, InstructionSet
from tests.isa.tracing import Hart

CODE, DATA, SIZE = 0x10000000, 0x20000000, 1 << 20
WINDOW = 256
"""Bytes of memory that both sides compare."""


def values(xlen: int) -> st.SearchStrategy[int]:
    """Register values, with the corners that arithmetic has."""
    signs = [1 << (bits - 1) for bits in (8, 16, 32, xlen)]
    corners = [0, 1, 2, 31, 32, 63, mask(32), mask(xlen), mask(xlen) - 1]
    corners += [one - 1 for one in signs] + [*signs, -(1 << 31) & mask(xlen)]
    return st.sampled_from(corners) | st.integers(0, mask(xlen))


class Oracle:
    """Unicorn, one instruction at a time."""

    def __init__(self, xlen: int) -> None:
        mode = unicorn.UC_MODE_RISCV64 if xlen == 64 else unicorn.UC_MODE_RISCV32
        self.machine = unicorn.Uc(unicorn.UC_ARCH_RISCV, mode)
        self.machine.mem_map(CODE, SIZE)
        self.machine.mem_map(DATA, SIZE)
        self.xlen = xlen

    def step(self, word: int, registers: list[int], memory: bytes) -> tuple[list[int], int, bytes]:
        """Run *word* at CODE; registers, program counter and memory afterwards."""
        machine = self.machine
        machine.mem_write(CODE, word.to_bytes(4, "little"))
        machine.ctl_remove_cache(CODE, CODE + 16)
        machine.mem_write(DATA, memory)
        for number in range(1, 32):
            machine.reg_write(riscv_const.UC_RISCV_REG_X0 + number, registers[number])
        machine.emu_start(CODE, 0, count=1)
        after = [machine.reg_read(riscv_const.UC_RISCV_REG_X0 + number) for number in range(32)]
        pc = machine.reg_read(riscv_const.UC_RISCV_REG_PC)
        return (
            [value & mask(self.xlen) for value in after],
            pc & mask(self.xlen),
            bytes(machine.mem_read(DATA, WINDOW)),
        )


ORACLES = {64: Oracle(64), 32: Oracle(32)}
SKIPPED = {"lr.w", "lr.d", "sc.w", "sc.d"}


def cases(wanted: Callable[[Instruction], bool]) -> list[object]:
    """Every wanted record of both sets, as parameters."""
    return [
        pytest.param(instructions, one, id=f"RV{instructions.xlen}-{one.name}")
        for instructions in (RV64GC, RV32GC)
        for one in instructions.records
        if wanted(one)
    ]


def unicorn_knows(one: Instruction) -> bool:
    return one.extension in "IMA" and one.semantics is not None and one.name not in SKIPPED


@pytest.mark.parametrize(("instructions", "one"), cases(unicorn_knows))
@settings(max_examples=12)
@given(data=st.data())
def test_against_unicorn(
    instructions: InstructionSet, one: Instruction, data: st.DataObject
) -> None:
    xlen = instructions.xlen
    registers = [0] + [data.draw(values(xlen)) for _ in range(3)] + [0] * 28
    # Few registers, so that operands often are the same one, or x0.
    operands = {
        item.name: data.draw(st.integers(0, 3 if item.file else mask(item.width)), label=item.name)
        for item in one.fields
    }
    if one.immediate is not None:
        operands["imm"] = one.immediate.extract(data.draw(st.integers(0, mask(32)), label="imm"))
    if one.access:
        operands["rs1"] = data.draw(st.integers(1, 3))
        step = one.access if one.kind is Kind.ATOMIC else 1
        address = DATA + step * data.draw(st.integers(0, (WINDOW - 8) // step))
        registers[operands["rs1"]] = (address - operands.get("imm", 0)) & mask(xlen)
    if one.kind is Kind.INDIRECT:
        operands["rs1"] = data.draw(st.integers(1, 3))
        registers[operands["rs1"]] = (CODE + 0x1000 - operands["imm"]) & mask(xlen)
    if one.kind in (Kind.BRANCH, Kind.JUMP):
        operands["imm"] &= 0x7FE
    memory = data.draw(st.binary(min_size=WINDOW, max_size=WINDOW))
    word = one.encode(operands)
    hart = Hart(instructions, DATA, bytearray(memory), list(registers), CODE)
    hart.step(word)
    after, pc, written = ORACLES[xlen].step(word, registers, memory)
    assert hart.registers == after
    assert hart.pc == pc
    assert bytes(hart.memory) == written


def _bytes(value: int, xlen: int) -> bytes:
    return value.to_bytes(xlen // 8, "little")


def _rotate(value: int, amount: int, bits: int) -> int:
    """Rotate left."""
    amount %= bits
    value &= mask(bits)
    return (value << amount | value >> (bits - amount)) & mask(bits)


def _word(value: int) -> int:
    return sign_extend(value, 32)


def _zeros(value: int, bits: int, leading: bool) -> int:
    digits = f"{value & mask(bits):0{bits}b}"
    return len(digits) - len(digits.lstrip("0") if leading else digits.rstrip("0"))


# What unicorn does not know, in plain Python: (a, b, XLEN) -> result, b being rs2 or the immediate.
PLAIN: dict[str, Callable[[int, int, int], int]] = {
    "sh1add": lambda a, b, n: (a << 1) + b,
    "sh2add": lambda a, b, n: (a << 2) + b,
    "sh3add": lambda a, b, n: (a << 3) + b,
    "add.uw": lambda a, b, n: a % 2**32 + b,
    "sh1add.uw": lambda a, b, n: a % 2**32 * 2 + b,
    "sh2add.uw": lambda a, b, n: a % 2**32 * 4 + b,
    "sh3add.uw": lambda a, b, n: a % 2**32 * 8 + b,
    "slli.uw": lambda a, b, n: a % 2**32 << b,
    "andn": lambda a, b, n: a & (mask(n) - b),
    "orn": lambda a, b, n: a | (mask(n) - b),
    "xnor": lambda a, b, n: mask(n) - (a ^ b),
    "clz": lambda a, b, n: _zeros(a, n, True),
    "ctz": lambda a, b, n: _zeros(a, n, False),
    "cpop": lambda a, b, n: a.bit_count(),
    "clzw": lambda a, b, n: _zeros(a, 32, True),
    "ctzw": lambda a, b, n: _zeros(a, 32, False),
    "cpopw": lambda a, b, n: (a % 2**32).bit_count(),
    "max": lambda a, b, n: max(sign_extend(a, n), sign_extend(b, n)),
    "maxu": lambda a, b, n: max(a, b),
    "min": lambda a, b, n: min(sign_extend(a, n), sign_extend(b, n)),
    "minu": lambda a, b, n: min(a, b),
    "sext.b": lambda a, b, n: sign_extend(a, 8),
    "sext.h": lambda a, b, n: sign_extend(a, 16),
    "zext.h": lambda a, b, n: a % 2**16,
    "rol": lambda a, b, n: _rotate(a, b % n, n),
    "ror": lambda a, b, n: _rotate(a, n - b % n, n),
    "rori": lambda a, b, n: _rotate(a, n - b, n),
    "rolw": lambda a, b, n: _word(_rotate(a, b % 32, 32)),
    "rorw": lambda a, b, n: _word(_rotate(a, 32 - b % 32, 32)),
    "roriw": lambda a, b, n: _word(_rotate(a, 32 - b, 32)),
    "orc.b": lambda a, b, n: int.from_bytes(bytes(255 * (x > 0) for x in _bytes(a, n)), "little"),
    "rev8": lambda a, b, n: int.from_bytes(_bytes(a, n), "big"),
    "bclr": lambda a, b, n: a & ~(1 << b % n),
    "bext": lambda a, b, n: a >> b % n & 1,
    "binv": lambda a, b, n: a ^ 1 << b % n,
    "bset": lambda a, b, n: a | 1 << b % n,
    "bclri": lambda a, b, n: a & ~(1 << b),
    "bexti": lambda a, b, n: a >> b & 1,
    "binvi": lambda a, b, n: a ^ 1 << b,
    "bseti": lambda a, b, n: a | 1 << b,
    "czero.eqz": lambda a, b, n: a if b else 0,
    "czero.nez": lambda a, b, n: 0 if b else a,
}


@pytest.mark.parametrize(("instructions", "one"), cases(lambda one: one.name in PLAIN))
@settings(max_examples=25)
@given(data=st.data())
def test_against_plain_python(
    instructions: InstructionSet, one: Instruction, data: st.DataObject
) -> None:
    xlen = instructions.xlen
    a, b = data.draw(values(xlen), label="a"), data.draw(values(xlen), label="b")
    operands = {"rd": 1, "rs1": 2, "rs2": 3}
    if one.immediate is not None:
        b &= mask(one.immediate.width)
        operands = {"rd": 1, "rs1": 2, "imm": b}
    elif one.field("rs2") is None:
        del operands["rs2"]
    hart = Hart(instructions, registers=[0, 0, a, b, *[0] * 28])
    hart.step(one.encode(operands))
    assert hart.registers[1] == PLAIN[one.name](a, b, xlen) & mask(xlen)


@pytest.mark.parametrize("instructions", [RV64GC, RV32GC], ids=["RV64GC", "RV32GC"])
def test_load_reserved_and_store_conditional(instructions: InstructionSet) -> None:
    hart = Hart(instructions, DATA, bytearray(b"\xff\xff\xff\xfe" * 4))
    hart.registers[1:4] = [DATA, 7, 9]
    hart.step(instructions.encode("lr.w", {"rd": 5, "rs1": 1}))
    assert hart.registers[5] == sign_extend(0xFEFFFFFF, 32) & mask(instructions.xlen)
    hart.step(instructions.encode("sc.w", {"rd": 6, "rs1": 1, "rs2": 2}))
    assert (hart.registers[6], hart.memory[:4]) == (0, b"\x07\0\0\0")
    hart.step(instructions.encode("sc.w", {"rd": 6, "rs1": 1, "rs2": 3}))
    assert (hart.registers[6], hart.memory[:4]) == (1, b"\x07\0\0\0")


@pytest.mark.parametrize("instructions", [RV64GC, RV32GC], ids=["RV64GC", "RV32GC"])
def test_hints_and_fences_change_nothing(instructions: InstructionSet) -> None:
    for name in ("prefetch.i", "prefetch.r", "prefetch.w", "pause", "fence", "fence.tso"):
        hart = Hart(instructions)
        hart.step(instructions.encode(name, {}))
        assert (hart.pc, hart.registers) == (4, [0] * 32)


def test_a_compressed_call_links_behind_itself() -> None:
    hart = Hart(RV64GC, pc=0x1000)
    hart.registers[1] = 0x2001
    hart.step(0x9082)  # c.jalr ra
    assert (hart.pc, hart.registers[1]) == (0x2000, 0x1002)
