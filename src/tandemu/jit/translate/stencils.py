"""Which stencils there are, and the table that leads from an instruction to them.

An instruction whose semantics are short becomes stencils, one for each place
its operands can be (`contexts.Variant`). The hot ones take sources from any of
the cached results; the rest from memory only. What has no stencil is left to
the interpreter. Adding an instruction needs nothing here: everything follows
from its record; `HOT` alone is a matter of measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tandemu.bits import Layout
from tandemu.ir import I64, Builder, Function, I
from tandemu.isa.instruction import ImmediateFormat, Instruction, Kind
from tandemu.isa.riscv.instruction_set import InstructionSet
from tandemu.jit.shared.convention import (
    CACHED_RESULTS,
    PINNED_REGISTERS,
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
)

_ATTRIBUTES = 'optsize align 1 "frame-pointer"="none"'

HOT = frozenset(
    (
        *("add", "sub", "sll", "slt", "sltu", "xor", "srl", "sra", "or", "and", "mul"),
        *("addw", "subw", "sllw", "srlw", "sraw", "mulw"),
        *("addi", "slti", "sltiu", "xori", "ori", "andi", "slli", "srli", "srai"),
        *("addiw", "slliw", "srliw", "sraiw"),
        *("lb", "lh", "lw", "ld", "lbu", "lhu", "lwu", "sb", "sh", "sw", "sd"),
        *("beq", "bne", "blt", "bge", "bltu", "bgeu", "jalr"),
        *("sh1add", "sh2add", "sh3add", "add.uw"),
    )
)
"""Instructions whose sources may come from cached results."""

# What the translator does with a form (`FORM.special`).
NORMAL, CONSTANT, PC_CONSTANT, BRANCH, JUMP, INDIRECT, INTERPRET, INTERPRET_END, MOVABLE = range(9)
NO_STENCIL = 0xFFFFFFFF

# FORM.flags
WRITES_RD = 1
PURE = 2
"""With rd = x0 it does nothing."""
MEMORY = 4
"""It has a cold path that asks for a translation."""
STORES = 8
COLD = 16
"""It has a cold path that asks for the interpreter."""
ZERO_VARIANT = 32
"""There are stencils for rs2 = x0."""
ROUNDS = 64
"""Its stencil is for dynamic rounding; the next one, if `ROUNDS_TO_ZERO`, for mode RTZ."""
ROUNDS_TO_ZERO = 128
FLOATING = 256


# Extra stencils that the translator itself asks for, by name.
SERVICE = (
    "head",
    "memory_stub",
    "interpret_stub",
    "link_stub",
    "head_stub",
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
    flat: bool = False
    """Whether memory is reached without translation: for programs, not machines."""


def _service(xlen: int, layout: Layout) -> Iterator[Function]:
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
    ):
        b = begin(name)
        b.struct(layout, b.cpu).site = b.symbol("SITE", 0, 1 << 31)
        # Only an access that is tried again needs the cached results.
        b.TailCall(routine, *(tail_operands if name == "memory_stub" else leaving_operands)(b))
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
    code = b.load(entry.offset(JUMP_ENTRY.offset("code")), I64)
    b.TailCall(code.to_pointer(), *leaving_operands(b))
    yield b.finish()
    # From stencils into a region, which wants the pinned registers in place.
    b = begin("region_bridge")
    registers = b.struct(layout, b.cpu).x
    pinned = {f"k{number}": registers[one] for number, one in enumerate(PINNED_REGISTERS)}
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


def _special(instruction: Instruction) -> int:
    if instruction.semantics is None:
        return INTERPRET
    match instruction.kind:
        case Kind.BRANCH:
            return BRANCH
        case Kind.JUMP:
            return JUMP
        case Kind.INDIRECT:
            return INDIRECT
        case Kind.SYSTEM if instruction.name.startswith(("csr", "cbo")):
            return INTERPRET
        case Kind.SYSTEM:
            return INTERPRET_END
    if instruction.name == "lui":
        return CONSTANT
    if instruction.name == "auipc":
        return PC_CONSTANT
    if instruction.name in ("addi", "add"):
        return MOVABLE
    return NORMAL


def _exact(instruction: Instruction) -> bool:
    """Whether a floating-point instruction with a rounding mode can never round."""
    return instruction.name in ("fcvt.d.s", "fcvt.d.w", "fcvt.d.wu")


def _to_integer(instruction: Instruction) -> bool:
    return instruction.floating and instruction.file("rd") == "x"


def _variants(instruction: Instruction) -> Iterator[Variant]:
    """Every stencil of *instruction*, in the order the strides of its form count in."""
    hot = instruction.name in HOT
    everywhere = range(SOURCE_MEMORY, CACHED_RESULTS) if hot else (SOURCE_MEMORY,)
    first = everywhere if instruction.file("rs1") == "x" else (SOURCE_MEMORY,)
    second: list[int] = list(everywhere if instruction.file("rs2") == "x" else (SOURCE_MEMORY,))
    if instruction.kind is Kind.BRANCH:
        # Unsigned comparisons with zero would fold to nothing: their variant reads x0.
        folds = instruction.name in ("bltu", "bgeu")
        second.append(SOURCE_MEMORY if folds else SOURCE_ZERO)
    results = range(CACHED_RESULTS) if instruction.file("rd") == "x" else (0,)
    if instruction.kind is Kind.INDIRECT:
        results = range(1)
    modes: tuple[int, ...] = (7,)
    if instruction.field("rm") is not None:
        modes = (0,) if _exact(instruction) else (7, 1) if _to_integer(instruction) else (7,)
    for rs1 in first:
        for rs2 in second:
            for rd in results:
                for rounding in modes:
                    yield Variant(rs1, rs2, rd, rounding)


def _function(
    instruction: Instruction,
    xlen: int,
    layout: Layout,
    variant: Variant,
    context_class: type[StencilContext],
) -> Function:
    places = "".join(
        "mz012"[index + 2 if index >= 0 else 0] if index < CACHED_RESULTS else "z"
        for index in (variant.rs1, variant.rs2, variant.rd)
    )
    name = f"{instruction.name.replace('.', '_')}_{places}_{variant.rounding}"
    attributes = _ATTRIBUTES + (" strictfp" if instruction.floating else "")
    builder = Builder(name, tail_parameters(xlen), convention="tail", attributes=attributes)
    context = context_class(builder, layout, instruction, xlen, variant)
    assert instruction.semantics is not None
    instruction.semantics(context)
    return context.finish()


def build(isa: InstructionSet, layout: Layout, *, flat: bool = False) -> StencilProgram:
    """Trace every stencil of *isa* and make its form table."""
    context_class = FlatStencilContext if flat else StencilContext
    functions = list(_service(isa.xlen, layout))
    immediates: list[ImmediateFormat] = []
    forms = bytearray(FORM.size * (len(isa.records) + 1))
    illegal = FORM.over(forms, 0)
    illegal.special, illegal.stencil = INTERPRET_END, NO_STENCIL
    for number, instruction in enumerate(isa.records, 1):
        form = FORM.over(forms, number * FORM.size)
        special = _special(instruction)
        form.mask, form.match = instruction.mask, instruction.match
        form.general = isa.decoder.general[number]
        form.special, form.stencil = special, NO_STENCIL
        form.access = instruction.access
        for operand in ("rd", "rs1", "rs2", "rs3"):
            file = instruction.file(operand)
            setattr(form, f"{operand}_base", layout.offset(file) if file else 0)
        if instruction.immediate is not None:
            if instruction.immediate not in immediates:
                immediates.append(instruction.immediate)
            form.immediate = immediates.index(instruction.immediate) + 1
        flags = 0
        if instruction.file("rd") == "x":
            flags |= WRITES_RD
            if instruction.kind is Kind.STRAIGHT and not instruction.floating:
                flags |= PURE
        if instruction.kind in (Kind.LOAD, Kind.STORE, Kind.ATOMIC):
            flags |= MEMORY
        if instruction.kind is Kind.STORE or (
            instruction.kind is Kind.ATOMIC and not instruction.name.startswith("lr.")
        ):
            flags |= STORES
        if instruction.floating:
            flags |= FLOATING
            if instruction.kind is Kind.STRAIGHT:
                flags |= COLD
            if instruction.field("rm") is not None and not _exact(instruction):
                flags |= ROUNDS | (ROUNDS_TO_ZERO if _to_integer(instruction) else 0)
        if special in (NORMAL, BRANCH, INDIRECT, MOVABLE):
            form.stencil = len(functions)
            variants = list(_variants(instruction))
            functions += [
                _function(instruction, isa.xlen, layout, one, context_class) for one in variants
            ]
            rounds = 2 if flags & ROUNDS_TO_ZERO else 1
            results = len({one.rd for one in variants}) * rounds
            form.rd_stride = rounds if instruction.file("rd") == "x" else 0
            if instruction.name in HOT:
                second = len(variants) // (results * len({one.rs1 for one in variants}))
                form.rs2_stride = results if instruction.file("rs2") == "x" else 0
                form.rs1_stride = results * second
            elif instruction.kind is Kind.BRANCH:
                raise AssertionError("every branch is hot")
            if instruction.kind is Kind.BRANCH:
                flags |= ZERO_VARIANT
        form.flags = flags
    numbers = {function.name: number for number, function in enumerate(functions)}
    return StencilProgram(tuple(functions), numbers, bytes(forms), tuple(immediates), flat)
