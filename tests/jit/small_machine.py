"""A small machine for tests of the translator: some RAM, one end-of-test address.

Programs are made of instruction records; they end with a store to `END`. The
same program can be run translated, stepped natively, or stepped by the Python
evaluator, which is the oracle of the other two.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tandemu.accel import Exit, MmioWrite, Stopped
from tandemu.bits import mask
from tandemu.isa.catalogue import find_isa
from tandemu.isa.riscv import state as riscv
from tandemu.jit.engine.generate import Program
from tandemu.jit.engine.software import SoftwareInterpreter
from tandemu.jit.machine.vcpu import JitVcpu
from tandemu.jit.machine.vm import JitVm
from tandemu.jit.memory.routines import STATUS_DONE, STATUS_TRAP
from tandemu.memory import Ram, RamRegion

BASE = 0x8000_0000
SIZE = 4 << 20
DATA = BASE + (1 << 20)
END = 0x1000_0000
PAGE = 4096
LIMIT = 1 << 20
"""Instructions after which a test's program counts as one that does not end."""

POINTER = 31
"""The register that `finish` uses."""


@cache
def program(xlen: int) -> Program:
    """The programs of an engine in the embedded language; its instruction set is complete."""
    return Program(find_isa(f"riscv{xlen}"))


@cache
def software(xlen: int) -> SoftwareInterpreter:
    return SoftwareInterpreter(find_isa(f"riscv{xlen}"))


def encode(name: str, xlen: int = 64, **operands: int) -> bytes:
    """The bytes of one instruction."""
    word = program(xlen).instructions.encode(name, operands)
    return word.to_bytes(2 if name.startswith("c.") else 4, "little")


class Code:
    """A program being written; jumps and branches may name labels."""

    def __init__(self, base: int = BASE, xlen: int = 64) -> None:
        self.base, self.xlen = base, xlen
        self.bytes = bytearray()
        self.labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str, dict[str, int], str]] = []

    @property
    def here(self) -> int:
        return self.base + len(self.bytes)

    def label(self, name: str) -> Code:
        self.labels[name] = self.here
        return self

    def __call__(self, name: str, to: str | None = None, **operands: int) -> Code:
        if to is not None:
            self._fixups.append((len(self.bytes), name, operands, to))
            operands = {**operands, "imm": 0}
            if name.startswith("c."):
                operands["imm"] = 2
        self.bytes += encode(name, self.xlen, **operands)
        return self

    def raw(self, value: int, size: int = 4) -> Code:
        self.bytes += value.to_bytes(size, "little")
        return self

    def align(self, size: int, offset: int = 0) -> Code:
        """Fill with c.nop up to an address that is *offset* above a multiple of *size*."""
        while self.here % size != offset:
            self("c.nop")
        return self

    def li(self, rd: int, value: int) -> Code:
        """Load any constant."""
        value &= mask(self.xlen)
        signed = value - (1 << self.xlen) if value >> (self.xlen - 1) else value
        if -(1 << 31) <= signed < 1 << 31 or self.xlen == 32:
            high = (signed + 0x800) >> 12 & 0xFFFFF
            low = (signed & 0xFFF) - (0x1000 if signed & 0x800 else 0)
            upper = high << 12
            self("lui", rd=rd, imm=upper - (1 << 32) if upper >> 31 else upper)
            return self("addi" if self.xlen == 32 else "addiw", rd=rd, rs1=rd, imm=low)
        low = (signed & 0xFFF) - (0x1000 if signed & 0x800 else 0)
        self.li(rd, (signed - low) >> 12)
        self("slli", rd=rd, rs1=rd, imm=12)
        return self("addi", rd=rd, rs1=rd, imm=low)

    def finish(self, value: int = 0) -> Code:
        """End the test: store register *value* at `END`."""
        self("lui", rd=POINTER, imm=END)
        return self("sw", rs1=POINTER, rs2=value, imm=0)

    def build(self) -> bytes:
        for place, name, operands, target in self._fixups:
            distance = self.labels[target] - (self.base + place)
            data = encode(name, self.xlen, imm=distance, **operands)
            self.bytes[place : place + len(data)] = data
        self._fixups.clear()
        return bytes(self.bytes)


@dataclass(frozen=True)
class State:
    """What a program left behind."""

    pc: int
    x: tuple[int, ...]
    f: tuple[int, ...]
    fflags: int
    csrs: tuple[tuple[str, int], ...]
    instructions: int
    memory: bytes

    def __repr__(self) -> str:
        registers = [f"x{n}={value:#x}" for n, value in enumerate(self.x) if value]
        registers += [f"f{n}={value:#x}" for n, value in enumerate(self.f) if value]
        csrs = [f"{name}={value:#x}" for name, value in self.csrs]
        return (
            f"pc={self.pc:#x} n={self.instructions} fflags={self.fflags:#x} "
            f"{' '.join(registers)} {' '.join(csrs)} memory={hash(self.memory):#x}"
        )


TRAP_STATE = ("privilege", "mstatus", "mepc", "mcause", "mtval", "sepc", "scause", "stval")


class SmallMachine:
    """RAM at `BASE` and one or more harts; `reset` makes it new."""

    def __init__(self, xlen: int = 64, harts: int = 1) -> None:
        self.xlen = xlen
        self.vm = JitVm(f"riscv{xlen}")
        self.ram = Ram(SIZE)
        self.region = RamRegion(BASE, SIZE, self.ram)
        self.vm.set_memory_slot(self.region)
        self.harts: list[JitVcpu] = [self.vm.create_vcpu(index) for index in range(harts)]
        self._used = 0

    @property
    def vcpu(self) -> JitVcpu:
        return self.harts[0]

    @property
    def cpu(self) -> Any:
        return self.harts[0].cpu

    def reset(self) -> SmallMachine:
        """Zero memory and harts; harts start in M mode at `BASE`, floating point on."""
        ctypes.memset(self.ram.address, 0, self.ram.size)
        for hart in self.harts:
            hart.reset()
            hart._kicked = False
            hart.cpu.pc = BASE
            hart.cpu.mstatus |= riscv.FS
            hart.cpu.float_slow = 0
        return self

    def write(self, address: int, data: bytes) -> None:
        """Write guest memory from outside, before anything was translated from it."""
        self.ram.view[address - BASE : address - BASE + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.ram.view[address - BASE : address - BASE + size])

    def load(self, code: Code) -> SmallMachine:
        self.write(code.base, code.build())
        return self

    def open_pmp(self) -> None:
        """Let every mode have all of memory."""
        self.vcpu.set("pmpaddr0", (1 << 54) - 1)
        self.vcpu.set("pmpcfg0", 0x1F)

    # Running -----------------------------------------------------------------------------

    def run(self, hart: int = 0, *, limit: int = LIMIT) -> Exit:
        """Run translated code until an exit."""
        vcpu = self.harts[hart]
        vcpu.limit_instructions(limit)
        return vcpu.run()

    def finish(self, hart: int = 0) -> int:
        """Run to the end of a program; the value that it stored there."""
        leaving = self.run(hart)
        assert isinstance(leaving, MmioWrite), f"{leaving}: {self.state()}"
        assert leaving.address == END, f"{leaving}: {self.state()}"
        return leaving.value

    def step_to_end(self, limit: int = LIMIT) -> None:
        """Single-step until the end-of-test store."""
        for _ in range(limit):
            leaving = self.vcpu.step()
            if isinstance(leaving, MmioWrite):
                return
            assert isinstance(leaving, Stopped), leaving
        raise AssertionError(f"the program does not end: {self.state()}")

    def evaluate_to_end(self, limit: int = 20_000) -> None:
        """Step by the evaluator, from M mode or without translation, to the end of test."""
        for _ in range(limit):
            if not self.evaluate():
                return
        raise AssertionError(f"the program does not end: {self.state()}")

    def evaluate(self) -> bool:
        """One instruction by the evaluator; False: it left with an exit."""
        cpu, interpreter = self.cpu, software(self.xlen)
        isa = interpreter.program.instructions
        evaluator, address = interpreter.evaluator, self.vcpu.address
        # The engine's part of what an instruction asked for.
        cpu.effects = 0
        privilege = cpu.privilege
        if cpu.mstatus & riscv.MPRV:
            privilege = cpu.mstatus >> riscv.MPP_LOW & 3
        cpu.data_privilege = privilege
        ctypes.memset(address + self.vm.engine.layout.offset("fetches"), 0xFF, 256 * 32)
        pc, fetch = cpu.pc, interpreter.program.memory.fetch
        word = 0
        for place in (pc, pc + 2):
            entry = evaluator.run(fetch, address, place)
            if not entry:
                evaluator.run(
                    interpreter.program.system.privileged.take_trap,
                    address,
                    cpu.trap_cause,
                    cpu.trap_value,
                )
                return True
            host = ctypes.c_uint64.from_address(entry + 16).value + place % PAGE
            word |= ctypes.c_uint16.from_address(host).value << (8 * (place - pc))
            if word & 3 != 3:
                break
        raw = word
        decoded = isa.decode(word)
        length = 2 if word & 3 != 3 else 4
        form, word = (decoded.form, decoded.word) if decoded else (0, word)
        if cpu.tlb == 0:
            cpu.tlb = address + self.vm.engine.layout.offset("tlbs")
        status = interpreter.interpret(cpu, address, form, word, raw, pc + length)
        if status == STATUS_DONE:
            cpu.pc = cpu.next_pc
            cpu.instructions += 1
        elif status == STATUS_TRAP:
            take_trap = interpreter.program.system.privileged.take_trap
            evaluator.run(take_trap, address, cpu.trap_cause, cpu.trap_value)
        else:
            return False
        return True

    # Looking -----------------------------------------------------------------------------

    def state(self, window: int = 0, *, data: int = DATA) -> State:
        """The hart and *window* bytes of memory at *data*."""
        cpu = self.cpu
        return State(
            cpu.pc,
            tuple(cpu.x[index] for index in range(32)),
            tuple(cpu.f[index] for index in range(32)),
            cpu.fflags,
            tuple((name, getattr(cpu, name)) for name in TRAP_STATE),
            self.instructions,
            self.read(data, window),
        )

    @property
    def instructions(self) -> int:
        cpu = self.cpu
        count: int = (cpu.instructions + cpu.slice - cpu.budget) & mask(64)
        return count


_MACHINES: dict[tuple[int, int], SmallMachine] = {}


def machine(xlen: int = 64, harts: int = 1) -> SmallMachine:
    """The shared machine of its kind, new."""
    key = xlen, harts
    if key not in _MACHINES:
        _MACHINES[key] = SmallMachine(xlen, harts)
    return _MACHINES[key].reset()


CORNERS = (0, 1, 2, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF)
WIDE_CORNERS = tuple(
    value & mask(64)
    for bits in (31, 32, 63, 64)
    for value in ((1 << bits), (1 << bits) - 1, -(1 << bits), (1 << bits) + 1)
)


def random_value(chance: random.Random, xlen: int) -> int:
    """A register value, often one of the corners that arithmetic has."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(CORNERS)
    if kind == 1:
        return chance.choice(WIDE_CORNERS) & mask(xlen)
    value = chance.getrandbits(chance.choice((8, 16, 32, xlen)))
    return (-value if kind == 2 else value) & mask(xlen)


FLOAT_CORNERS = (
    *(0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000),
    *(0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001),
    *(0x0000000000000001, 0x7FEFFFFFFFFFFFFF, 0x0010000000000000, 0x43E0000000000000),
    *(0xC3E0000000000000, 0x41DFFFFFFFC00000, 0x3FE0000000000000, 0xFFF8000000000123),
    *(0xFFFFFFFF00000000, 0xFFFFFFFF80000000, 0xFFFFFFFF3F800000, 0xFFFFFFFF7F800000),
    *(0xFFFFFFFF7FC00000, 0xFFFFFFFF7F800001, 0xFFFFFFFF00000001, 0xFFFFFFFF7F7FFFFF),
    *(0xFFFFFFFF4F000000, 0xFFFFFFFF5F000000, 0xFFFFFFFFCF000001, 0xFFFFFFFF3F000000),
)


def random_float(chance: random.Random) -> int:
    """A floating-point register: corners, singles in their box, doubles, anything."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(FLOAT_CORNERS)
    if kind == 1:
        return 0xFFFFFFFF << 32 | (chance.getrandbits(32))
    exponent = 1023 + chance.randrange(-70, 70)
    double = chance.getrandbits(1) << 63 | exponent << 52 | chance.getrandbits(52)
    return double if kind == 2 else chance.getrandbits(64)


def random_words(chance: random.Random, count: int) -> Sequence[int]:
    return [chance.getrandbits(32) for _ in range(count)]
