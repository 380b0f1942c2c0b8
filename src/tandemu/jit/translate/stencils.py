"""Which stencils there are, and the table that leads from an instruction to them.

An instruction whose semantics are short becomes stencils, one for each place
its operands can be (`contexts.Variant`). The hot ones take sources from any of
the cached results; the rest from memory only. What has no stencil is left to
the interpreter. Adding an instruction needs nothing here: everything follows
from its record; `Trait.HOT` alone is a matter of measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tandemu.bits import Layout
from tandemu.ir import I32, I64, Builder, Function, I
from tandemu.isa.architecture import State
from tandemu.isa.guest import RESULTS, SOURCES, Guest, Instructions
from tandemu.isa.instruction import ImmediateFormat, Instruction, Kind, Trait
from tandemu.isa.tracing import trace_operands
from tandemu.jit.shared.convention import (
    CACHED_RESULTS,
    leaving_operands,
    tail_operands,
    tail_parameters,
)
from tandemu.jit.shared.layout import FORM, JUMP_ENTRY
from tandemu.jit.translate.contexts import (
    SOURCE_MEMORY,
    SOURCE_ZERO,
    FlatStencilContext,
    StencilContext,
    Variant,
    numeric_fields,
)

_ATTRIBUTES = 'optsize align 1 "frame-pointer"="none"'

# What the translator does with a form (`FORM.special`).
NORMAL, CONSTANT, PC_CONSTANT, BRANCH, JUMP, INDIRECT, INTERPRET, INTERPRET_END, MOVABLE = range(9)
PAGE_CONSTANT = 9
NO_STENCIL = 0xFFFFFFFF

# FORM.flags
WRITES_RD = 1
PURE = 2
"""If its result goes to the zero register it does nothing."""
MEMORY = 4
"""It has a cold path that asks for a translation."""
STORES = 8
COLD = 16
"""It has a cold path that asks for the interpreter."""
ZERO_VARIANT = 32
"""There are stencils for a second source that is the zero register."""
ROUNDS = 64
"""Its stencil is for dynamic rounding; the next one, if `ROUNDS_TO_ZERO`, for mode RTZ."""
ROUNDS_TO_ZERO = 128
FLOATING = 256
FORGETS = 1024
"""It writes registers of the first file besides its result: no cached result holds after it."""
AGAIN = 2048
"""It accesses memory more than once."""
OTHER_RD, OTHER_RS1 = 4096, 8192
"""The number of the zero register stands for another one there (`Field.instead`)."""
ATOMIC = 512
"""Its stencil asks for the interpreter too if its address is not aligned."""


# Extra stencils that the translator itself asks for, by name.
SERVICE = (
    "head",
    "memory_stub",
    "interpret_stub",
    "link_stub",
    "head_stub",
    "stale_stub",
    "miss_stub",
    "jump_cached",
    "region_bridge",
)


@dataclass(frozen=True)
class StencilProgram:
    """The functions that become stencils, and the packed form table."""

    functions: tuple[Function, ...]
    numbers: dict[str, int]
    forms: bytes
    immediates: tuple[ImmediateFormat, ...]
    has_fields: bool
    """Whether some stencil has a hole for a field that is a number."""
    instead: int | None
    """The register that the zero register's number stands for in some places."""
    flat: bool = False
    """Whether memory is reached without translation: for programs, not machines."""


def _service(state: State, layout: Layout) -> Iterator[Function]:
    xlen = state.address_bits

    def begin(name: str) -> Builder:
        return Builder(name, tail_parameters(xlen), convention="tail", attributes=_ATTRIBUTES)

    b = begin("head")
    left = b.budget - b.symbol("COUNT", 0, 1 << 30)
    operands = leaving_operands(b, budget=left)
    with b.If(left.slt(0), likely=False):
        b.TailCall("COLD", *operands)
    b.TailCall("NEXT", *operands)
    yield b.finish()
    for name, routine in (
        ("memory_stub", "memory_miss"),
        ("interpret_stub", "interpret_site"),
        ("link_stub", "link_site"),
        ("head_stub", "head_site"),
        ("stale_stub", "stale_site"),
    ):
        b = begin(name)
        b.struct(layout, b.cpu).site = b.symbol("SITE", 0, 1 << 31)
        if name == "memory_stub":
            # Only an access that is tried again needs the cached results.
            b.TailCall(routine, *tail_operands(b, address=b.address))
        else:
            b.TailCall(routine, *leaving_operands(b))
        yield b.finish()
    b = begin("miss_stub")
    b.struct(layout, b.cpu).pc = b.symbol("WIDE")
    b.TailCall("jump_miss", *leaving_operands(b))
    yield b.finish()
    # A jump to another page: its target is known, where that lies is not.
    b = begin("jump_cached")
    entry = b.cpu.offset(b.symbol("JUMP", 0, 1 << 30))
    with b.If(b.load(entry, I64) != b.symbol("WIDE"), likely=False):
        b.TailCall("COLD", *leaving_operands(b))
    code = b.load(entry.offset(JUMP_ENTRY.offset("code")), I32).zext(I64)
    b.TailCall(code.to_pointer(), *leaving_operands(b))
    yield b.finish()
    # From stencils into a region, which wants the pinned registers in place.
    b = begin("region_bridge")
    registers = getattr(b.struct(layout, b.cpu), state.main.name)
    pinned = {f"k{number}": registers[one] for number, one in enumerate(state.pinned)}
    b.TailCall("REGION", *tail_operands(b, **pinned))
    yield b.finish()
    for rd in range(CACHED_RESULTS):
        for kind, symbol in (
            ("short", b.symbol("IMM", -(1 << 31), 1 << 31)),
            ("wide", b.symbol("WIDE")),
        ):
            b = begin(f"constant_{kind}_{rd}")
            slot = b.cpu.offset(b.symbol("RD", 0, 1 << 16))
            value = b.symbol(symbol.name, symbol.low, symbol.high).trunc(I(xlen)) + 0
            b.store(slot, value)
            b.TailCall("NEXT", *tail_operands(b, **{f"k{rd}": value}))
            yield b.finish()
    for source in range(-1, CACHED_RESULTS):
        for rd in range(CACHED_RESULTS):
            b = begin(f"move_{source + 1}_{rd}")
            register = b.cpu.offset(b.symbol("RS1", 0, 1 << 16))
            value = b.load(register, I(xlen)) if source < 0 else getattr(b, f"k{source}")
            b.store(b.cpu.offset(b.symbol("RD", 0, 1 << 16)), value)
            b.TailCall("NEXT", *tail_operands(b, **{f"k{rd}": value}))
            yield b.finish()


def special_of(instruction: Instruction) -> int:
    """What the translator does with it (`FORM.special`)."""
    if instruction.semantics is None:
        return INTERPRET
    match instruction.kind:
        case Kind.BRANCH:
            return BRANCH
        case Kind.JUMP:
            return JUMP
        case Kind.INDIRECT:
            return INDIRECT
        case Kind.SYSTEM if Trait.RESUMES in instruction.traits:
            return INTERPRET
        case Kind.SYSTEM:
            return INTERPRET_END
    if Trait.INTERPRETED in instruction.traits:
        return INTERPRET
    if Trait.CONSTANT in instruction.traits:
        return CONSTANT
    if Trait.PC_RELATIVE in instruction.traits:
        return PC_CONSTANT
    if Trait.PAGE_RELATIVE in instruction.traits:
        return PAGE_CONSTANT
    if Trait.SUM in instruction.traits:
        return MOVABLE
    return NORMAL


def _exact(instruction: Instruction) -> bool:
    """Whether a floating-point instruction with a rounding mode can never round."""
    return Trait.EXACT in instruction.traits


class Stencils:
    """Traces the stencils of one guest."""

    def __init__(
        self, guest: Guest, state: State, layout: Layout, context: type[StencilContext]
    ) -> None:
        self.isa, self.state = guest.isa, state
        self.layout, self.rounding = layout, guest.rounding
        self._context: type[StencilContext] = guest.bind(context)

    def in_main(self, instruction: Instruction, operand: str) -> bool:
        """Whether it is a register of the first file."""
        return instruction.file(operand) == self.state.main.name

    def rounds(self, instruction: Instruction) -> bool:
        """Whether *instruction* has a rounding mode and needs it."""
        rounding = self.rounding
        return (
            rounding is not None
            and instruction.field(rounding.field) is not None
            and not _exact(instruction)
        )

    def to_integer(self, instruction: Instruction) -> bool:
        return instruction.floating and self.in_main(instruction, "rd")

    def variants(self, instruction: Instruction) -> Iterator[Variant]:
        """Every stencil of *instruction*, in the order the strides of its form count in."""
        hot = Trait.HOT in instruction.traits
        everywhere = range(SOURCE_MEMORY, CACHED_RESULTS) if hot else (SOURCE_MEMORY,)
        memory = (SOURCE_MEMORY,)
        first = everywhere if self.in_main(instruction, "rs1") else memory
        second: list[int] = list(everywhere if self.in_main(instruction, "rs2") else memory)
        if self.has_zero_variant(instruction):
            # One that would fold to nothing reads the zero register.
            folds = Trait.FOLDS_WITH_ZERO in instruction.traits
            second.append(SOURCE_MEMORY if folds else SOURCE_ZERO)
        results = range(CACHED_RESULTS) if self.in_main(instruction, "rd") else (0,)
        if instruction.kind is Kind.INDIRECT:
            results = range(1)
        rounding = self.rounding
        modes: tuple[int, ...] = (0,)
        if rounding is not None:
            modes = (rounding.dynamic,)
            if instruction.field(rounding.field) is not None:
                if _exact(instruction):
                    modes = (0,)
                elif self.to_integer(instruction):
                    modes = (rounding.dynamic, rounding.towards_zero)
        for rs1 in first:
            for rs2 in second:
                for rd in results:
                    for mode in modes:
                        yield Variant(rs1, rs2, rd, mode)

    def has_zero_variant(self, instruction: Instruction) -> bool:
        """Whether it is a branch that may compare with the zero register."""
        zero = self.state.main.zero
        has_second = self.in_main(instruction, "rs2")
        return instruction.kind is Kind.BRANCH and zero is not None and has_second

    def function(self, instruction: Instruction, variant: Variant) -> Function:
        """One stencil."""
        places = "".join(
            "mz012"[index + 2 if index >= 0 else 0] if index < CACHED_RESULTS else "z"
            for index in (variant.rs1, variant.rs2, variant.rd)
        )
        name = f"{instruction.name.replace('.', '_')}_{places}_{variant.rounding}"
        attributes = _ATTRIBUTES + (" strictfp" if instruction.floating else "")
        parameters = tail_parameters(self.state.address_bits)
        builder = Builder(name, parameters, convention="tail", attributes=attributes)
        context = self._context(
            builder, self.layout, instruction, self.state, self.rounding, variant
        )
        assert instruction.semantics is not None
        instruction.semantics(context)
        return context.finish()

    def traced_flags(self, instruction: Instruction) -> int:
        """What tracing says of it."""
        main, traced = self.state.main.name, trace_operands(self.isa, instruction)
        named = {one for one in traced.written - {"rd"} if instruction.file(one) == main}
        hidden = {one for one in traced.registers_written if one[0] == main}
        forgets = FORGETS if named or hidden else 0
        return forgets | (AGAIN if traced.accesses > 1 else 0)

    def _is_pure(self, instruction: Instruction) -> bool:
        """Whether its result is all that it leaves behind."""
        if instruction.kind is not Kind.STRAIGHT or instruction.floating:
            return False
        if instruction.semantics is None:
            return True
        traced = trace_operands(self.isa, instruction)
        return traced.written <= {"rd"} and not traced.registers_written

    def flags(self, instruction: Instruction) -> int:
        """What the translator must know (`FORM.flags`)."""
        flags = 0
        if self.in_main(instruction, "rd"):
            flags |= WRITES_RD
            if self._is_pure(instruction):
                flags |= PURE
        if instruction.kind in (Kind.LOAD, Kind.STORE, Kind.ATOMIC):
            flags |= MEMORY
        if instruction.kind is Kind.ATOMIC:
            flags |= ATOMIC
        if instruction.semantics is not None and instruction.kind is not Kind.SYSTEM:
            flags |= self.traced_flags(instruction)
        if instruction.kind is Kind.STORE or (
            instruction.kind is Kind.ATOMIC and Trait.ONLY_READS not in instruction.traits
        ):
            flags |= STORES
        if instruction.floating:
            flags |= FLOATING
            if instruction.kind is Kind.STRAIGHT:
                flags |= COLD
            if self.rounds(instruction):
                flags |= ROUNDS | (ROUNDS_TO_ZERO if self.to_integer(instruction) else 0)
        return flags


def build(
    guest: Guest, state: State, isa: Instructions, layout: Layout, *, flat: bool = False
) -> StencilProgram:
    """Trace every stencil of *isa*, the instructions of *guest*, and make its form table."""
    stencils = Stencils(guest, state, layout, FlatStencilContext if flat else StencilContext)
    functions = list(_service(state, layout))
    immediates: list[ImmediateFormat] = []
    forms = bytearray(FORM.size * (len(isa.records) + 1))
    illegal = FORM.over(forms, 0)
    illegal.special, illegal.stencil = INTERPRET_END, NO_STENCIL
    for number, instruction in enumerate(isa.records, 1):
        form = FORM.over(forms, number * FORM.size)
        special = special_of(instruction)
        form.mask, form.match = instruction.mask, instruction.match
        form.general = isa.decoder.general[number]
        form.special, form.stencil = special, NO_STENCIL
        form.access = instruction.access
        for operand in (*RESULTS, *SOURCES):
            file = instruction.file(operand)
            setattr(form, f"{operand}_base", layout.offset(file) if file else 0)
        for index, field in enumerate(numeric_fields(instruction)[: len(form.fields)]):
            form.fields[index] = field.low | field.width << 8
        if instruction.immediate is not None:
            if instruction.immediate not in immediates:
                immediates.append(instruction.immediate)
            form.immediate = immediates.index(instruction.immediate) + 1
        flags = stencils.flags(instruction)
        if special in (NORMAL, BRANCH, INDIRECT, MOVABLE):
            form.stencil = len(functions)
            variants = list(stencils.variants(instruction))
            functions += [stencils.function(instruction, one) for one in variants]
            rounds = 2 if flags & ROUNDS_TO_ZERO else 1
            results = len({one.rd for one in variants}) * rounds
            form.rd_stride = rounds if stencils.in_main(instruction, "rd") else 0
            if Trait.HOT in instruction.traits:
                second = len(variants) // (results * len({one.rs1 for one in variants}))
                form.rs2_stride = results if stencils.in_main(instruction, "rs2") else 0
                in_main = stencils.in_main(instruction, "rs1")
                form.rs1_stride = results * second if in_main else 0
            elif instruction.kind is Kind.BRANCH:
                raise AssertionError("every branch is hot")
            if stencils.has_zero_variant(instruction):
                flags |= ZERO_VARIANT
        for operand, flag in (("rd", OTHER_RD), ("rs1", OTHER_RS1)):
            one = instruction.field(operand)
            if one is not None and one.instead is not None:
                flags |= flag
        form.flags = flags
    numbers = {function.name: number for number, function in enumerate(functions)}
    symbols = {symbol for function in functions for symbol in function.symbols}
    others = {field.instead for one in isa.records for field in one.fields if field.instead}
    return StencilProgram(
        *(tuple(functions), numbers, bytes(forms), tuple(immediates)),
        has_fields=not symbols.isdisjoint(("FIELD1", "FIELD2")),
        instead=next(iter(others))[1] if others else None,
        flat=flat,
    )
