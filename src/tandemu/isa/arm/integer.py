"""Data processing on general registers (Arm ARM, C4.1.92 and C4.1.95).

Every instruction is there for 32 bits (named ``.w``) and for 64 (``.x``); the former clears the
upper half of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tandemu.bits import mask
from tandemu.ir import I64, Constant, I, Value
from tandemu.isa.arm.flags import (
    carry_in,
    set_difference,
    set_flags,
    set_logic,
    set_sum,
)
from tandemu.isa.arm.formats import HOT, NO_TRAITS, record
from tandemu.isa.arm.immediates import (
    ARITHMETIC,
    BITMASK,
    MOVED,
    NEAR,
    PAGES,
    RESERVED_PARTS,
    RESERVED_WHOLE,
)
from tandemu.isa.instruction import Instruction, Semantics, Trait
from tandemu.isa.tracing import OperandContext

SIZES = ((32, "w", "0"), (64, "x", "1"))
Combine = Callable[[OperandContext, Value, Value], Value]


def source(c: OperandContext, operand: str, bits: int) -> Value:
    """A register operand of *bits* bits."""
    return c.read(operand).trunc(I(bits))


def result(c: OperandContext, value: Value, operand: str = "rd") -> None:
    """Write a result, with zeros above it."""
    c.write(operand, value.zext(I64))


def immediate(c: OperandContext, bits: int) -> Value:
    return c.imm.trunc(I(bits))


def add(c: OperandContext, a: Value, b: Value) -> Value:
    return a + b


def subtract(c: OperandContext, a: Value, b: Value) -> Value:
    return a - b


def with_carry(c: OperandContext, a: Value, b: Value) -> Value:
    return a + b + carry_in(c).zext(a.type)


def without_carry(c: OperandContext, a: Value, b: Value) -> Value:
    return with_carry(c, a, ~b)


def set_with_carry(c: OperandContext, a: Value, b: Value) -> Value:
    carry = carry_in(c).zext(a.type)
    half = a + b
    whole = half + carry
    overflow = ((a ^ whole) & (b ^ whole)).slt(0)
    set_flags(c, whole.slt(0), whole == 0, half.ult(a) | whole.ult(half), overflow)
    return whole


def set_without_carry(c: OperandContext, a: Value, b: Value) -> Value:
    return set_with_carry(c, a, ~b)


_LOGIC: tuple[tuple[str, Combine], ...] = (
    ("and", lambda c, a, b: a & b),
    ("orr", lambda c, a, b: a | b),
    ("eor", lambda c, a, b: a ^ b),
    ("ands", lambda c, a, b: set_logic(c, a & b)),
)
_INVERTED: tuple[tuple[str, Combine], ...] = (
    ("bic", lambda c, a, b: a & ~b),
    ("orn", lambda c, a, b: a | ~b),
    ("eon", lambda c, a, b: a ^ ~b),
    ("bics", lambda c, a, b: set_logic(c, a & ~b)),
)
_ARITHMETIC: tuple[tuple[str, Combine], ...] = (
    ("add", add),
    ("adds", set_sum),
    ("sub", subtract),
    ("subs", set_difference),
)
SHIFTS: tuple[tuple[str, Callable[[Value, Value], Value]], ...] = (
    ("lsl", lambda a, n: a << n),
    ("lsr", lambda a, n: a >> n),
    ("asr", lambda a, n: a.sar(n)),
    ("ror", lambda a, n: a.rotate_right(n)),
)
_EXTENDS: tuple[tuple[str, int, bool], ...] = tuple(
    (f"{'s' if signed else 'u'}xt{letter}", bits, signed)
    for signed in (False, True)
    for letter, bits in (("b", 8), ("h", 16), ("w", 32), ("x", 64))
)


def _plain(combine: Combine, bits: int, writes: bool = True) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = combine(c, source(c, "rs1", bits), source(c, "rs2", bits))
        if writes:
            result(c, value)

    return semantics


def _immediate(combine: Combine, bits: int, writes: bool = True) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = combine(c, source(c, "rs1", bits), immediate(c, bits))
        if writes:
            result(c, value)

    return semantics


def _shifted(combine: Combine, shift: Callable[[Value, Value], Value], bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = immediate(c, bits)
        result(c, combine(c, source(c, "rs1", bits), shift(source(c, "rs2", bits), amount)))

    return semantics


def extended(value: Value, width: int, signed: bool, bits: int) -> Value:
    """The low *width* bits of a register as *bits* bits."""
    return value.trunc(I(min(width, bits))).resize(I(bits), signed=signed)


def _extended(combine: Combine, width: int, signed: bool, bits: int, four: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        amount = Constant(I(bits), 4) if four else immediate(c, bits)
        second = extended(c.read("rs2"), width, signed, bits) << amount
        result(c, combine(c, source(c, "rs1", bits), second))

    return semantics


def _arithmetic() -> Iterator[Instruction]:
    for bits, size, sf in SIZES:
        amount = "0iiiii" if bits == 32 else "iiiiii"
        for number, (name, combine) in enumerate(_ARITHMETIC):
            op = f"{number:02b}"
            sets = name.endswith("s")
            hot = HOT if not sets else NO_TRAITS
            yield record(
                f"{name}.{size}", f"{sf}{op} 01011 00 0 mmmmm 000000 nnnnn ddddd",
                _plain(combine, bits), traits=hot, specialises=f"{name}_lsl.{size}",
            )  # fmt: skip
            if sets:
                compare = "cmn" if name == "adds" else "cmp"
                yield record(
                    f"{compare}.{size}", f"{sf}{op} 01011 00 0 mmmmm 000000 nnnnn 11111",
                    _plain(combine, bits, False), traits=HOT, specialises=f"{name}.{size}",
                )  # fmt: skip
                yield record(
                    f"{compare}_imm.{size}", f"{sf}{op} 100010 iiiiiiiiiiiii NNNNN 11111",
                    _immediate(combine, bits, False), immediate=ARITHMETIC, traits=HOT,
                    specialises=f"{name}_imm.{size}",
                )  # fmt: skip
            for kind, (shift_name, shift) in enumerate(SHIFTS[:3]):
                yield record(
                    f"{name}_{shift_name}.{size}",
                    f"{sf}{op} 01011 {kind:02b} 0 mmmmm {amount} nnnnn ddddd",
                    _shifted(combine, shift, bits),
                )  # fmt: skip
            destination = "ddddd" if sets else "DDDDD"
            yield record(
                f"{name}_imm.{size}", f"{sf}{op} 100010 iiiiiiiiiiiii NNNNN {destination}",
                _immediate(combine, bits), immediate=ARITHMETIC, traits=hot,
            )  # fmt: skip
            for kind, (extend, width, signed) in enumerate(_EXTENDS):
                # Shifts to the left by 0 to 3, and by 4; more is undefined.
                for suffix, amount_bits, four in (("", "0ii", False), ("_4", "100", True)):
                    yield record(
                        f"{name}_{extend}{suffix}.{size}",
                        f"{sf}{op} 01011 00 1 mmmmm {kind:03b} {amount_bits} NNNNN {destination}",
                        _extended(combine, width, signed, bits, four),
                    )  # fmt: skip
        for name, op, combine in (
            ("adc", "00", with_carry), ("adcs", "01", set_with_carry),
            ("sbc", "10", without_carry), ("sbcs", "11", set_without_carry),
        ):  # fmt: skip
            yield record(
                f"{name}.{size}", f"{sf}{op} 11010000 mmmmm 000000 nnnnn ddddd",
                _plain(combine, bits),
            )  # fmt: skip


def _logic() -> Iterator[Instruction]:
    for bits, size, sf in SIZES:
        amount = "0iiiii" if bits == 32 else "iiiiii"
        for inverted, operations in ((0, _LOGIC), (1, _INVERTED)):
            for number, (name, combine) in enumerate(operations):
                op = f"{number:02b}"
                hot = HOT if not inverted and number < 3 else NO_TRAITS
                if name == "orr":
                    yield record(
                        f"mov.{size}", f"{sf}{op} 01010 00 0 mmmmm 000000 11111 ddddd",
                        _move(bits), traits=HOT, specialises=f"orr.{size}",
                    )  # fmt: skip
                yield record(
                    f"{name}.{size}",
                    f"{sf}{op} 01010 00 {inverted} mmmmm 000000 nnnnn ddddd",
                    _plain(combine, bits), traits=hot, specialises=f"{name}_lsl.{size}",
                )  # fmt: skip
                if name == "ands":
                    yield record(
                        f"tst.{size}", f"{sf}{op} 01010 00 0 mmmmm 000000 nnnnn 11111",
                        _plain(combine, bits, False), specialises=f"ands.{size}",
                    )  # fmt: skip
                for kind, (shift_name, shift) in enumerate(SHIFTS):
                    yield record(
                        f"{name}_{shift_name}.{size}",
                        f"{sf}{op} 01010 {kind:02b} {inverted} mmmmm {amount} nnnnn ddddd",
                        _shifted(combine, shift, bits),
                    )  # fmt: skip
                if inverted:
                    continue
                yield from _masked(name, combine, bits, f"{sf}{op}")


def _masked(name: str, combine: Combine, bits: int, head: str) -> Iterator[Instruction]:
    """A logical operation with a mask, whose element has 64 bits or fewer."""
    size = "w" if bits == 32 else "x"
    sets = name == "ands"
    for n in ("0",) if bits == 32 else ("0", "1"):
        reserved = {"s": RESERVED_WHOLE if n == "1" else RESERVED_PARTS}
        suffix = f"{'_whole' if n == '1' else ''}.{size}"
        pattern = f"{head} 100100 {n} iiiiii ssssss nnnnn"
        yield record(
            f"{name}_imm{suffix}", f"{pattern} {'ddddd' if sets else 'DDDDD'}",
            _immediate(combine, bits), immediate=BITMASK[bits], reserved=reserved,
        )  # fmt: skip
        if sets:
            yield record(
                f"tst_imm{suffix}", f"{pattern} 11111",
                _immediate(combine, bits, False), immediate=BITMASK[bits], reserved=reserved,
                specialises=f"ands_imm{suffix}",
            )  # fmt: skip


def _move(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        result(c, source(c, "rs2", bits))

    return semantics


def _constant(c: OperandContext) -> None:
    c.write("rd", c.imm)


def _keep(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        low = c.field("h") << 4
        hole = ~(Constant(I64, 0xFFFF) << low) & mask(bits)
        c.write("rd", (c.read("rd") & hole) | (c.imm << low))

    return semantics


def _near(c: OperandContext) -> None:
    c.write("rd", c.pc + c.imm)


def _page(c: OperandContext) -> None:
    c.write("rd", (c.pc & -4096) + c.imm)


def _moves() -> Iterator[Instruction]:
    constant = frozenset({Trait.CONSTANT})
    for bits, size, sf in SIZES:
        half = "0i" if bits == 32 else "ii"
        for name, op, inverted in (("movn", "00", True), ("movz", "10", False)):
            yield record(
                f"{name}.{size}", f"{sf}{op} 100101 {half} iiiiiiiiiiiiiiii ddddd",
                _constant, immediate=MOVED[bits, inverted], traits=constant,
            )  # fmt: skip
        place = "0h" if bits == 32 else "hh"
        yield record(f"movk.{size}", f"{sf}11 100101 {place} iiiiiiiiiiiiiiii ddddd", _keep(bits))
    yield record("adr", "0ii10000 iiiiiiiiiiiiiiiiiii ddddd", _near, immediate=NEAR,
                 traits=frozenset({Trait.PC_RELATIVE}))  # fmt: skip


INSTRUCTIONS: tuple[Instruction, ...] = (
    *_arithmetic(),
    *_logic(),
    *_moves(),
    record(
        "adrp",
        "1ii10000 iiiiiiiiiiiiiiiiiii ddddd",
        _page,
        immediate=PAGES,
        traits=frozenset({Trait.PAGE_RELATIVE}),
    ),
)
