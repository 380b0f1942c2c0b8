"""How an instruction's operands are bound when its semantics are traced.

A semantic function is written once. Traced with a
`StencilContext` its operands are holes and host registers and it becomes a
stencil; with an `InterpreterContext` they are fields of an instruction word that
is known when the code runs, and it becomes one case of the native interpreter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tandemu.bits import Layout, mask
from tandemu.ir import I1, I32, I64, Builder, Constant, Function, I, V, Value, vector_of
from tandemu.isa.architecture import RegisterFile, State
from tandemu.isa.errors import IsaError
from tandemu.isa.guest import Rounding, register_type
from tandemu.isa.instruction import Field, Instruction
from tandemu.jit.memory.jumps import jump_offset
from tandemu.jit.memory.tlb import tlb_entry
from tandemu.jit.shared.convention import CACHED_RESULTS, leaving_operands, tail_operands
from tandemu.jit.shared.layout import TLB_ENTRY
from tandemu.memory.layout import PAGE_SIZE

_FIELD_BITS = 7
"""Bits that LLVM is told such a hole has: it takes one word on a symbol for all stencils.

One more than any field has, or the mask that hides the symbol from LLVM would be dropped.
"""
SOURCE_MEMORY, SOURCE_ZERO = -1, CACHED_RESULTS
"""Where a stencil finds a source register: in memory, in k0…k2, or nowhere: it is zero."""


class Variant(NamedTuple):
    """One stencil of an instruction: where its operands are."""

    rs1: int = SOURCE_MEMORY
    rs2: int = SOURCE_MEMORY
    rd: int = 0
    rounding: int = 7


class StencilContext:
    """Traces an instruction into a stencil (`isa.tracing.OperandContext`)."""

    native = True
    interprets = False
    has_constants = False
    answers_firmware = False
    answers_firmware = True
    keeps_unsettled = False

    def __init__(
        self,
        builder: Builder,
        layout: Layout,
        instruction: Instruction,
        state: State,
        rounding: Rounding | None,
        variant: Variant,
    ) -> None:
        self.ir, self.xlen, self._type = builder, state.address_bits, I(state.address_bits)
        self._instruction, self._variant = instruction, variant
        self._state, self._rounding = state, rounding
        self.hart: Any = builder.struct(layout, builder.cpu)
        self._layout = layout
        self._result: Value | None = None
        self._ended = False
        self._accesses = 0
        if self._may_be_slow(instruction):
            # Floating point is off, or the rounding mode has no counterpart: the interpreter.
            with builder.If(getattr(self.hart, state.float_guard) != 0, likely=False):
                self._cold()

    def _may_be_slow(self, instruction: Instruction) -> bool:
        return instruction.floating

    def _cold(self, address: Value | None = None) -> None:
        """Go to the cold stub; *address* is the one that the TLB has not."""
        missed = {} if address is None else {"address": address}
        self.ir.TailCall("COLD", *tail_operands(self.ir, **missed))

    def _missed(self, address: Value) -> None:
        """The TLB has no entry for an access: for the first of an instruction it is filled, any
        other one is the interpreter's."""
        if self._accesses == 1:
            self._cold(address)
        else:
            self.ir.TailCall("SLOW", *tail_operands(self.ir))

    def _slot(self, symbol: str) -> Value:
        """Address of a register whose offset in the CPU structure is a hole."""
        return self.ir.cpu.offset(self.ir.symbol(symbol, 0, 1 << 16))

    def _source(self, symbol: str, where: int) -> Value:
        if where == SOURCE_ZERO:
            return Constant(self._type, 0)
        if where == SOURCE_MEMORY:
            return self.ir.load(self._slot(symbol), self._type)
        value: Value = getattr(self.ir, f"k{where}")
        return value

    def _file(self, operand: str) -> RegisterFile:
        # A semantic function shared by several instructions may ask for what this has not.
        return self._state.by_file[self._instruction.file(operand) or self._state.main.name]

    def read(self, operand: str) -> Value:
        file = self._file(operand)
        symbol = operand.upper()
        if file is not self._state.main:
            return self.ir.load(self._slot(symbol), register_type(file))
        places = {"rs1": self._variant.rs1, "rs2": self._variant.rs2}
        return self._source(symbol, places.get(operand, SOURCE_MEMORY))

    def write(self, operand: str, value: Value | int) -> None:
        file = self._file(operand)
        lifted = self.ir.lift(value, register_type(file))
        self.ir.store(self._slot(operand.upper()), lifted)
        if file is self._state.main and operand == "rd":
            self._result = lifted

    def _next_slot(self, operand: str, places: int) -> Value:
        """Where the register is that stands so many places after an operand's, going round."""
        file = self._file(operand)
        size, start = file.bits // 8, self._layout.offset(file.name)
        offset = self.ir.symbol(operand.upper(), 0, 1 << 16) + places * size
        end = start + file.count * size
        offset = self.ir.select(offset.uge(end), offset - file.count * size, offset)
        return self.ir.cpu.offset(offset)

    def read_next(self, operand: str, places: int) -> Value:
        return self.ir.load(self._next_slot(operand, places), register_type(self._file(operand)))

    def write_next(self, operand: str, places: int, value: Value) -> None:
        self.ir.store(self._next_slot(operand, places), value)

    def register(self, file: str, index: int) -> Value:
        return load_register(self, self._state.by_file[file], index)

    def set_register(self, file: str, index: int, value: Value | int) -> None:
        store_register(self, self._state.by_file[file], index, value)

    def field(self, name: str) -> Value:
        if self._rounding is not None and name == self._rounding.field:
            return Constant(I64, self._variant.rounding)
        fields = numeric_fields(self._instruction)
        for number, field in enumerate(fields, 1):
            if field.name == name:
                assert field.width < _FIELD_BITS, name
                symbol = self.ir.symbol(f"FIELD{number}", 0, 1 << _FIELD_BITS)
                # LLVM holds that the address of a symbol is not zero; of its low bits it knows
                # nothing.
                return symbol & mask(field.width)
        raise IsaError(f"instruction {self._instruction.name} has no field {name!r}")

    @property
    def imm(self) -> Value:
        immediate = self._instruction.immediate
        assert immediate is not None
        if immediate.wide:
            symbol: Value = self.ir.symbol("WIDE").trunc(self._type)
        elif immediate.compute is None and not immediate.signed and immediate.width <= 6:
            symbol = self.ir.symbol("SHAMT", 0, self.xlen, type=self._type)
        else:
            symbol = self.ir.symbol("IMM", -(1 << 31), 1 << 31, type=self._type)
        return symbol

    @property
    def next_pc(self) -> Value:
        return self.ir.symbol("WIDE").trunc(self._type)

    @property
    def pc(self) -> Value:
        # Only for targets, which the translator computes: dead here.
        return Constant(self._type, 0)

    def _host(self, address: Value, bits: int, write: bool, aligned: bool = False) -> Value:
        """The host address of a guest-virtual one; the cold stub if the TLB has none."""
        ir = self.ir
        address = address.zext(I64)
        size = bits // 8
        entry = tlb_entry(ir, ir.tlb, address)
        if aligned:
            page = address & (mask(64) ^ (PAGE_SIZE - 1) | (size - 1))
        else:
            # The page of the last byte: an access that crosses pages misses.
            page = (address + (size - 1) if size > 1 else address) & -PAGE_SIZE
        offset = TLB_ENTRY.offset("write" if write else "read")
        self._accesses += 1
        with ir.If(ir.load(entry.offset(offset), I64) != page, likely=False):
            self._missed(address)
        addend = ir.load(entry.offset(TLB_ENTRY.offset("addend")), I64)
        return (address + addend).to_pointer()

    def load(self, address: Value, bits: int) -> Value:
        return self.ir.load(self._host(address, bits, False), I(bits))

    def load_vector(self, address: Value, bits: int) -> Value:
        return self.ir.load(self._host(address, bits, False), V(bits))

    def store(self, address: Value, value: Value) -> None:
        self.ir.store(self._host(address, value.type.bits, True), value)

    def store_zeros(self, address: Value, size: int) -> None:
        self.ir.fill(self._host(address, 8 * size, True, aligned=True), 0, size)

    def atomic(self, kind: str, address: Value, value: Value, bits: int) -> Value:
        return self.ir.atomic(kind, self._host(address, bits, True, aligned=True), value)

    def exchange_if(self, address: Value, expected: Value, new: Value) -> Value:
        host = self._host(address, new.type.bits, True, aligned=True)
        return self.ir.compare_exchange(host, expected, new)

    def load_reserved(self, address: Value, bits: int) -> Value:
        host = self._host(address, bits, False, aligned=True)
        return reserve(self, self.ir.load(host, I(bits), atomic=True), address)

    def store_conditional(self, address: Value, value: Value, bits: int) -> Value:
        host = self._host(address, bits, True, aligned=True)
        return conditional(self, host, address, value)

    def fence(self) -> None:
        self.ir.fence()

    def branch(self, condition: Value, target: Value) -> None:
        with self.ir.If(condition, likely=False):
            self.ir.TailCall("TAKEN", *leaving_operands(self.ir))
        self.ir.TailCall("NEXT", *leaving_operands(self.ir))
        self._ended = True

    def jump(self, target: Value) -> None:
        """Go to a target known only now: through the jump cache, its key made inline."""
        ir = self.ir
        key = aligned(self._state, target).zext(I64)
        jumps = ir.cpu.offset(ir.symbol("JUMPS", 0, 1 << 30))
        tag = ir.load(jumps.offset(jump_offset(self._state, key)), I64)
        # Before the comparison: behind it LLVM would make the address once more, at every return.
        codes = ir.cpu.offset(ir.symbol("CODES", 0, 1 << 30))
        code = ir.load(codes.offset(jump_offset(self._state, key)), I32).zext(I64)
        with ir.If(tag != key, likely=False):
            self.hart.pc = key
            ir.TailCall("jump_miss", *leaving_operands(ir))
        ir.TailCall(code.to_pointer(), *leaving_operands(ir))
        self._ended = True

    @property
    def word(self) -> Value:
        # Only for trap values, which are the interpreter's affair.
        return Constant(I64, 0)

    def raise_exception(self, cause: Value | int, value: Value | int) -> None:
        # The interpreter comes to the same conclusion; no translation would help.
        self.hart.pending_trap = 1
        self._cold()

    def software(self) -> None:
        self._cold()

    def finish(self) -> Function:
        """End the stencil: go on with the next, the result in its register."""
        if not self._ended:
            result = {} if self._result is None else {f"k{self._variant.rd}": self._result}
            self.ir.TailCall("NEXT", *tail_operands(self.ir, **result))
        return self.ir.finish()


class FlatStencilContext(StencilContext):
    """Traces an instruction of a program: its memory is a window of the host's.

    The TLB parameter is the host address of guest address 0. An access that the
    host refuses becomes a signal, whose handler finds the instruction.
    """

    def _may_be_slow(self, instruction: Instruction) -> bool:
        # FS is always Dirty: only what rounds has to look at the rounding mode.
        return instruction.floating and not instruction.access

    def _host(self, address: Value, bits: int, write: bool, aligned: bool = False) -> Value:
        ir = self.ir
        address = address.zext(I64)
        if aligned:
            with ir.If((address & (bits // 8 - 1)) != 0, likely=False):
                self._cold()
        return ir.tlb.offset(address)


def aligned(state: State, target: Value) -> Value:
    """The address where an instruction is that *target* leads to."""
    return target if state.alignment == 1 else target & -state.alignment


def reserve(context: Any, value: Value, address: Value) -> Value:
    """Note the reservation of LR: address and value (ABA is accepted, as in other emulators)."""
    context.hart.reservation_address = address.zext(I64)
    context.hart.reservation_value = value.resize(I64)
    if value.type.bits > I64.bits:
        context.hart.reservation_high = (value >> I64.bits).trunc(I64)
    return value


def conditional(
    context: Any, host: Value, address: Value, value: Value, mark: int | None = None
) -> Value:
    """SC: store if the reservation is for *address* and memory still holds its value."""
    ir: Builder = context.ir
    hart = context.hart
    done = ir.variable(I1, 0)
    with ir.If(hart.reservation_address == address.zext(I64)):
        expected = hart.reservation_value.resize(value.type)
        if value.type.bits > I64.bits:
            expected = expected | (hart.reservation_high.zext(value.type) << I64.bits)
        done.value = ir.compare_exchange(host, expected, value, mark) == expected
    hart.reservation_address = mask(64)
    return done.value


class InterpreterContext:
    """Traces an instruction into a case of the interpreter (`isa.tracing.OperandContext`).

    Its operands are read at run time from *word*. A memory access that cannot be
    done at once, an exception and an exit return a `STATUS_*` from the function.
    """

    answers_firmware = True
    keeps_unsettled = False
    has_constants = True

    def __init__(
        self,
        builder: Builder,
        layout: Layout,
        instruction: Instruction,
        state: State,
        services: Any,
        *,
        native: bool = True,
    ) -> None:
        self.ir, self.xlen, self._type = builder, state.address_bits, I(state.address_bits)
        self._state = state
        self._instruction, self._services = instruction, services
        self.hart: Any = builder.struct(layout, builder.cpu)
        self.native = native
        self.interprets = True
        self._fields = {field.name: field for field in instruction.fields}

    def field(self, name: str) -> Value:
        field = self._fields.get(name)
        if field is None:
            # A semantic function shared by several instructions asks for it and drops it.
            return Constant(I64, 0)
        return (self.ir.word >> field.low) & mask(field.width)

    @property
    def word(self) -> Value:
        """The instruction as it stands in memory, for the trap value."""
        return self.ir.raw

    def _file(self, operand: str) -> RegisterFile:
        return self._state.by_file[self._instruction.file(operand) or self._state.main.name]

    def read(self, operand: str) -> Value:
        return load_register(self, self._file(operand), self._index(operand))

    def _index(self, operand: str) -> Value:
        """The number of a register operand."""
        number, field = self.field(operand), self._fields.get(operand)
        if field is None or field.instead is None:
            return number
        return self.ir.select(number == field.instead[0], field.instead[1], number)

    def write(self, operand: str, value: Value | int) -> None:
        file, index = self._file(operand), self._index(operand)
        if file.zero is not None and file.sink is not None:
            index = self.ir.select(index == file.zero, file.sink, index)
        store_register(self, file, index, value)

    def _next_index(self, operand: str, places: int) -> Value:
        return (self._index(operand) + places).urem(self._file(operand).count)

    def read_next(self, operand: str, places: int) -> Value:
        return load_register(self, self._file(operand), self._next_index(operand, places))

    def write_next(self, operand: str, places: int, value: Value) -> None:
        store_register(self, self._file(operand), self._next_index(operand, places), value)

    def register(self, file: str, index: int) -> Value:
        return load_register(self, self._state.by_file[file], index)

    def set_register(self, file: str, index: int, value: Value | int) -> None:
        store_register(self, self._state.by_file[file], index, value)

    @property
    def imm(self) -> Value:
        immediate = self._instruction.immediate
        assert immediate is not None
        return extract_immediate(self.ir.word, immediate).resize(self._type)

    @property
    def pc(self) -> Value:
        return self.ir.pc.resize(self._type)

    @property
    def next_pc(self) -> Value:
        return self.ir.next.resize(self._type)

    def load(self, address: Value, bits: int) -> Value:
        return self._services.load(self, address.zext(I64), bits)  # type: ignore[no-any-return]

    def load_vector(self, address: Value, bits: int) -> Value:
        words = [self.load(address + at // 8, 64) for at in range(0, bits, 64)]
        return vector_of(*words)

    def store(self, address: Value, value: Value) -> None:
        if value.type.is_vector:
            for number in range(value.type.bits // 64):
                self.store(address + 8 * number, value.lane(number, 64))
            return
        self._services.store(self, address.zext(I64), value)

    def store_zeros(self, address: Value, size: int) -> None:
        self.ir.fill(
            self._services.atomic_pointer(self, address.zext(I64), 8 * size, True), 0, size
        )

    def atomic(self, kind: str, address: Value, value: Value, bits: int) -> Value:
        host = self._services.atomic_pointer(self, address.zext(I64), bits, True)
        return self.ir.atomic(kind, host, value)

    def exchange_if(self, address: Value, expected: Value, new: Value) -> Value:
        host = self._services.atomic_pointer(self, address.zext(I64), new.type.bits, True)
        return self.ir.compare_exchange(host, expected, new)

    def load_reserved(self, address: Value, bits: int) -> Value:
        host = self._services.atomic_pointer(self, address.zext(I64), bits, False)
        return reserve(self, self.ir.load(host, I(bits), atomic=True), address)

    def store_conditional(self, address: Value, value: Value, bits: int) -> Value:
        host = self._services.atomic_pointer(self, address.zext(I64), bits, True)
        return conditional(self, host, address, value)

    def fence(self) -> None:
        self.ir.fence()

    def branch(self, condition: Value, target: Value) -> None:
        with self.ir.If(condition):
            self.jump(target)

    def jump(self, target: Value) -> None:
        self.hart.next_pc = aligned(self._state, target).zext(I64)

    def raise_exception(self, cause: Value | int, value: Value | int) -> None:
        self._services.raise_exception(self, cause, value)

    def software(self) -> None:
        self._services.software(self)

    def firmware_call(self) -> None:
        self._services.firmware_call(self)

    def time(self) -> Value:
        return self._services.time(self)  # type: ignore[no-any-return]

    def instructions(self) -> Value:
        return self._services.instructions(self)  # type: ignore[no-any-return]

    def cycles(self) -> Value:
        return self.instructions()


def numeric_fields(instruction: Instruction) -> list[Field]:
    """The fields that are neither registers nor the immediate."""
    return [field for field in instruction.fields if field.file is None]


def _register_pointer(context: Any, file: RegisterFile, index: Value | int) -> Value:
    array: Value = context.hart.pointer(file.name)
    size = file.bits // 8
    return array.offset(index * size if isinstance(index, int) else index.zext(I64) * size)


def load_register(context: Any, file: RegisterFile, index: Value | int) -> Value:
    """Register *index* of *file* as memory holds it."""
    value: Value = context.ir.load(_register_pointer(context, file, index), register_type(file))
    return value


def store_register(
    context: Any, file: RegisterFile, index: Value | int, value: Value | int
) -> None:
    """The other way."""
    lifted = context.ir.lift(value, register_type(file))
    context.ir.store(_register_pointer(context, file, index), lifted)


def extract_immediate(word: Value, immediate: Any) -> Value:
    """The immediate of the 64-bit *word* as a 64-bit value, sign-extended if it is signed."""
    if immediate.compute is not None:
        computed: Value = immediate.compute(word)
        return computed
    value: Value = Constant(I64, 0)
    for low, width, to in immediate.pieces:
        value = value | (((word >> low) & mask(width)) << to)
    if immediate.signed:
        spare = 64 - immediate.width
        value = (value << spare).sar(spare)
    return value
