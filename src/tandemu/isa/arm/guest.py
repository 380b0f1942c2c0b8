"""AArch64 as a guest of the translator: what code is generated from (`isa.guest`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I64, PTR, Builder, Constant, Evaluator, Function, Value
from tandemu.ir.values import emit_effect
from tandemu.isa.architecture import Isa
from tandemu.isa.arm import state as arm
from tandemu.isa.arm.fetch import WordFetch
from tandemu.isa.arm.float_state import collect, set_host_rounding, update_float_slow
from tandemu.isa.arm.formats import PLACES, WORD_BITS
from tandemu.isa.arm.instruction_set import A64
from tandemu.isa.decoder import Decoded
from tandemu.isa.errors import IsaError
from tandemu.isa.guest import Place, Source
from tandemu.isa.instruction import Instruction

# FPCR.RMode as `ir.softfloat` numbers modes.
_SOFTWARE_ROUNDING = (0, 3, 2, 1)


class ArmGuest:
    """`isa.guest.Guest`."""

    instructions = A64
    fetch = WordFetch()
    places: Mapping[str, Place] = PLACES
    word_bits = WORD_BITS
    relative_to_end = False
    rounding = None
    tables: Mapping[str, bytes] = {}

    def __init__(self, isa: Isa) -> None:
        self.isa = isa

    def system(self, layout: Layout, time: Source, retired: Source, ram: Function) -> ArmSystem:
        return ArmSystem(layout)

    def bind(self, context: type) -> type:
        """Its semantics use the context's own names."""
        return context

    def begin_interpreted(self, context: Any, instruction: Instruction) -> None:
        """Nothing comes before an instruction."""

    def decode(self, code: bytes) -> Decoded | None:
        return self.instructions.decode(code)

    def disassemble(self, code: bytes, pc: int) -> tuple[str, int]:
        decoded = self.decode(code)
        if decoded is None:
            return f".inst {int.from_bytes(code[:4], 'little'):#010x}", 4
        shown = ", ".join(f"{name}={value}" for name, value in decoded.operands.items())
        return f"{decoded.instruction.name} {shown}".strip(), 4

    def is_call(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        return record.name == "bl"

    def is_return(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        return record.name == "ret" and operands["rs1"] == arm.LINK

    def settle(self, ir: Builder, value: Value, unsettled: Value | None = None) -> Value:
        return value


class ArmSystem:
    """`isa.guest.System` of a processor for programs only: EL0 without address translation."""

    instructions = A64

    def __init__(self, layout: Layout) -> None:
        names = ("virtual", "access", "size", "privilege")
        parameters = [("cpu", PTR), *((name, I64) for name in names)]
        b = Builder("aarch64_translate", parameters, result=I64)
        cpu = b.struct(layout, b.cpu)
        cpu.walk_physical, cpu.walk_size, cpu.walk_leaf = b.virtual, 12, 12
        cpu.walk_permissions = 7
        b.Return(0)
        self.translate = b.finish()

    def fetch_privilege(self, cpu: Any) -> Value:
        return Constant(I64, 0)

    def regime(self, b: Builder, cpu: Any) -> tuple[Value, Value]:
        return Constant(I64, 0), Constant(I64, 0)

    def context(self, b: Builder, cpu: Any) -> Value:
        return Constant(I64, 0)

    def take_trap(self, b: Builder, cpu: Any, cause: Value, value: Value | int) -> None:
        """A program's traps are its system's."""

    def pending_interrupt(self, b: Builder, cpu: Any) -> Value:
        return Constant(I64, -1)

    def interrupt_cause(self, number: Value) -> Value:
        return number

    def wakes(self, b: Builder, cpu: Any) -> Value:
        return Constant(I64, 0)

    def update_timers(self, b: Builder, cpu: Any, now: Value) -> None:
        """There are none."""

    def set_interrupt(self, b: Builder, cpu: Any, bits: Value, level: Value) -> None:
        """There are none."""

    def take_message(self, b: Builder, cpu: Any, number: Value) -> None:
        """Nobody sends any."""

    def begin_floats(self, b: Builder, cpu: Any) -> Value:
        saved = emit_effect("float_save", builder=b)
        assert saved is not None
        emit_effect("float_clear_flags", builder=b)
        set_host_rounding(b, cpu)
        return saved

    def collect_floats(self, b: Builder, cpu: Any) -> None:
        collect(b, cpu)

    def restored_floats(self, b: Builder, cpu: Any) -> None:
        update_float_slow(b, cpu)
        set_host_rounding(b, cpu)

    def end_floats(self, b: Builder, cpu: Any, saved: Value) -> None:
        collect(b, cpu)
        emit_effect("float_restore", saved, builder=b)

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
        return _SOFTWARE_ROUNDING[view.fpcr >> arm.FPCR_ROUNDING_SHIFT & 3]

    def software_flags(self, view: Any, flags: int) -> None:
        view.fpsr |= sum((flags >> number & 1) << 4 - number for number in range(5))


class Registers:
    """`isa.guest.Registers`: `Control` knows them all."""

    names: tuple[str, ...] = ()

    def read_register(self, view: Any, name: str) -> int:
        raise IsaError(f"no register {name!r}")

    def write_register(self, view: Any, name: str, value: int) -> None:
        raise IsaError(f"no register {name!r}")


def guest(isa: Isa) -> ArmGuest:
    """The guest of *isa*."""
    return ArmGuest(isa)
