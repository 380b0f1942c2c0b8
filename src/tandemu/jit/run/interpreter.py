"""The native interpreter: every instruction of an architecture, one at a time.

It carries out what has no stencil (system instructions), what a stencil could
not do (an access that crosses pages or meets a device, a trap), and single
steps. Its cases are the same semantic functions that become stencils, traced
with operands that are read at run time; evaluated in Python it is the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I32, I64, PTR, Builder, Constant, Function, I, Value
from tandemu.isa.architecture import State
from tandemu.isa.guest import Guest, Instructions
from tandemu.isa.instruction import Instruction, Trait
from tandemu.jit.memory.routines import (
    STATUS_DONE,
    STATUS_EXIT,
    STATUS_SOFTWARE,
    STATUS_TRAP,
    MemoryRoutines,
)
from tandemu.jit.shared.layout import EXIT_FIRMWARE, EXIT_SOFTWARE, MACHINE, NANOSECONDS_PER_TICK
from tandemu.jit.translate.contexts import InterpreterContext

_CLOCK_MONOTONIC = 1
_PARAMETERS = ("form", "word", "raw", "pc", "next")


def build_time(layout: Layout) -> Function:
    """guest_time(cpu) -> ticks of the guest's clock."""
    b = Builder("guest_time", [("cpu", PTR)], result=I64)
    cpu = b.struct(layout, b.cpu)
    scratch = cpu.host_scratch
    b.call("clock_gettime", Constant(I32, _CLOCK_MONOTONIC), scratch.pointer(0), result=I32)
    machine = b.struct(MACHINE, cpu.machine.to_pointer())
    now = scratch[0] * 1_000_000_000 + scratch[1] - machine.time_offset
    b.Return(now.udiv(NANOSECONDS_PER_TICK) + machine.time_ticks)
    return b.finish()


@dataclass
class Services:
    """What `InterpreterContext` asks for: memory, traps, exits, clocks."""

    memory: MemoryRoutines
    clock: Function

    def _check(self, b: Builder, status: Value) -> None:
        with b.If(status != STATUS_DONE, likely=False):
            b.Return(status)

    def load(self, context: Any, address: Value, bits: int) -> Value:
        b = context.ir
        self._check(b, b.call(self.memory.load, b.cpu, address, bits // 8))
        value: Value = context.hart.load_value.resize(I(bits))
        return value

    def store(self, context: Any, address: Value, value: Value) -> None:
        b = context.ir
        size = value.type.bits // 8
        self._check(b, b.call(self.memory.store, b.cpu, address, size, value.zext(I64)))

    def atomic_pointer(self, context: Any, address: Value, bits: int, write: bool) -> Value:
        b = context.ir
        self._check(b, b.call(self.memory.atomic, b.cpu, address, bits // 8, int(write)))
        pointer: Value = context.hart.host_pointer.to_pointer()
        return pointer

    def raise_exception(self, context: Any, cause: Value | int, value: Value | int) -> None:
        b = context.ir
        hart = context.hart
        hart.trap_cause = cause if isinstance(cause, int) else cause.resize(I64)
        hart.trap_value = value if isinstance(value, int) else value.resize(I64)
        b.Return(STATUS_TRAP)

    def software(self, context: Any) -> None:
        b, hart = context.ir, context.hart
        hart.exit_kind = EXIT_SOFTWARE
        hart.software_form, hart.software_word = b.form, b.word
        hart.software_raw, hart.software_next = b.raw, b.next
        context.ir.Return(STATUS_SOFTWARE)

    def firmware_call(self, context: Any) -> None:
        context.hart.exit_kind = EXIT_FIRMWARE
        # The call is over for the guest: it goes on behind it.
        context.hart.pc = context.ir.next
        context.ir.Return(STATUS_EXIT)

    def time(self, context: Any) -> Value:
        value: Value = context.ir.call(self.clock, context.ir.cpu)
        return value

    def instructions(self, context: Any) -> Value:
        return retired(context.hart)


def retired(hart: Any) -> Value:
    """Instructions retired, as far as it is known between blocks."""
    value: Value = hart.instructions + (hart.slice - hart.budget)
    return value


def build_interpreter(
    guest: Guest,
    state: State,
    isa: Instructions,
    layout: Layout,
    services: Services,
    *,
    native: bool = True,
) -> Function:
    """interpret(cpu, form, word, raw, pc, next) -> STATUS_*.

    On STATUS_DONE `next_pc` is where the hart goes on; on a trap its cause and
    value are set; on an exit, its kind. With *native* false, nothing is left to
    the evaluator: it is the evaluator's own.
    """
    parameters = [("cpu", PTR), *((name, I64) for name in _PARAMETERS)]
    name = "interpret" if native else "interpret_in_software"
    b = Builder(name, parameters, result=I64, attributes="strictfp")
    cpu = b.struct(layout, b.cpu)
    cpu.next_pc = b.next
    context_class: type[InterpreterContext] = guest.bind(InterpreterContext)

    def carry_out(b: Builder, instruction: Instruction) -> None:
        context = context_class(b, layout, instruction, state, services, native=native)
        guest.begin_interpreted(context, instruction)
        assert instruction.semantics is not None
        instruction.semantics(context)

    def apart(number: int, instruction: Instruction) -> Function:
        """A function of its own: LLVM takes more than its time for what is larger."""
        inner = Builder(
            f"{name}_{number}", parameters, result=I64, attributes="strictfp noinline",
            exported=False,
        )  # fmt: skip
        carry_out(inner, instruction)
        inner.Return(STATUS_DONE)
        return inner.finish()

    with b.Switch(b.form) as cases:
        for number, instruction in enumerate(isa.records, 1):
            if instruction.semantics is None:
                continue
            with cases.Case(number):
                if Trait.INTERPRETED in instruction.traits:
                    given = [getattr(b, one) for one, _ in parameters]
                    b.Return(b.call(apart(number, instruction), *given))
                else:
                    carry_out(b, instruction)
        with cases.Default():
            cpu.trap_cause = state.faults.illegal
            cpu.trap_value = b.raw
            b.Return(STATUS_TRAP)
    b.Return(STATUS_DONE)
    return b.finish()
