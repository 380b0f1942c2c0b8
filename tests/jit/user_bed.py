"""A window with a random program in it, run by the engine for foreign programs.

The operating system is a dozen lines: whatever the program does wrong is noted and skipped, as
`random_program.handler` does in machine mode. So the same program under a machine in user mode
is the oracle; what it notes, and the registers at every trap, must be the same here.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, NamedTuple, Protocol

from tandemu.accel import MmioWrite
from tandemu.accel.user import (
    Breakpoint,
    IllegalInstruction,
    Kicked,
    MemoryFault,
    Misaligned,
    SystemCall,
    UserExit,
)
from tandemu.isa.riscv import state as riscv
from tandemu.isa.riscv.instruction_set import BY_XLEN
from tandemu.jit.engine.cpu import TranslatedCpu
from tandemu.jit.program.user import JitUserCpu, JitUserEngine
from tandemu.jit.regions.installer import GuestCode, RegionInstaller
from tandemu.jit.shared.layout import SAMPLE, SAMPLES
from tests.jit.random_program import (
    ALIAS,
    CODE_PAGES,
    HANDLER,
    HANDLERS,
    LINK,
    MARKED,
    READ_ONLY,
    SLOTS,
    VIRTUAL,
    WALK,
    GuestMemory,
    RandomProgram,
)
from tests.jit.small_machine import BASE, DATA, END, PAGE, SIZE, SmallMachine

_READ, _WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
_SHARED_FIXED = 0x11
SEEN = tuple(number for number in range(64) if number not in HANDLERS)
"""Registers that are the program's own; from 32 on floating."""

Touch = Callable[[JitUserCpu], None]


class UserProgram(Protocol):
    """A program that a bed runs; it is seen at `VIRTUAL`."""

    def place(self, memory: GuestMemory) -> None: ...

    def begin(self, cpu: Any) -> None: ...


class Trap(NamedTuple):
    """What went wrong, where, and the program's registers there."""

    cause: int
    pc: int
    value: int
    instructions: int
    """Retired before it; a call of the system is no such instruction."""
    registers: tuple[int, ...]


class Outcome(NamedTuple):
    """What became of a program."""

    traps: list[Trap]
    registers: tuple[int, ...]
    memory: bytes


def program_memory(ram: memoryview) -> bytes:
    """The memory that the program writes: its code and its data."""
    places = ((BASE, CODE_PAGES * PAGE), (DATA, MARKED - DATA))
    return b"".join(bytes(ram[start - BASE : start - BASE + size]) for start, size in places)


def on_a_machine(m: SmallMachine, random_program: RandomProgram, limit: int) -> Outcome:
    """The same of a machine that steps through the program in user mode."""
    random_program.prepare(m)
    cpu = m.cpu
    traps: list[Trap] = []
    instructions = 0
    for _ in range(limit):
        before, in_program = m.instructions, cpu.privilege == riscv.USER
        leaving = m.vcpu.step()
        if isinstance(leaving, MmioWrite):
            return Outcome(traps, seen(cpu), program_memory(m.ram.view))
        instructions += in_program * (m.instructions - before)
        if cpu.pc == HANDLER:
            traps.append(Trap(cpu.mcause, cpu.mepc, cpu.mtval, instructions, seen(cpu)))
    raise AssertionError(f"it does not end: {m.state()}")


class _Touching(RegionInstaller):
    """Stops the program wherever a slice ends, for whoever wants to touch it."""

    touch: Callable[[], None]

    def hot(self, processor: TranslatedCpu, guest: GuestCode) -> None:
        # Or it would come for every other slice only, then every fourth …
        samples = self._cache.state.samples
        ctypes.memset(ctypes.addressof(samples), 0, SAMPLES * SAMPLE.size)
        self.touch()


class UserBed:
    """One engine, one processor and the memory of a random program."""

    def __init__(self) -> None:
        self.engine = JitUserEngine()
        self.engine.be_precise()
        engine = self.engine
        self._installer = _Touching(engine.cache, engine.optimiser, engine.regions)
        engine.installer = self._installer
        self.cpu = engine.create_cpu()
        self._descriptor = os.memfd_create("program")
        os.ftruncate(self._descriptor, SIZE)
        self.ram = mmap.mmap(self._descriptor, SIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._mmap = libc.mmap
        shift = VIRTUAL - BASE
        for number in range(CODE_PAGES):
            # As `RandomProgram.physical` has them.
            place = BASE + (number * PAGE ^ PAGE)
            self._map(VIRTUAL + number * PAGE, place, _WRITE)
            self._map(VIRTUAL + ALIAS + number * PAGE, place, _WRITE)
        for place in (DATA, SLOTS, WALK):
            self._map(place + shift, place, _WRITE)
        self._map(READ_ONLY + shift, READ_ONLY, _READ)

    def _map(self, address: int, place: int, protection: int) -> None:
        host = self.engine.base + address
        got = self._mmap(host, PAGE, protection, _SHARED_FIXED, self._descriptor, place - BASE)
        assert got == host, ctypes.get_errno()

    def write(self, address: int, data: bytes) -> None:
        self.ram[address - BASE : address - BASE + len(data)] = data

    def _fetch(self, address: int) -> int:
        """The half of an instruction at *address*."""
        return ctypes.c_uint16.from_address(self.engine.base + address).value

    def run(self, program: UserProgram, lengths: Sequence[int], touch: Touch | None) -> Outcome:
        """Run to the end in slices of *lengths*; without *touch* in stencils alone."""
        cpu = self.cpu.cpu
        self.ram[:] = bytes(SIZE)
        program.place(self)
        program.begin(cpu)
        cpu.reservation_address = riscv.NO_RESERVATION
        self.engine.code_changed(VIRTUAL, CODE_PAGES * PAGE)
        self.engine.cache.state.hot_threshold = 1 if touch else 0
        turns = count()

        def at_stop() -> None:
            cpu.slice_length = lengths[next(turns) % len(lengths)]
            assert touch is not None
            touch(self.cpu)

        self._installer.touch = at_stop
        cpu.slice_length = lengths[0] if touch else 1 << 16
        cpu.budget = cpu.slice = 0
        traps: list[Trap] = []
        calls, start = 0, self.cpu.counters()["instructions"]
        while True:
            leaving = self.cpu.run()
            # The engine counts a call of the system.
            calls += isinstance(leaving, SystemCall)
            if isinstance(leaving, Kicked):
                continue
            if isinstance(leaving, MemoryFault) and leaving.address // PAGE == END // PAGE:
                return Outcome(traps, seen(cpu), self._memory())
            instructions = self.cpu.counters()["instructions"] - start - calls
            traps.append(self._trap(leaving, instructions))
            self._skip(leaving)

    def _memory(self) -> bytes:
        return program_memory(memoryview(self.ram))

    def _trap(self, leaving: UserExit, instructions: int) -> Trap:
        cpu = self.cpu.cpu
        pc = cpu.pc
        match leaving:
            case MemoryFault(value, "execute"):
                cause = riscv.INSTRUCTION_PAGE_FAULT
            case MemoryFault(value, access):
                # What the host does in a loop begins with reading.
                writes = access == "write" or self._name(pc).startswith("amo")
                cause = riscv.STORE_PAGE_FAULT if writes else riscv.LOAD_PAGE_FAULT
            case Misaligned(value):
                reserves = self._name(pc).startswith("lr.")
                cause = riscv.LOAD_MISALIGNED if reserves else riscv.STORE_MISALIGNED
            case Breakpoint():
                cause, value = riscv.BREAKPOINT, pc
            case IllegalInstruction(value):
                cause = riscv.ILLEGAL_INSTRUCTION
            case SystemCall():
                cause, value, pc = riscv.USER_CALL, 0, pc - 4
            case _:
                raise AssertionError(leaving)
        return Trap(cause, pc, value, instructions, seen(cpu))

    def _name(self, pc: int) -> str:
        decoded = BY_XLEN[64].decode(self._fetch(pc) | self._fetch(pc + 2) << 16)
        return decoded.instruction.name if decoded is not None else ""

    def _skip(self, leaving: UserExit) -> None:
        cpu = self.cpu.cpu
        if isinstance(leaving, MemoryFault) and leaving.access == "execute":
            cpu.pc = cpu.x[LINK]
        elif not isinstance(leaving, SystemCall):
            cpu.pc += 4 if self._fetch(cpu.pc) & 3 == 3 else 2


def seen(cpu: Any) -> tuple[int, ...]:
    """The program's registers."""
    registers = (*cpu.x[0:32], *cpu.f[0:32])
    return tuple(registers[number] for number in SEEN)


@cache
def user_bed() -> UserBed:
    """The one of this process: the handler of the host's signals knows one window."""
    return UserBed()
