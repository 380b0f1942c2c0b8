"""The teaching architecture as foreign programs: a machine's user level is the oracle.

Code that a program writes itself has to be announced to the engine of programs, for any
architecture; these write none.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any, NamedTuple

import pytest

from tandemu.accel.user import IllegalInstruction, MemoryFault, SystemCall
from tandemu.jit.program.user import JitUserCpu, JitUserEngine
from tests.long import LONG
from tests.teaching import state as teaching
from tests.teaching.machine import (
    DATA,
    LOG,
    LOG_POINTER,
    NAME,
    PAGE,
    SCRATCH,
    SHIFT,
    USER_END,
    TeachingMachine,
    optimise,
    random_program,
)

SEEDS = range(200) if LONG else range(5)
CODE_SIZE, DATA_SIZE = 0x4000, 3 * PAGE
_PRIVATE_FIXED = 0x32
_SEEN = tuple(n for n in range(teaching.REGISTERS) if n not in (SCRATCH, LOG_POINTER))


class Outcome(NamedTuple):
    """What became of a program."""

    traps: list[tuple[int, int, int]]
    """Cause, value, pc of each."""
    registers: tuple[int, ...]
    flags: tuple[int, ...]
    data: bytes


@cache
def machine() -> TeachingMachine:
    return TeachingMachine()


@cache
def engine() -> JitUserEngine:
    made = JitUserEngine(NAME)
    made.be_precise()
    for start, size in ((0, CODE_SIZE), (DATA - PAGE, DATA_SIZE)):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        place = made.base + SHIFT + start
        got = libc.mmap(place, size, mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE_FIXED, -1, 0)
        assert got == place
    return made


def on_a_machine(image: dict[int, bytes]) -> tuple[list[int], Outcome]:
    """Registers where the program begins, and what it comes to."""
    m = machine()
    m.reset(image)
    cpu = m.cpu
    cpu.pc = 0x100
    while cpu.level != teaching.USER:
        m.vcpu.step()
    begin = [*cpu.r[0 : teaching.REGISTERS], cpu.pc]
    m.step()
    words = (ctypes.c_uint64 * 3).from_buffer
    count = (cpu.r[LOG_POINTER] - LOG) // 24
    traps = [tuple(words(m.ram.view, LOG + 24 * number)) for number in range(count)]
    data = bytes(m.ram.view[DATA - PAGE : DATA - PAGE + DATA_SIZE])
    registers = tuple(cpu.r[number] for number in _SEEN)
    return begin, Outcome(traps, registers, tuple(cpu.flag[0:4]), data)  # type: ignore[arg-type]


def place(image: dict[int, bytes], begin: list[int], state: Any) -> None:
    """Put a program into the window, and its registers to where it begins."""
    base = engine().base + SHIFT
    ctypes.memset(base, 0, CODE_SIZE)
    ctypes.memset(base + DATA - PAGE, 0, DATA_SIZE)
    for address, data in image.items():
        if address < CODE_SIZE:
            ctypes.memmove(base + address, data, len(data))
    state.r[0 : teaching.REGISTERS] = begin[:-1]
    state.flag[0:4] = [0] * 4
    state.pc = begin[-1]


def run(cpu: JitUserCpu) -> Outcome:
    """Be the program's system until it comes to its end."""
    state = cpu.state
    traps: list[tuple[int, int, int]] = []
    while True:
        leaving = cpu.run()
        match leaving:
            case SystemCall():
                traps.append((teaching.CALL, 0, state.pc - 1))
            case IllegalInstruction(word):
                traps.append((teaching.ILLEGAL, word, state.pc))
                state.pc += 1
            case MemoryFault(address, _) if address == USER_END:
                break
            case MemoryFault(address, access):
                cause = teaching.LOAD_FAULT if access == "read" else teaching.STORE_FAULT
                traps.append((cause, address, state.pc))
                state.pc += 4
            case _:
                raise AssertionError(leaving)
    registers = tuple(state.r[number] for number in _SEEN)
    data = ctypes.string_at(engine().base + SHIFT + DATA - PAGE, DATA_SIZE)
    return Outcome(traps, registers, tuple(state.flag[0:4]), data)


@pytest.mark.parametrize("level", [1, 2])
def test_programs_do_what_they_do_on_a_machine(level: int) -> None:
    """In stencils, and once more with regions wherever it came by."""
    owner = engine()
    regions = 0
    for seed in SEEDS:
        image = random_program(seed, user=True, rewrites=False)
        begin, expected = on_a_machine(image)
        cpu = owner.create_cpu()
        owner.cache.state.hot_threshold, cpu.cpu.slice_length = 0, 50
        place(image, begin, cpu.state)
        assert run(cpu) == expected, seed
        regions += optimise(cpu, 0, level)
        place(image, begin, cpu.state)
        assert run(cpu) == expected, f"with regions, {seed}"
        cpu.close()
        owner.code_changed(SHIFT, CODE_SIZE)
    assert regions > 10
