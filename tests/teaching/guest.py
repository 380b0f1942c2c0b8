"""The teaching architecture as a guest of the translator (`isa.guest`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I64, PTR, Builder, Constant, Evaluator, Function, Value
from tandemu.isa import effects
from tandemu.isa.architecture import Isa
from tandemu.isa.decoder import Decoded
from tandemu.isa.errors import IsaError
from tandemu.isa.guest import Source
from tandemu.isa.instruction import Instruction, Kind
from tests.teaching import state as teaching
from tests.teaching.instructions import LENGTHS, PLACES, ByteFetch, Instructions, decode

_PAGE_SHIFT = 12


class TeachingGuest:
    """`isa.guest.Guest`."""

    instructions = Instructions()
    fetch = ByteFetch()
    places = PLACES
    word_bits = 40
    relative_to_end = True
    rounding = None
    tables: Mapping[str, bytes] = {"fetch_table": bytes(LENGTHS)}

    def __init__(self, isa: Isa) -> None:
        self.isa = isa

    def system(self, layout: Layout, time: Source, retired: Source, ram: Function) -> Any:
        return TeachingSystem(layout, ram)

    def bind(self, context: type) -> type:
        """Its semantics use the context's own names."""
        return context

    def begin_interpreted(self, context: Any, instruction: Instruction) -> None:
        """Nothing comes before an instruction."""

    def decode(self, code: bytes) -> Decoded | None:
        return decode(code)

    def disassemble(self, code: bytes, pc: int) -> tuple[str, int]:
        decoded = decode(code)
        if decoded is None:
            return f".byte {code[0]:#x}", 1
        shown = " ".join(f"{name}={value}" for name, value in decoded.operands.items())
        return f"{decoded.instruction.name} {shown}".strip(), decoded.length

    def is_call(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        return record.kind is Kind.JUMP and operands.get("rd") == teaching.LINK

    def is_return(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        return record.kind is Kind.INDIRECT and operands["rs1"] == teaching.LINK

    def settle(self, ir: Builder, value: Value, unsettled: Value | None = None) -> Value:
        return value


class TeachingSystem:
    """`isa.guest.System`."""

    instructions = Instructions()

    def __init__(self, layout: Layout, ram: Function) -> None:
        self.translate = _build_translate(layout, ram)

    def fetch_privilege(self, cpu: Any) -> Value:
        level: Value = cpu.level
        return level

    def regime(self, b: Builder, cpu: Any) -> tuple[Value, Value]:
        level = cpu.level
        return b.select(level == teaching.KERNEL, Constant(I64, 0), Constant(I64, 1)), level

    def context(self, b: Builder, cpu: Any) -> Value:
        level: Value = cpu.level
        return level

    def take_trap(self, b: Builder, cpu: Any, cause: Value, value: Value | int) -> None:
        cpu.back, cpu.back_level, cpu.back_masked = cpu.pc, cpu.level, cpu.masked
        saved: Value = Constant(I64, 0)
        for number in range(4):
            saved = saved | (cpu.flag[number] << number)
        cpu.back_flags = saved
        cpu.cause, cpu.value = cause, value
        cpu.level, cpu.masked = teaching.KERNEL, 1
        cpu.pc = cpu.vector + cause * teaching.HANDLER_BYTES
        cpu.effects = cpu.effects | effects.MODE

    def pending_interrupt(self, b: Builder, cpu: Any) -> Value:
        due = (cpu.inputs & cpu.enable) != 0
        return b.select(due & (cpu.masked == 0), Constant(I64, 0), Constant(I64, -1))

    def interrupt_cause(self, number: Value) -> Value:
        return number + teaching.INTERRUPT

    def wakes(self, b: Builder, cpu: Any) -> Value:
        return cpu.inputs & cpu.enable

    def update_timers(self, b: Builder, cpu: Any, now: Value) -> None:
        with b.If(cpu.deadline.ule(now)):
            b.atomic("or", cpu.pointer("inputs"), Constant(I64, teaching.TIMER_INPUT))
        with b.Else():
            b.atomic("and", cpu.pointer("inputs"), Constant(I64, ~teaching.TIMER_INPUT))

    def take_message(self, b: Builder, cpu: Any, number: Value) -> None:
        """It has no file of messages."""

    def set_interrupt(self, b: Builder, cpu: Any, bits: Value, level: Value) -> None:
        with b.If(level != 0):
            b.atomic("or", cpu.pointer("inputs"), bits)
        with b.Else():
            b.atomic("and", cpu.pointer("inputs"), ~bits)

    # There is no floating point.

    def begin_floats(self, b: Builder, cpu: Any) -> Value:
        return Constant(I64, 0)

    def collect_floats(self, b: Builder, cpu: Any) -> None:
        """Nothing to collect."""

    restored_floats = collect_floats

    def end_floats(self, b: Builder, cpu: Any, saved: Value) -> None:
        """Nothing to end."""

    def correct_trap(
        self,
        b: Builder,
        cpu: Any,
        pc: Value,
        length: Value,
        read: Callable[[Callable[[Value], None]], None],
    ) -> None:
        """Traps are right as they are."""

    def registers(self, evaluator: Evaluator) -> Registers:
        return Registers()

    def software_rounding(self, view: Any) -> int:
        return 0

    def software_flags(self, view: Any, flags: int) -> None:
        """Nothing raises any."""


class Registers:
    """`isa.guest.Registers`: `Control` knows them all."""

    names: tuple[str, ...] = ()

    def read_register(self, view: Any, name: str) -> int:
        raise IsaError(f"no register {name!r}")

    def write_register(self, view: Any, name: str, value: int) -> None:
        raise IsaError(f"no register {name!r}")


def _build_translate(layout: Layout, ram: Function) -> Function:
    names = ("virtual", "access", "size", "privilege")
    b = Builder("teaching_translate", [("cpu", PTR), *((name, I64) for name in names)], result=I64)
    cpu = b.struct(layout, b.cpu)

    def fault() -> None:
        data = b.select(
            b.access == 1, Constant(I64, teaching.STORE_FAULT), Constant(I64, teaching.LOAD_FAULT)
        )
        b.Return(b.select(b.access == 2, Constant(I64, teaching.FETCH_FAULT), data))

    cpu.walk_size = cpu.walk_leaf = _PAGE_SHIFT
    with b.If(b.privilege == teaching.KERNEL):
        cpu.walk_physical, cpu.walk_permissions = b.virtual, 7
        b.Return(0)
    page = b.virtual >> _PAGE_SHIFT
    with b.If(page.uge(teaching.PAGES)):
        fault()
    pointer = b.call(ram, b.cpu, cpu.table + (page << 3), 8)
    with b.If(pointer.from_pointer() == 0):
        fault()
    entry = b.load(pointer, I64)
    needed = (Constant(I64, teaching.VALID) << b.access) | teaching.VALID
    with b.If((entry & needed) != needed):
        fault()
    cpu.walk_physical = (entry & -(1 << _PAGE_SHIFT)) | (b.virtual & ((1 << _PAGE_SHIFT) - 1))
    cpu.walk_permissions = entry & 7
    b.Return(0)
    return b.finish()


def guest(isa: Isa) -> TeachingGuest:
    """The guest of *isa*."""
    return TeachingGuest(isa)
