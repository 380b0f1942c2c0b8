"""Single A64 instructions with random operands: in the engine, and in unicorn as the oracle.

Every word has a place of its own, followed by a system call, so nothing needs translating twice.
"""

from __future__ import annotations

import ctypes
import mmap
import random
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from tandemu.accel.user import IllegalInstruction, SystemCall
from tandemu.isa.arm import state as arm
from tandemu.isa.arm.architecture import AARCH64
from tandemu.isa.instruction import Instruction, Kind
from tandemu.jit.program.user import JitUserCpu, JitUserEngine

CODE, CODE_SIZE = 0x100000, 0x400000
DATA, DATA_SIZE = 0x1000000, 0x40000
MIDDLE = DATA + DATA_SIZE // 2
_SVC = 0xD4000001
_PRIVATE_FIXED = 0x32
_CORNERS = (
    *(0, 1, 2, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 0x7FFFFFFFFFFFFFFF),
    *(0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF80000000, 0xFFFFFFFFFFFFFFFE),
)
FLOAT_CORNERS_64 = (
    *(0, 1 << 63, 0x3FF0000000000000, 0xBFF0000000000000, 0x4000000000000000, 1, 1 << 63 | 1),
    *(0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0xFFF8000000000001),
    *(0x7FF0000000000001, 0xFFF4000000000000, 0x7FEFFFFFFFFFFFFF, 0x0010000000000000),
    *(0x000FFFFFFFFFFFFF, 0x3FE0000000000000, 0x3FF8000000000000, 0x41DFFFFFFFC00000),
    *(0x43E0000000000000, 0xC3E0000000000000, 0x4330000000000001, 0x3CA0000000000000),
    *(0x41EFFFFFFFE00000, 0x43F0000000000000, 0x4004000000000000, 0x36A0000000000000),
)
FLOAT_CORNERS_32 = (
    *(0, 1 << 31, 0x3F800000, 0xBF800000, 0x40000000, 1, 1 << 31 | 1, 0x7F800000, 0xFF800000),
    *(0x7FC00000, 0xFFC00001, 0x7F800001, 0xFFA00000, 0x7F7FFFFF, 0x00800000, 0x007FFFFF),
    *(0x3F000000, 0x3FC00000, 0x4F000000, 0xCF000000, 0x5F000000, 0x4B000001, 0x33800000),
)


class Registers(NamedTuple):
    """What an instruction sees and leaves."""

    x: tuple[int, ...]
    """X0 to X30 and SP."""
    v: tuple[int, ...]
    nzcv: int
    fpcr: int = 0
    fpsr: int = 0


class Outcome(NamedTuple):
    """What became of one instruction."""

    registers: Registers | None
    """None: it is undefined."""
    data: bytes


def random_integer(r: random.Random) -> int:
    kind = r.randrange(4)
    if kind == 0:
        return r.choice(_CORNERS)
    if kind == 1:
        return r.getrandbits(r.choice((8, 16, 32)))
    return r.getrandbits(64)


def random_vector(r: random.Random) -> int:
    kind = r.randrange(5)
    if kind == 0:
        return sum(r.choice(FLOAT_CORNERS_64) << at for at in (0, 64))
    if kind == 1:
        return sum(r.choice(FLOAT_CORNERS_32) << at for at in range(0, 128, 32))
    if kind == 2:
        return sum(r.choice((0, 1, 0x7F, 0x80, 0xFF, 0xFE)) << at for at in range(0, 128, 8))
    return r.getrandbits(128)


def random_word(r: random.Random, record: Instruction) -> int:
    """A word of *record*, as it stands in memory."""
    word = record.match & 0xFFFFFFFF | r.getrandbits(32) & ~record.mask & 0xFFFFFFFF
    # Registers that are often the same, and often the special one.
    for field in record.fields:
        if field.file is not None and r.randrange(4) == 0:
            word = word & ~field.instruction_mask | r.choice((0, 1, 2, 31)) << field.low
    return word


@cache
def engine() -> JitUserEngine:
    made = JitUserEngine(AARCH64.name)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    for start, size in ((CODE, CODE_SIZE), (DATA, DATA_SIZE)):
        place = made.base + start
        got = libc.mmap(place, size, mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE_FIXED, -1, 0)
        assert got == place
    return made


class Bed:
    """The engine on one side, unicorn on the other."""

    def __init__(self) -> None:
        self.engine = engine()
        self.cpu: JitUserCpu = self.engine.create_cpu()
        self.next = CODE
        self.uc = _unicorn()

    def place(self, words: Sequence[int]) -> int:
        """Put code where none was yet; its address."""
        place = self.next
        code = b"".join(word.to_bytes(4, "little") for word in (*words, _SVC))
        self.next += len(code)
        assert self.next < CODE + CODE_SIZE
        ctypes.memmove(self.engine.base + place, code, len(code))
        self.uc.mem_write(place, code)
        return place

    def ours(self, pc: int, given: Registers, data: bytes) -> Outcome:
        state = self.cpu.state
        ctypes.memmove(self.engine.base + DATA, data, DATA_SIZE)
        state.x[0:34] = [*given.x[:31], 0, given.x[31], 0]
        state.v[0:64] = [one >> at & (1 << 64) - 1 for one in given.v for at in (0, 64)]
        arm.set_condition_flags(state, given.nzcv)
        AARCH64.control.set(state, "fpcr", given.fpcr, lambda *_: None)
        state.fpsr = given.fpsr
        state.pc = pc
        leaving = self.cpu.run()
        after = ctypes.string_at(self.engine.base + DATA, DATA_SIZE)
        if isinstance(leaving, IllegalInstruction):
            return Outcome(None, after)
        assert isinstance(leaving, SystemCall), leaving
        found = Registers(
            (*state.x[0:31], state.x[arm.STACK]),
            tuple(state.v[2 * n] | state.v[2 * n + 1] << 64 for n in range(32)),
            arm.condition_flags(state),
            given.fpcr,
            state.fpsr,
        )
        return Outcome(found, after)

    def theirs(self, pc: int, size: int, given: Registers, data: bytes) -> Outcome:
        import unicorn
        from unicorn import arm64_const as c

        uc = self.uc
        uc.mem_write(DATA, data)
        for number, value in enumerate(given.x[:31]):
            uc.reg_write(_x(number), value)
        uc.reg_write(c.UC_ARM64_REG_SP, given.x[31])
        for number, value in enumerate(given.v):
            uc.reg_write(c.UC_ARM64_REG_V0 + number, value)
        uc.reg_write(c.UC_ARM64_REG_NZCV, given.nzcv)
        uc.reg_write(c.UC_ARM64_REG_FPCR, given.fpcr)
        uc.reg_write(c.UC_ARM64_REG_FPSR, given.fpsr)
        try:
            uc.emu_start(pc, pc + size, count=size // 4)
        except unicorn.UcError:
            return Outcome(None, bytes(uc.mem_read(DATA, DATA_SIZE)))
        found = Registers(
            (*(uc.reg_read(_x(number)) for number in range(31)), uc.reg_read(c.UC_ARM64_REG_SP)),
            tuple(uc.reg_read(c.UC_ARM64_REG_V0 + number) for number in range(32)),
            uc.reg_read(c.UC_ARM64_REG_NZCV) & 0xF0000000,
            given.fpcr,
            uc.reg_read(c.UC_ARM64_REG_FPSR),
        )
        return Outcome(found, bytes(uc.mem_read(DATA, DATA_SIZE)))


def _x(number: int) -> int:
    from unicorn import arm64_const as c

    return {29: c.UC_ARM64_REG_X29, 30: c.UC_ARM64_REG_X30}.get(number, c.UC_ARM64_REG_X0 + number)


def _unicorn() -> Any:
    import unicorn
    from unicorn import arm64_const as c

    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    uc.ctl_set_cpu_model(c.UC_CPU_ARM64_MAX)
    uc.mem_map(CODE, CODE_SIZE)
    uc.mem_map(DATA, DATA_SIZE)
    uc.reg_write(c.UC_ARM64_REG_CPACR_EL1, 3 << 20)
    return uc


def random_registers(
    r: random.Random, record: Instruction, operands: dict[str, int], *, fpcr: int = 0
) -> Registers:
    """Registers for an instruction; where it accesses memory, its base is in the data."""
    x = [random_integer(r) for _ in range(32)]
    if record.access:
        base = operands.get("rs1", operands.get("rs3"))
        index = operands.get("rs2")
        if (
            index is not None
            and index != base
            and record.kind is not Kind.ATOMIC
            and "_" in record.name
        ):
            back = -r.getrandbits(9) & (1 << 64) - 1
            x[index & 31] = r.getrandbits(9) if "uxtw" in record.name else r.choice((back, 100))
        if base is not None:
            low = 63 if record.kind is Kind.ATOMIC else 0
            x[31 if base == arm.STACK else base & 31] = MIDDLE + r.getrandbits(8) & ~low
    return Registers(tuple(x), tuple(random_vector(r) for _ in range(32)), r.getrandbits(4) << 28,
                     fpcr)  # fmt: skip
