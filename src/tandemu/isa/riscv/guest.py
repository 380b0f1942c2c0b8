"""RISC-V as a guest of the translator: what code is generated from (`isa.guest`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I16, I64, Builder, Constant, Evaluator, Function, Value
from tandemu.ir.values import emit_effect
from tandemu.isa.architecture import Isa
from tandemu.isa.decoder import Decoded
from tandemu.isa.guest import Place, Rounding, Source
from tandemu.isa.instruction import Instruction, Kind
from tandemu.isa.riscv import state as riscv
from tandemu.isa.riscv.disassembler import disassemble
from tandemu.isa.riscv.fetch import ParcelFetch
from tandemu.isa.riscv.floating import DYNAMIC, canonical
from tandemu.isa.riscv.hart import Environment, data_privilege, dirty_float, update_float_slow
from tandemu.isa.riscv.hart_access import HartRegisters
from tandemu.isa.riscv.instruction_set import BY_XLEN, InstructionSet
from tandemu.isa.riscv.privileged import build_privileged, privileged_semantics
from tandemu.isa.riscv.registers import LINK_REGISTERS
from tandemu.isa.riscv.tracing import Operands

_PHYSICAL, _SUPERVISOR, _SUPERVISOR_SUM, _USER = range(4)
"""The TLBs: one each for M (physical), S, S with SUM, U, so that switching mode flushes nothing."""
_TOWARDS_ZERO = 1


@cache
def _bound(context: type) -> type:
    return type(f"Riscv{context.__name__}", (Operands, context), {})


class RiscvGuest:
    """`isa.guest.Guest`: RV32GC or RV64GC."""

    fetch = ParcelFetch()
    places: Mapping[str, Place] = {
        "rd": Place(7, 5),
        "rs1": Place(15, 5),
        "rs2": Place(20, 5),
        "rs3": Place(27, 5),
    }
    word_bits = 32
    relative_to_end = False
    rounding = Rounding(
        "rm", Place(12, 3), DYNAMIC, _TOWARDS_ZERO, frozenset((0, 1, 2, 3, DYNAMIC))
    )

    def __init__(self, isa: Isa) -> None:
        self.isa, self.xlen = isa, isa.state.address_bits
        self.instructions = BY_XLEN[self.xlen]

    @property
    def tables(self) -> Mapping[str, bytes]:
        return {"fetch_table": self.instructions.compressed.expansion.tobytes()}

    def system(self, layout: Layout, time: Source, retired: Source, ram: Function) -> RiscvSystem:
        environment = Environment(layout, self.xlen, time, cycles=retired, instructions=retired)
        return RiscvSystem(self.instructions, environment, ram)

    def bind(self, context: type) -> type:
        return _bound(context)

    def begin_interpreted(self, context: Any, instruction: Instruction) -> None:
        """FS Off makes a floating-point instruction illegal; otherwise it makes the state Dirty."""
        if not instruction.floating:
            return
        b, hart = context.ir, context.hart
        with b.If((hart.mstatus >> riscv.FS_LOW).bits(0, 2) == 0, likely=False):
            context.raise_exception(riscv.ILLEGAL_INSTRUCTION, context.word)
        with b.If((hart.mstatus & riscv.FS) != riscv.FS):
            dirty_float(b, hart)

    def decode(self, code: bytes) -> Decoded | None:
        word = int.from_bytes(code[:4], "little")
        return None if len(code) < (4 if word & 3 == 3 else 2) else self.instructions.decode(word)

    def disassemble(self, code: bytes, pc: int) -> tuple[str, int]:
        word = int.from_bytes(code[:4], "little")
        return disassemble(word, pc, self.xlen), 4 if word & 3 == 3 else 2

    def is_call(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        return record.kind is Kind.JUMP and operands["rd"] in LINK_REGISTERS

    def is_return(self, record: Instruction, operands: Mapping[str, int]) -> bool:
        return (
            record.kind is Kind.INDIRECT
            and operands.get("rd", 0) == 0
            and operands.get("rs1") in LINK_REGISTERS
            and operands.get("imm", 0) == 0
        )

    def settle(self, ir: Builder, value: Value, unsettled: Value | None = None) -> Value:
        return canonical(ir, value, None, unsettled)


class RiscvSystem:
    """`isa.guest.System`: machine, supervisor and user mode."""

    def __init__(self, base: InstructionSet, environment: Environment, ram: Function) -> None:
        self.environment = environment
        self.privileged = build_privileged(environment, ram)
        self.translate = self.privileged.translate
        self.instructions = base.joined(privileged_semantics(self.privileged))

    def fetch_privilege(self, cpu: Any) -> Value:
        value: Value = cpu.privilege
        return value

    def regime(self, b: Builder, cpu: Any) -> tuple[Value, Value]:
        privilege = data_privilege(b, cpu)
        summed = (cpu.mstatus & riscv.SUM) != 0
        supervisor = b.select(summed, Constant(I64, _SUPERVISOR_SUM), Constant(I64, _SUPERVISOR))
        index = b.select(
            privilege == riscv.MACHINE,
            Constant(I64, _PHYSICAL),
            b.select(privilege == riscv.USER, Constant(I64, _USER), supervisor),
        )
        return index, privilege

    def context(self, b: Builder, cpu: Any) -> Value:
        privilege = cpu.privilege
        lower = b.select(
            privilege == riscv.USER,
            Constant(I64, riscv.USER_CODE),
            Constant(I64, riscv.SUPERVISOR_CODE),
        )
        return b.select(privilege == riscv.MACHINE, Constant(I64, riscv.MACHINE_CODE), lower)

    def take_trap(self, b: Builder, cpu: Any, cause: Value, value: Value | int) -> None:
        b.call(self.privileged.take_trap, b.cpu, cause, value)

    def pending_interrupt(self, b: Builder, cpu: Any) -> Value:
        return b.call(self.privileged.pending_interrupt, b.cpu)

    def interrupt_cause(self, number: Value) -> Value:
        return number | (1 << (self.environment.xlen - 1))

    def wakes(self, b: Builder, cpu: Any) -> Value:
        # WFI ends when an interrupt is pending and enabled, wherever it is delivered.
        return b.call(self.privileged.wakes, b.cpu)

    def update_timers(self, b: Builder, cpu: Any, now: Value) -> None:
        sstc = (cpu.menvcfg & riscv.STCE) != 0
        for compare, bit, enabled in (
            (cpu.stimecmp, riscv.STIP, sstc),
            (cpu.mtimecmp, riscv.MTIP, None),
        ):
            due = compare.ule(now)
            held = (cpu.mip & bit) != 0
            change = due ^ held
            if enabled is not None:
                change = change & enabled
            with b.If(change, likely=False):
                with b.If(due):
                    b.atomic("or", cpu.pointer("mip"), Constant(I64, bit))
                with b.Else():
                    b.atomic("and", cpu.pointer("mip"), Constant(I64, ~bit))

    def set_interrupt(self, b: Builder, cpu: Any, bits: Value, level: Value) -> None:
        """Change bits of mip."""
        with b.If(level != 0):
            b.atomic("or", cpu.pointer("mip"), bits)
        with b.Else():
            b.atomic("and", cpu.pointer("mip"), ~bits)

    def take_message(self, b: Builder, cpu: Any, number: Value) -> None:
        """Set a pending bit of the interrupt file."""
        b.call(self.privileged.take_message, b.cpu, number)

    def begin_floats(self, b: Builder, cpu: Any) -> Value:
        saved = emit_effect("float_save", builder=b)
        assert saved is not None
        emit_effect("float_clear_flags", builder=b)
        rounding = b.select(cpu.frm.ult(4), cpu.frm, Constant(I64, 0))
        emit_effect("float_set_rounding", rounding, builder=b)
        return saved

    def collect_floats(self, b: Builder, cpu: Any) -> None:
        flags = emit_effect("float_flags", builder=b)
        assert flags is not None
        cpu.fflags = cpu.fflags | flags
        emit_effect("float_clear_flags", builder=b)

    def restored_floats(self, b: Builder, cpu: Any) -> None:
        update_float_slow(b, cpu)
        rounding = b.select(cpu.frm.ult(4), cpu.frm, Constant(I64, 0))
        emit_effect("float_set_rounding", rounding, builder=b)

    def end_floats(self, b: Builder, cpu: Any, saved: Value) -> None:
        flags = emit_effect("float_flags", builder=b)
        assert flags is not None
        cpu.fflags = cpu.fflags | flags
        emit_effect("float_restore", saved, builder=b)

    def correct_trap(
        self,
        b: Builder,
        cpu: Any,
        pc: Value,
        length: Value,
        read: Callable[[Callable[[Value], None]], None],
    ) -> None:
        """The trap value is what stands in memory, not what it expands to."""
        with b.If((length == 2) & (cpu.trap_cause == riscv.ILLEGAL_INSTRUCTION)):

            def take(place: Value) -> None:
                cpu.trap_value = b.load(place.to_pointer(), I16).zext(I64)

            read(take)
            cpu.trap_cause = riscv.ILLEGAL_INSTRUCTION

    def registers(self, evaluator: Evaluator) -> HartRegisters:
        return HartRegisters(self.environment, evaluator)

    def software_rounding(self, view: Any) -> int:
        """The rounding mode that the evaluator works in."""
        return int(view.frm) if view.frm <= 4 else 0

    def software_flags(self, view: Any, flags: int) -> None:
        """Add the flags that the evaluator raised."""
        view.fflags |= flags


def guest(isa: Isa) -> RiscvGuest:
    """The guest of *isa*."""
    return RiscvGuest(isa)
