"""A machine and an assembler of the teaching architecture, and programs made at random for it."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from tandemu.accel import Exit, MmioRead, MmioWrite, Stopped
from tandemu.isa import catalogue
from tandemu.jit.engine.software import SoftwareInterpreter
from tandemu.jit.machine.vcpu import JitVcpu
from tandemu.jit.machine.vm import JitVm
from tandemu.jit.memory.routines import STATUS_DONE, STATUS_TRAP
from tandemu.jit.program.user import JitUserCpu
from tandemu.jit.regions.compiler import compile_request
from tandemu.jit.regions.request import Refusal, Region, RegionRequest
from tandemu.jit.shared.layout import EXIT_WRITE, INVALID
from tandemu.jit.shared.tags import block_tag, tag_address, tag_context
from tandemu.memory import Ram, RamRegion
from tests.jit.optimised import block_records
from tests.teaching import state as teaching
from tests.teaching.instructions import decode, encode

SIZE = 1 << 20
PAGE = 4096
DATA = 0x40000
LOG = 0x50000
TABLE = 0x60000
VECTOR = 0x70000
END = 0x1000_0000
SHIFT = 0x80_0000
"""So far above its physical address the user level sees memory."""
USER_END = 0xF0_0000

NAME = "teaching"
catalogue.add(NAME, "tests.teaching.state", "TEACHING")

DATA_POINTER, END_POINTER, FUEL, CODE_POINTER, INDEX = 8, 9, 10, 11, 12
SCRATCH, LOG_POINTER = 13, 15
"""Registers that only the handler of traps uses."""


class Code:
    """A program being written; what jumps may name labels."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.bytes = bytearray()
        self.labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str, str, dict[str, int]]] = []

    @property
    def here(self) -> int:
        return self.base + len(self.bytes)

    def label(self, name: str) -> Code:
        self.labels[name] = self.here
        return self

    def __call__(self, name: str, to: str | None = None, **operands: int) -> Code:
        if to is not None:
            self._fixups.append((len(self.bytes), name, to, operands))
            operands = {**operands, "imm": 0}
        self.bytes += encode(name, **operands)
        return self

    def build(self) -> bytes:
        for place, name, to, operands in self._fixups:
            length = len(encode(name, imm=0, **operands))
            distance = self.labels[to] - (self.base + place + length)
            self.bytes[place : place + length] = encode(name, imm=distance, **operands)
        self._fixups.clear()
        return bytes(self.bytes)


class Snapshot(NamedTuple):
    """What a program left behind."""

    pc: int
    registers: tuple[int, ...]
    flags: tuple[int, ...]
    instructions: int
    memory: bytes


@cache
def software() -> SoftwareInterpreter:
    return SoftwareInterpreter(catalogue.find_isa(NAME))


class TeachingMachine:
    """RAM at 0 and one processor."""

    def __init__(self) -> None:
        self.vm = JitVm(NAME)
        self.ram = Ram(SIZE)
        self.vm.set_memory_slot(RamRegion(0, SIZE, self.ram))
        self.vcpu = self.vm.create_vcpu(0)
        self.value = 0
        """What the program stored at its end."""

    @property
    def cpu(self) -> Any:
        return self.vcpu.cpu

    def reset(self, image: dict[int, bytes]) -> None:
        """Memory is zero but for *image*; the processor is in the state after reset."""
        ctypes.memset(self.ram.address, 0, SIZE)
        self.vcpu.reset()
        self.vm.cache.state.hot_threshold = 0
        for address, data in image.items():
            self.ram.view[address : address + len(data)] = data

    def snapshot(self) -> Snapshot:
        cpu = self.cpu
        instructions = (cpu.instructions + cpu.slice - cpu.budget) & (1 << 64) - 1
        return Snapshot(
            cpu.pc, tuple(cpu.r[0:16]), tuple(cpu.flag[0:4]), instructions, bytes(self.ram.view)
        )

    def run(self, length: int, touch: Callable[[], object] = lambda: None) -> int:
        """Run translated code in slices of *length* instructions to the end; what was stored."""
        self.cpu.slice_length = length
        for _ in range(20_000):
            self.vcpu.limit_instructions(1)
            leaving = self.vcpu.run()
            if not isinstance(leaving, Stopped):
                if self._ended(leaving):
                    return self.value
                continue
            touch()
        raise AssertionError(f"it does not end: {self.snapshot()[:4]}")

    def step(self) -> int:
        """The same one instruction at a time, by the native interpreter."""
        for _ in range(60_000):
            leaving = self.vcpu.step()
            if not isinstance(leaving, Stopped) and self._ended(leaving):
                return self.value
        raise AssertionError(f"it does not end: {self.snapshot()[:4]}")

    def evaluate(self) -> int:
        """The same by the evaluator."""
        for _ in range(20_000):
            if not self._evaluate():
                cpu = self.cpu
                is_write = cpu.exit_kind == EXIT_WRITE
                access = (cpu.exit_address, cpu.exit_size)
                leaving = MmioWrite(*access, cpu.exit_value) if is_write else MmioRead(*access)
                if self._ended(leaving):
                    return self.value
        raise AssertionError(f"it does not end: {self.snapshot()[:4]}")

    def _ended(self, leaving: Exit) -> bool:
        """Whether the program has ended with this; elsewhere nothing answers."""
        assert isinstance(leaving, MmioRead | MmioWrite), leaving
        if isinstance(leaving, MmioWrite) and leaving.address == END:
            self.value = leaving.value
            return True
        self.vcpu.complete(None)
        return False

    def _evaluate(self) -> bool:
        cpu, interpreter, address = self.cpu, software(), self.vcpu.address
        layout, program = self.vm.engine.layout, interpreter.program
        evaluator = interpreter.evaluator
        cpu.effects = 0
        cpu.data_privilege = cpu.level
        cpu.tlb = address + layout.offset("tlbs")
        ctypes.memset(address + layout.offset("fetches"), 0xFF, 256 * 32)
        data = b""
        pc = cpu.pc
        while decode(data) is None and len(data) < 5:
            entry = evaluator.run(program.memory.fetch, address, pc + len(data))
            if not entry:
                if data:
                    break
                evaluator.run(program.trap, address)
                return True
            host = ctypes.c_uint64.from_address(entry + 16).value + (pc + len(data)) % PAGE
            data += ctypes.string_at(host, 1)
        decoded = decode(data)
        form, word, length = 0, data[0], 1
        if decoded is not None:
            form, word, length = decoded.form, decoded.word, decoded.length
        status = interpreter.interpret(cpu, address, form, word, word, pc + length)
        if status == STATUS_DONE:
            cpu.pc = cpu.next_pc
            cpu.instructions += 1
        elif status == STATUS_TRAP:
            evaluator.run(program.trap, address)
        else:
            return False
        return True

    def optimise(self, level: int) -> int:
        """Have a region at every block of the context that runs; how many are new."""
        return optimise(self.vcpu, self.cpu.level, level)


_COMPILED: dict[tuple[Any, ...], Region | Refusal] = {}


def optimise(processor: JitVcpu | JitUserCpu, context: int, level: int) -> int:
    """Have a region at every block of *context*; how many are new."""
    installed = 0
    for block in block_records(processor.cache):
        if block.tag == INVALID or block.region or tag_context(block.tag) != context:
            continue
        pc = tag_address(block.tag)
        assert block_tag(context, pc) == block.tag
        place = processor.place(pc)
        if place is None:
            continue
        request = RegionRequest(place.kind, pc, level, processor.code(place))
        key = place.kind, pc, level, tuple(request.pages.items())
        answer = _COMPILED.get(key)
        if answer is None:
            answer = _COMPILED[key] = compile_request(catalogue.find_isa(NAME), request)
        if isinstance(answer, Refusal):
            assert "interpreter's" in answer.reason or "cannot be told" in answer.reason, answer
        else:
            installed += processor.regions.install(answer, processor, processor)
    return installed


# Programs ----------------------------------------------------------------------------------


def trap_handlers() -> dict[int, bytes]:
    """Handlers that note cause, value and place, and go on behind the instruction."""
    image: dict[int, bytes] = {}
    handlers = Code(VECTOR + 0x1000)
    lengths = {
        teaching.CALL: 1,
        teaching.ILLEGAL: 1,
        teaching.LOAD_FAULT: 4,
        teaching.STORE_FAULT: 4,
        teaching.LOAD_BUS: 4,
        teaching.STORE_BUS: 4,
    }
    for cause, length in lengths.items():
        entry = Code(VECTOR + cause * teaching.HANDLER_BYTES)
        entry.labels["handler"] = handlers.here
        image[entry.base] = entry("far", to="handler").build()
        for offset, name in enumerate(("cause", "value", "back")):
            number = teaching.SYSTEM_REGISTERS.index(name)
            handlers("getr", rd=SCRATCH, number=number)
            handlers("std", rs3=SCRATCH, rs1=LOG_POINTER, imm=8 * offset)
        handlers("addi", rd=SCRATCH, imm=length)
        handlers("setr", rs3=SCRATCH, number=teaching.SYSTEM_REGISTERS.index("back"))
        handlers("addi", rd=LOG_POINTER, imm=24)("rti")
    image[handlers.base] = handlers.build()
    return image


def page_table() -> dict[int, bytes]:
    """Memory is seen at `SHIFT`; the end of the test at `USER_END`."""
    entries = [0] * teaching.PAGES
    for page in range(SIZE // PAGE):
        entries[(SHIFT >> 12) + page] = page << 12 | 7
    entries[USER_END >> 12] = END | 3
    table = b"".join(entry.to_bytes(8, "little") for entry in entries)
    return {TABLE: table}


STRAIGHT = ("mov", "add", "sub", "and", "xor", "shl", "cmp")
BRANCHES = ("bz", "bnz", "bc", "blt")


def random_program(
    seed: int, *, user: bool, rewrites: bool = True, blocks: int = 6, fuel: int = 40
) -> dict[int, bytes]:
    """The image of a program that ends, by *seed*; *rewrites*: it writes its own code."""
    chance = random.Random(seed)
    base = 0x1000 + chance.randrange(64)
    shift = SHIFT if user else 0
    code = Code(base + shift)
    slots: list[int] = []

    def general() -> int:
        return chance.choice((0, 1, 2, 3, 4, 7))

    def straight() -> None:
        match chance.randrange(12):
            case 0:
                code("li", rd=general(), imm=chance.randrange(-(1 << 23), 1 << 23))
            case 1:
                code("addi", rd=general(), imm=chance.randrange(-128, 128))
            case 2:
                code("mul", rd=general(), rd2=general(), rs1=general(), rs2=general())
            case 3:
                code("addm", rs1=DATA_POINTER, rs2=general())
            case 4:
                name = chance.choice(("ldx0", "ldx3", "ldb0"))
                code(name, rd=general(), rs1=DATA_POINTER, rs2=INDEX)
            case 5:
                name = chance.choice(("stx0", "stx3", "stb0"))
                code(name, rs3=general(), rs1=DATA_POINTER, rs2=INDEX)
            case 6:
                offset = chance.choice((*range(-64, 64), PAGE - 3, PAGE - 8))
                code("ldd", rd=general(), rs1=DATA_POINTER, imm=offset)
            case 7:
                code("std", rs3=general(), rs1=DATA_POINTER, imm=chance.randrange(-64, 64))
            case _:
                name = chance.choice(STRAIGHT)
                first = "rs3" if name == "cmp" else "rd"
                code(name, **{first: general(), "rs1": general()})

    for number in range(blocks):
        code.label(f"b{number}")
        code("addi", rd=FUEL, imm=-1)("bnz", to=f"go{number}")("jmp", to="end").label(f"go{number}")
        # What other blocks may change: the constant of an addition.
        slots.append(code.here - code.base + 2)
        code("addi", rd=7, imm=1)
        for _ in range(chance.randrange(10)):
            straight()
        target = f"b{chance.randrange(blocks)}"
        shape = chance.randrange(9)
        match 0 if shape in (4, 5) and not rewrites else shape:
            case 0:
                code(chance.choice(BRANCHES), to=target)
            case 1:
                code("jmp", to=target)
            case 2:
                code("call", to="function", rd=teaching.LINK)
            case 3:
                # A small loop.
                code("li", rd=5, imm=chance.randrange(1, 40)).label(f"l{number}")
                for _ in range(chance.randrange(1, 4)):
                    straight()
                code("addi", rd=5, imm=-1)("bnz", to=f"l{number}")
            case 4:
                # Code that writes what comes next: the constant of an addition.
                code("li", rd=6, imm=chance.randrange(256))
                code("stb", rs3=6, rs1=CODE_POINTER, imm=code.here - code.base + 4 + 2)
                code("addi", rd=general(), imm=1)
            case 5:
                # The same of an instruction elsewhere, that may have run already.
                code("stb", rs3=general(), rs1=CODE_POINTER, imm=chance.choice(slots))
            case 6:
                code("sys")
            case 7:
                code.bytes.append(0xFF)
            case 8:
                # No RAM there, or no page.
                code("li", rd=6, imm=0x70_0000)
                if chance.randrange(2):
                    code("ldd", rd=general(), rs1=6, imm=8)
                else:
                    code("std", rs3=general(), rs1=6, imm=8)
    code("jmp", to="b0").label("function")
    for _ in range(chance.randrange(4)):
        straight()
    code("mov", rd=7, rs1=general())("jmpr", rs1=teaching.LINK)
    # Padding, so that some programs have instructions across pages.
    code.label("end")("std", rs3=0, rs1=END_POINTER, imm=0)
    data = code.build()
    start = Code(0x100)
    for register, value in (
        (DATA_POINTER, DATA + shift),
        (CODE_POINTER, base + shift),
        (FUEL, fuel),
        (INDEX, chance.randrange(16)),
        (LOG_POINTER, LOG),
        (0, VECTOR),
        (1, TABLE),
    ):
        start("li", rd=register, imm=value if value < 1 << 23 else value - (1 << 24))
    mask_register, shift_register = 2, 3
    start("li", rd=mask_register, imm=1)("li", rd=shift_register, imm=24)
    start("shl", rd=mask_register, rs1=shift_register)("addi", rd=mask_register, imm=-1)
    start("and", rd=DATA_POINTER, rs1=mask_register)("and", rd=CODE_POINTER, rs1=mask_register)
    registers = teaching.SYSTEM_REGISTERS.index
    start("setr", rs3=0, number=registers("vector"))("setr", rs3=1, number=registers("table"))
    start("li", rd=END_POINTER, imm=1)("li", rd=4, imm=28)("shl", rd=END_POINTER, rs1=4)
    if user:
        start("li", rd=END_POINTER, imm=USER_END - (1 << 24))
        start("and", rd=END_POINTER, rs1=mask_register)
    start("mov", rd=6, rs1=CODE_POINTER)
    start("setr", rs3=6, number=registers("back"))("li", rd=4, imm=0 if user else 1)
    start("setr", rs3=4, number=registers("back_level"))("rti")
    return {**trap_handlers(), **page_table(), 0x100: start.build(), base: data}
