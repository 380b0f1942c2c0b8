"""What the instructions of F and D do.

RISC-V Unprivileged ISA, chapters "F" and "D". A floating-point register is 64
bits; a single in it is boxed: its upper half is all ones, and what is not boxed
reads as the canonical NaN. NaN results are canonical.

Arithmetic runs in the host's floating-point environment, which holds the
guest's rounding mode (`frm`) and collects its flags; flags that the host would
not raise go to `fflags` of the hart, and the guest sees the union. Where an
instruction brings a rounding mode of its own, or the mode is not one the host
has, the environment is changed around it, or the instruction left to software.

These functions become stencils: the common case comes first and is short, and
what is rare stands under an unlikely `If`. The checks of mstatus.FS are the
caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tandemu.bits import mask
from tandemu.ir import F32, F64, I1, I32, I64, Builder, Constant, I, Type, Value
from tandemu.ir.softfloat import BINARY32, FORMATS, INEXACT, INVALID, NEAREST_AWAY, TOWARDS_ZERO
from tandemu.ir.values import emit_effect
from tandemu.isa.instruction import Semantics
from tandemu.isa.riscv.rounding import is_out_of_range, rounded_away

BOX = mask(32) << 32
ILLEGAL_INSTRUCTION = 2
DYNAMIC = 7
"""Rounding mode of an instruction that takes it from `frm`."""


class FloatingContext(Protocol):
    """What these functions ask of a translator. Integer registers are `xlen` bits wide."""

    @property
    def xlen(self) -> int:
        """Width of the integer registers in bits: 32 or 64."""

    @property
    def ir(self) -> Builder:
        """The builder that operations go to."""

    @property
    def native(self) -> bool:
        """Whether this becomes machine code, which rounds in the host's modes only."""

    @property
    def interprets(self) -> bool:
        """Whether what is left to software here goes to Python: so the code may be long."""

    @property
    def hart(self) -> Any:
        """The hart's state: fields `fflags` and `frm` are used."""

    @property
    def rs1(self) -> Value:
        """The integer source register."""

    @property
    def fs1(self) -> Value:
        """The first floating source register, 64 bits as they are."""

    @property
    def fs2(self) -> Value:
        """The second floating source register."""

    @property
    def fs3(self) -> Value:
        """The third floating source register."""

    @property
    def rm(self) -> Value:
        """The rounding mode in the instruction.

        Constant `DYNAMIC` says more: `frm` is a mode of the host's, which is in force.
        """

    @property
    def imm(self) -> Value:
        """The immediate, sign-extended to `xlen` bits."""

    @property
    def rd(self) -> Value:
        """The integer destination register: to be written only."""

    @rd.setter
    def rd(self, value: Value | int) -> None: ...

    @property
    def fd(self) -> Value:
        """The floating destination register, 64 bits: to be written only."""

    @fd.setter
    def fd(self, value: Value | int) -> None: ...

    def number(self, index: int) -> Value:
        """Floating source register *index* as a double, for arithmetic.

        A NaN is quiet or signalling as in the register, but any of its kind.
        """

    def set_number(self, value: Value) -> None:
        """Write a double, the result of arithmetic, to `fd`: of a NaN the canonical one."""

    def load(self, address: Value, bits: int) -> Value:
        """Return *bits* bits of memory at the virtual *address*."""

    def store(self, address: Value, value: Value) -> None:
        """Write *value* to memory at the virtual *address*."""

    def raise_exception(self, cause: int, tval: Value | int) -> None:
        """Trap; nothing may follow in the block."""

    def software(self) -> None:
        """Leave the instruction to the evaluator; nothing may follow in the block."""


def _do(ir: Builder, name: str, *operands: Value) -> Value:
    """Add a floating-point operation: even if its operands are constants, it acts."""
    result = emit_effect(name, *operands, builder=ir)
    assert result is not None
    return result


def _effect(c: FloatingContext, name: str, *operands: Value) -> None:
    emit_effect(name, *operands, builder=c.ir)


def _raise_invalid(c: FloatingContext) -> None:
    c.hart.fflags = c.hart.fflags | INVALID


# Registers -------------------------------------------------------------------------------


def _singles(c: FloatingContext, *registers: Value) -> list[Value]:
    """Read registers as singles' bit patterns; what is not boxed is the canonical NaN."""
    boxes = registers[0]
    for register in registers[1:]:
        boxes = boxes & register
    locals_ = [c.ir.variable(I32, register.trunc(I32)) for register in registers]
    with c.ir.If(boxes.sar(32) != mask(64), likely=False):
        for register, local in zip(registers, locals_, strict=True):
            unboxed = (register >> 32) != mask(32)
            local.value = c.ir.select(unboxed, BINARY32.nan, register.trunc(I32))
    return [local.value for local in locals_]


def _patterns(c: FloatingContext, t: Type, *registers: Value) -> list[Value]:
    """Read registers as bit patterns of type *t*."""
    return list(registers) if t == F64 else _singles(c, *registers)


def _set_pattern(c: FloatingContext, value: Value) -> None:
    """Write a bit pattern to the destination, boxed if it is a single."""
    c.fd = value if value.type == I64 else value.zext(I64) | BOX


def canonical(
    ir: Builder,
    value: Value,
    on_nan: Callable[[], None] | None = None,
    is_number: Value | None = None,
) -> Value:
    """An arithmetic result; a NaN becomes the canonical one, and *on_nan* is told.

    *is_number*: whether it is a result at all, should that be known only when it runs. What is
    not may be a signalling NaN, and must not be compared.
    """
    result = ir.variable(value.type, value)
    with ir.If(Constant(I1, 1) if is_number is None else is_number):
        with ir.If(_do(ir, "fuo", value, value), likely=False):
            if on_nan is not None:
                on_nan()
            bits = value.type.bits
            result.value = _do(ir, "float_pattern", Constant(I(bits), FORMATS[bits].nan))
    return result.value


class PatternNumbers:
    """`number` and `set_number` for contexts in which registers always hold patterns."""

    def number(self: Any, index: int) -> Value:
        """The floating source register *index* as a double."""
        pattern: Value = getattr(self, f"fs{index}")
        return pattern.bitcast(F64)

    def set_number(self: Any, value: Value) -> None:
        """Write the double *value*, canonical if it is a NaN, to `fd`."""
        self.fd = canonical(self.ir, value).bitcast(I64)


def _numbers(c: FloatingContext, t: Type, count: int) -> list[Value]:
    """Read the first *count* source registers for arithmetic in type *t*."""
    if t == F64:
        return [c.number(index) for index in range(1, count + 1)]
    registers = [getattr(c, f"fs{index}") for index in range(1, count + 1)]
    return [pattern.bitcast(t) for pattern in _singles(c, *registers)]


def _set_float(c: FloatingContext, value: Value, on_nan: Callable[[], None] | None = None) -> None:
    """Write an arithmetic result; a NaN becomes the canonical one, and *on_nan* is told."""
    if value.type == F64 and on_nan is None:
        c.set_number(value)
    else:
        _set_pattern(c, canonical(c.ir, value, on_nan).bitcast(I(value.type.bits)))


def _set_word(c: FloatingContext, value: Value) -> None:
    """Write an integer result of 32 bits, sign-extended, or of `xlen` bits."""
    c.rd = value.sext(I(c.xlen))


def _magnitude(value: Value) -> Value:
    return value & mask(value.type.bits - 1)


def _sign(value: Value) -> Value:
    """The sign bit alone, in place."""
    return value & (1 << (value.type.bits - 1))


def _negate(value: Value) -> Value:
    return value ^ (1 << (value.type.bits - 1))


# Rounding --------------------------------------------------------------------------------


def _rounding(
    compute: Callable[[FloatingContext], None],
    away: Callable[[FloatingContext], None] | None = None,
) -> Semantics:
    """Semantics of an instruction that rounds: *compute* in the mode it asks for.

    *away* does the same to nearest, ties away from zero, which the host does not have; without
    it that is left to software.
    """

    def semantics(c: FloatingContext) -> None:
        if isinstance(c.rm, Constant) and c.rm.value == DYNAMIC:
            compute(c)
            return
        frm = c.hart.frm.resize(I64)
        rm = c.rm.resize(I64)
        mode = c.ir.select(rm == DYNAMIC, frm, rm)
        if isinstance(rm, Constant) and rm.value >= NEAREST_AWAY:
            if rm.value != NEAREST_AWAY:
                c.raise_exception(ILLEGAL_INSTRUCTION, 0)
                return
            if c.native:
                c.software()
                return
        with c.ir.If(mode.ugt(NEAREST_AWAY), likely=False):
            c.raise_exception(ILLEGAL_INSTRUCTION, 0)
        if c.native and away is not None and c.interprets:
            with c.ir.If(mode == NEAREST_AWAY):
                away(c)
            with c.ir.Else():
                in_mode(c, mode, frm)
            return
        if c.native:
            with c.ir.If(mode == NEAREST_AWAY, likely=False):
                c.software()
        in_mode(c, mode, frm)

    def in_mode(c: FloatingContext, mode: Value, frm: Value) -> None:
        _effect(c, "float_set_rounding", mode)
        compute(c)
        _effect(c, "float_set_rounding", frm)

    return semantics


def _exact(compute: Callable[[FloatingContext], None]) -> Semantics:
    """Semantics of an instruction that never rounds but has a rounding mode, to be legal."""

    def semantics(c: FloatingContext) -> None:
        rm = c.rm.resize(I64)
        if not isinstance(rm, Constant):
            mode = c.ir.select(rm == DYNAMIC, c.hart.frm.resize(I64), rm)
            with c.ir.If(mode.ugt(NEAREST_AWAY), likely=False):
                c.raise_exception(ILLEGAL_INSTRUCTION, 0)
        elif rm.value in (5, 6):
            c.raise_exception(ILLEGAL_INSTRUCTION, 0)
            return
        compute(c)

    return semantics


# Memory and moves ------------------------------------------------------------------------


def flw(c: FloatingContext) -> None:
    _set_pattern(c, c.load(c.rs1 + c.imm, 32))


def fld(c: FloatingContext) -> None:
    _set_pattern(c, c.load(c.rs1 + c.imm, 64))


def fsw(c: FloatingContext) -> None:
    c.store(c.rs1 + c.imm, c.fs2.trunc(I32))


def fsd(c: FloatingContext) -> None:
    c.store(c.rs1 + c.imm, c.fs2)


def fmv_x_w(c: FloatingContext) -> None:
    _set_word(c, c.fs1.trunc(I32))


def fmv_w_x(c: FloatingContext) -> None:
    _set_pattern(c, c.rs1.trunc(I32))


def fmv_x_d(c: FloatingContext) -> None:
    c.rd = c.fs1


def fmv_d_x(c: FloatingContext) -> None:
    c.fd = c.rs1


# Arithmetic ------------------------------------------------------------------------------


def _arithmetic(name: str, t: Type, count: int) -> Semantics:
    def compute(c: FloatingContext) -> None:
        _set_float(c, _do(c.ir, name, *_numbers(c, t, count)))

    return _rounding(compute)


def _fused(t: Type, negate_product: bool, negate_addend: bool) -> Semantics:
    def compute(c: FloatingContext) -> None:
        a, b, addend = (number.bitcast(I(t.bits)) for number in _numbers(c, t, 3))

        def on_nan() -> None:
            # Infinity times zero is invalid even if a quiet NaN is added; hosts differ.
            infinity = FORMATS[t.bits].infinity
            x, y = _magnitude(a), _magnitude(b)
            invalid = ((x == infinity) & (y == 0)) | ((x == 0) & (y == infinity))
            with c.ir.If(invalid):
                _raise_invalid(c)

        operands = (
            _negate(a) if negate_product else a,
            b,
            _negate(addend) if negate_addend else addend,
        )
        _set_float(c, _do(c.ir, "fma", *(operand.bitcast(t) for operand in operands)), on_nan)

    return _rounding(compute)


def _sign_injection(t: Type, sign: Callable[[Value, Value], Value]) -> Semantics:
    def semantics(c: FloatingContext) -> None:
        a, b = _patterns(c, t, c.fs1, c.fs2)
        _set_pattern(c, _magnitude(a) | sign(a, b))

    return semantics


def _order(value: Value) -> Value:
    """An integer whose signed order is the number's, -0 below +0; not for NaNs."""
    bits = value.type.bits
    return value ^ (value.sar(bits - 1) >> 1)


def _extremum(t: Type, smaller: bool) -> Semantics:
    """minimumNumber or maximumNumber of IEEE 754-2019."""

    def semantics(c: FloatingContext) -> None:
        a, b = _patterns(c, t, c.fs1, c.fs2)
        first = _order(a).slt(_order(b))
        result = c.ir.variable(a.type, c.ir.select(first, *((a, b) if smaller else (b, a))))
        # A signalling NaN raises invalid here.
        with c.ir.If(_do(c.ir, "fuo", a.bitcast(t), b.bitcast(t)), likely=False):
            form = FORMATS[t.bits]
            a_is_nan, b_is_nan = (_magnitude(v).ugt(form.infinity) for v in (a, b))
            other = c.ir.select(b_is_nan, form.nan, b)
            result.value = c.ir.select(a_is_nan, other, a)
        _set_pattern(c, result.value)

    return semantics


def _comparison(name: str, t: Type) -> Semantics:
    def semantics(c: FloatingContext) -> None:
        c.rd = _do(c.ir, name, *_numbers(c, t, 2)).zext(I(c.xlen))

    return semantics


def _classify(t: Type) -> Semantics:
    def semantics(c: FloatingContext) -> None:
        (a,) = _patterns(c, t, c.fs1)
        form = FORMATS[t.bits]
        size, negative = _magnitude(a), _sign(a) != 0
        register = I(c.xlen)

        def one_hot(number: Value) -> Value:
            return Constant(register, 1) << number.resize(register)

        # 0 zero, 1 subnormal, 2 normal, 3 infinity; then 4 up or 3 down from the middle.
        kind = (
            (size != 0).zext(register)
            + size.uge(1 << form.fraction_bits).zext(register)
            + size.uge(form.infinity).zext(register)
        )
        numbers = one_hot(c.ir.select(negative, 3 - kind, kind + 4))
        quiet = (size & form.quiet) != 0
        nans = one_hot(quiet.zext(register) + 8)
        c.rd = c.ir.select(size.ugt(form.infinity), nans, numbers)

    return semantics


# Conversions -----------------------------------------------------------------------------


def _between(c: FloatingContext, name: str, source: Type) -> None:
    _set_float(c, _do(c.ir, name, *_numbers(c, source, 1)))


def fcvt_s_d(c: FloatingContext) -> None:
    _between(c, "fnarrow", F64)


def fcvt_d_s(c: FloatingContext) -> None:
    _between(c, "fwiden", F32)


def _from_integer(t: Type, bits: int, signed: bool) -> Semantics:
    def compute(c: FloatingContext) -> None:
        value = c.rs1.resize(I(bits))
        if bits == 32 and not signed:
            value, name = value.zext(I64), f"signed_to_{t}"
        else:
            name = f"{'signed' if signed else 'unsigned'}_to_{t}"
        _set_pattern(c, _do(c.ir, name, value).bitcast(I(t.bits)))

    exact = bits < FORMATS[t.bits].precision
    return _exact(compute) if exact else _rounding(compute)


def _to_signed(c: FloatingContext, t: Type, a: Value, bits: int, suffix: str) -> None:
    """What does not fit comes as the most negative integer, with invalid raised."""
    lowest = 1 << (bits - 1)
    result = c.ir.variable(I(bits), _do(c.ir, f"{t}_to_i{bits}{suffix}", a.bitcast(t)))
    with c.ir.If(result.value == lowest, likely=False):
        # Below zero, that is also the right answer; NaNs of either sign go up.
        above = _magnitude(a).ugt(FORMATS[t.bits].infinity) | (_sign(a) == 0)
        result.value = c.ir.select(above, Constant(I(bits), lowest - 1), lowest)
    _set_word(c, result.value)


def _to_unsigned(c: FloatingContext, t: Type, a: Value, bits: int, suffix: str) -> None:
    """Convert as a signed 64-bit integer what surely fits; sort out the rest."""
    form = FORMATS[t.bits]
    zero, highest = Constant(I64, 0), Constant(I64, mask(bits))
    # What lies below 2**width comes right out of a signed conversion.
    width = min(bits, 63)
    digits = min(width, form.precision)
    # The largest number that no rounding mode takes out of range: digits ones.
    safe = (width - 1 + form.bias) << form.fraction_bits
    safe |= mask(digits - 1) << (form.precision - digits)
    result = c.ir.variable(I64)
    with c.ir.If(a.ule(safe), likely=True):
        result.value = _do(c.ir, f"{t}_to_i64{suffix}", a.bitcast(t))
    with c.ir.Else():
        size = _magnitude(a)
        negative = (_sign(a) != 0) & size.ule(form.infinity)
        small = size.ult(form.bias << form.fraction_bits)
        fits = size.ult((width + form.bias) << form.fraction_bits)
        # Between -1 and 0, and above the largest integer: rounding decides. If it leads
        # out of range, invalid must be raised and inexact must not.
        with c.ir.If(fits & (small | ~negative)):
            saved = _do(c.ir, "float_save")
            result.value = _do(c.ir, f"{t}_to_i64{suffix}", a.bitcast(t))
            with c.ir.If(result.value.ugt(mask(width))):
                _effect(c, "float_restore", saved)
                _raise_invalid(c)
                result.value = c.ir.select(negative, zero, highest)
        with c.ir.Else():
            result.value = c.ir.select(negative, zero, highest)
            upper = (a >> form.fraction_bits) == 63 + form.bias
            if bits < 64:
                _raise_invalid(c)
            else:
                with c.ir.If(upper):
                    # From 2**63 to below 2**64 every number is an integer.
                    result.value = a.zext(I64) << (64 - form.precision) | 1 << 63
                with c.ir.Else():
                    _raise_invalid(c)
    _set_word(c, result.value if bits == 64 else result.value.trunc(I32))


def _to_integer(t: Type, bits: int, signed: bool) -> Semantics:
    convert = _to_signed if signed else _to_unsigned

    def compute(c: FloatingContext, suffix: str = "") -> None:
        (a,) = _patterns(c, t, c.fs1)
        convert(c, t, a, bits, suffix)

    def away(c: FloatingContext) -> None:
        (a,) = _patterns(c, t, c.fs1)
        rounded, inexact = rounded_away(c.ir, t, a)
        convert(c, t, rounded, bits, "_truncated")
        with c.ir.If(inexact & ~is_out_of_range(c.ir, t, rounded, bits, signed)):
            c.hart.fflags = c.hart.fflags | INEXACT

    rounding = _rounding(compute, away)

    def semantics(c: FloatingContext) -> None:
        if isinstance(c.rm, Constant) and c.rm.value == TOWARDS_ZERO:
            compute(c, "_truncated")
        else:
            rounding(c)

    return semantics


def _format(suffix: str, t: Type) -> dict[str, Semantics]:
    """What F and D have alike."""
    table: dict[str, Semantics] = {
        "fadd": _arithmetic("fadd", t, 2),
        "fsub": _arithmetic("fsub", t, 2),
        "fmul": _arithmetic("fmul", t, 2),
        "fdiv": _arithmetic("fdiv", t, 2),
        "fsqrt": _arithmetic("fsqrt", t, 1),
        "fmadd": _fused(t, False, False),
        "fmsub": _fused(t, False, True),
        "fnmsub": _fused(t, True, False),
        "fnmadd": _fused(t, True, True),
        "fsgnj": _sign_injection(t, lambda a, b: _sign(b)),
        "fsgnjn": _sign_injection(t, lambda a, b: _sign(~b)),
        "fsgnjx": _sign_injection(t, lambda a, b: _sign(a ^ b)),
        "fmin": _extremum(t, True),
        "fmax": _extremum(t, False),
        "feq": _comparison("feq", t),
        "flt": _comparison("flt", t),
        "fle": _comparison("fle", t),
        "fclass": _classify(t),
    }
    result = {f"{name}.{suffix}": semantics for name, semantics in table.items()}
    for integer, bits, signed in (
        ("w", 32, True),
        ("wu", 32, False),
        ("l", 64, True),
        ("lu", 64, False),
    ):
        result[f"fcvt.{integer}.{suffix}"] = _to_integer(t, bits, signed)
        result[f"fcvt.{suffix}.{integer}"] = _from_integer(t, bits, signed)
    return result


SEMANTICS: Mapping[str, Semantics] = {
    "flw": flw,
    "fld": fld,
    "fsw": fsw,
    "fsd": fsd,
    "fmv.x.w": fmv_x_w,
    "fmv.w.x": fmv_w_x,
    "fmv.x.d": fmv_x_d,
    "fmv.d.x": fmv_d_x,
    "fcvt.s.d": _rounding(fcvt_s_d),
    "fcvt.d.s": _exact(fcvt_d_s),
    **_format("s", F32),
    **_format("d", F64),
}
"""Semantics by mnemonic."""
