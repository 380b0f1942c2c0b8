"""The operations on floating-point values, one row each.

In Python they mean what `softfloat` computes in its thread's `environment`. In
machine code they run in the host's own floating-point environment (x86-64: the
MXCSR), which holds rounding mode and sticky flags: honest flags cost nothing.
So no row here is pure, and constants are not folded.

What rows promise is what both have in common. A NaN result is *a* quiet NaN.
Infinity times zero plus a quiet NaN may or may not raise invalid. Mode 4 (to
nearest, ties away from zero) exists in Python only: a host without it rounds
ties to even. Denormals are exact: the host's flush-to-zero bits must be clear.

The text is LLVM's constrained intrinsics with all strictness, which LLVM neither
folds, drops nor moves past each other, and inline assembly where intrinsics
promise less than the instruction does. A *relaxed* text is LLVM's ordinary operation: where
each result is used, and no value is known, it computes and raises the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandemu.bits import mask
from tandemu.ir import softfloat
from tandemu.ir.operations import operation
from tandemu.ir.softfloat import FORMATS, environment
from tandemu.ir.types import F32, F64, I1, I32, I64, IrError, Type

_ROUNDED = 'metadata !"round.dynamic", metadata !"fpexcept.strict") strictfp'
_STRICT = 'metadata !"fpexcept.strict") strictfp'


def _floats(count: int, result: Type | None = None) -> Callable[..., Type]:
    """*count* operands of one floating type give *result*, or that type."""

    def signature(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
        if len(types) != count or any(not t.is_float or t != types[0] for t in types):
            raise IrError(
                f"must have {count} operands of one floating type, "
                f"not {', '.join(map(str, types)) or 'none'}"
            )
        return result or types[0]

    return signature


def _in_format(function: Callable[..., int]) -> Callable[..., int]:
    return lambda types, _, *operands: int(function(FORMATS[types[0].bits], *operands))


# Arithmetic ------------------------------------------------------------------------------

for _name, _intrinsic, _count, _function in (
    ("fadd", "fadd", 2, softfloat.add),
    ("fsub", "fsub", 2, softfloat.subtract),
    ("fmul", "fmul", 2, softfloat.multiply),
    ("fdiv", "fdiv", 2, softfloat.divide),
    ("fsqrt", "sqrt", 1, softfloat.square_root),
    # One instruction where the host has it; else LLVM calls the C library's fma.
    ("fma", "fma", 3, softfloat.fused_multiply_add),
):
    _intrinsic = f"@llvm.experimental.constrained.{_intrinsic}.{{mt}}"
    _operands = "".join(f"{{t}} {{{number}}}, " for number in range(_count))
    _called = {"fsqrt": "@llvm.sqrt.{mt}", "fma": "@llvm.fma.{mt}"}.get(_name, "")
    operation(
        _name,
        _floats(_count),
        f"call {{t}} {_intrinsic}({_operands}{_ROUNDED}",
        _in_format(_function),
        pure=False,
        declarations=(
            f"declare {{t}} {_intrinsic}({'{t}, ' * _count}metadata, metadata)",
            *((f"declare {{t}} {_called}({', '.join(['{t}'] * _count)})",) if _called else ()),
        ),
        relaxed=(
            f"call {{t}} {_called}({_operands[:-2]})" if _called else f"{_name} {{t}} {{0}}, {{1}}"
        ),
    )


# A bit pattern that LLVM knows nothing of. It would put a floating-point constant into
# the module's pool of constants, out of a stencil's reach.
def _pattern(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    if types not in ((I32,), (I64,)):
        raise IrError(f"must be i32 or i64, not {', '.join(map(str, types))}")
    return F32 if types == (I32,) else F64


operation(
    "float_pattern",
    _pattern,
    '{a} = call {t} asm "", "=r,0"({t} {0})\nbitcast {t} {a} to {r}',
    lambda types, _, a: a,
    pure=False,
    relaxed="bitcast {t} {0} to {r}",
)


# Comparison: no NaN is less than, or equal to, anything ------------------------------------

for _name, _intrinsic, _predicate, _test in (
    ("feq", "fcmp", "oeq", softfloat.equal),
    ("flt", "fcmps", "olt", softfloat.less),
    ("fle", "fcmps", "ole", softfloat.less_or_equal),
    ("fuo", "fcmp", "uno", softfloat.unordered),
):
    _intrinsic = f"@llvm.experimental.constrained.{_intrinsic}.{{mt}}"
    operation(
        _name,
        _floats(2, I1),
        f'call i1 {_intrinsic}({{t}} {{0}}, {{t}} {{1}}, metadata !"{_predicate}", {_STRICT}',
        _in_format(_test),
        pure=False,
        declarations=(f"declare i1 {_intrinsic}({{t}}, {{t}}, metadata, metadata)",),
        # The others are signalling, or not made of quiet NaNs alone.
        relaxed="fcmp uno {t} {0}, {1}" if _name == "fuo" else "",
    )


# Conversion ------------------------------------------------------------------------------


def _between_floats(wider: bool) -> Callable[..., Type]:
    target = F64 if wider else F32

    def signature(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
        if types != (F32 if wider else F64,):
            raise IrError(f"cannot {'widen' if wider else 'narrow'} {types[0]} to {target}")
        return target

    return signature


def _convert(types: tuple[Type, ...], _: Any, a: int) -> int:
    return softfloat.convert(FORMATS[types[0].bits], FORMATS[96 - types[0].bits], a)


for _name, _intrinsic, _tail in (
    ("fwiden", "fpext", _STRICT),
    ("fnarrow", "fptrunc", _ROUNDED),
):
    _wider = _name == "fwiden"
    _intrinsic = f"@llvm.experimental.constrained.{_intrinsic}.{{mr}}.{{mt}}"
    operation(
        _name,
        _between_floats(_wider),
        f"call {{r}} {_intrinsic}({{t}} {{0}}, {_tail}",
        _convert,
        pure=False,
        declarations=(
            f"declare {{r}} {_intrinsic}({{t}}, {'' if _wider else 'metadata, '}metadata)",
        ),
    )


def _from_integer(target: Type, signed: bool) -> Callable[..., int]:
    def meaning(types: tuple[Type, ...], _: Any, a: int) -> int:
        if signed and a >> (types[0].bits - 1):
            a -= 1 << types[0].bits
        return softfloat.from_integer(FORMATS[target.bits], a)

    return meaning


def _integer_to(target: Type, *sources: Type) -> Callable[..., Type]:
    def signature(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
        if len(types) != 1 or types[0] not in sources:
            raise IrError(f"cannot convert {types[0]}: must be {' or '.join(map(str, sources))}")
        return target

    return signature


_SIGNED = "@llvm.experimental.constrained.sitofp.{mr}.{t}"
_ADD = "@llvm.experimental.constrained.fadd.{mr}"
# LLVM's own sequence rounds some values wrongly when rounding down. The upper half of
# the range is halved, its lowest bit kept sticky, converted and doubled: exact but for
# the one rounding.
_UNSIGNED = f"""\
{{a}} = lshr i64 {{0}}, 1
{{b}} = and i64 {{0}}, 1
{{c}} = or i64 {{a}}, {{b}}
{{d}} = icmp slt i64 {{0}}, 0
{{e}} = select i1 {{d}}, i64 {{c}}, i64 {{0}}
{{f}} = call {{r}} {_SIGNED}(i64 {{e}}, {_ROUNDED}
{{g}} = call {{r}} {_ADD}({{r}} {{f}}, {{r}} {{f}}, {_ROUNDED}
select i1 {{d}}, {{r}} {{g}}, {{r}} {{f}}"""

for _target in (F32, F64):
    operation(
        f"signed_to_{_target}",
        _integer_to(_target, I32, I64),
        f"call {{r}} {_SIGNED}({{t}} {{0}}, {_ROUNDED}",
        _from_integer(_target, True),
        pure=False,
        declarations=(f"declare {{r}} {_SIGNED}({{t}}, metadata, metadata)",),
    )
    operation(
        f"unsigned_to_{_target}",
        _integer_to(_target, I64),
        _UNSIGNED,
        _from_integer(_target, False),
        pure=False,
        declarations=(
            f"declare {{r}} {_SIGNED}({{t}}, metadata, metadata)",
            f"declare {{r}} {_ADD}({{r}}, {{r}}, metadata, metadata)",
        ),
    )


def _to_integer(bits: int, rounding: int | None) -> Callable[..., int]:
    def meaning(types: tuple[Type, ...], _: Any, a: int) -> int:
        result = softfloat.to_integer(FORMATS[types[0].bits], a, bits, True, rounding=rounding)
        return 1 << (bits - 1) if result is None else result & mask(bits)

    return meaning


def _float_to(source: Type, target: Type) -> Callable[..., Type]:
    def signature(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
        if types != (source,):
            raise IrError(f"must be {source}, not {', '.join(map(str, types))}")
        return target

    return signature


# Signed; a NaN and what does not fit give the most negative integer, and invalid. LLVM's
# conversions leave that open, hence the instruction itself.
for _source, _scalar in ((F32, "ss"), (F64, "sd")):
    for _target, _register in ((I32, "k"), (I64, "q")):
        for _suffix, _letter, _mode in (("", "", None), ("_truncated", "t", 1)):
            operation(
                f"{_source}_to_{_target}{_suffix}",
                _float_to(_source, _target),
                f'call {{r}} asm sideeffect "cvt{_letter}{_scalar}2si $1, ${{{{0:{_register}}}}}", '
                '"=r,x"({t} {0})',
                _to_integer(_target.bits, _mode),
                pure=False,
            )


# The environment -------------------------------------------------------------------------

# MXCSR goes through memory only. A word of the stack below the 128 bytes that a function
# may use unasked serves, and works in any function, loop or not.
_READ = (
    'call i64 asm sideeffect "leaq -136(%rsp), %rsp; stmxcsr (%rsp); movl (%rsp), ${{0:k}}; '
    'leaq 136(%rsp), %rsp", "=r,~{{memory}}"()'
)
_WRITE = (
    'call void asm sideeffect "leaq -136(%rsp), %rsp; movl ${{0:k}}, (%rsp); ldmxcsr (%rsp); '
    'leaq 136(%rsp), %rsp", "r,~{{memory}}"(i64 '
)
_STICKY, _ROUNDING, _ROUNDING_SHIFT = 0x3F, 0x6000, 13
# RISC-V's nearest, to zero, down, up are x86's 0, 3, 1, 2; whatever lies above is nearest.
_ROUNDING_TABLE = 0b10_01_11_00
# Invalid, zero divide, overflow, underflow, inexact: bit of MXCSR, bit of fflags.
_FLAG_BITS = ((0, 4), (2, 3), (3, 2), (4, 1), (5, 0))


def _collect(value: str, name: str, moves: list[tuple[int, int]]) -> tuple[str, str]:
    """LLVM lines that move single bits of *value*; and the name of the last, their union."""
    lines, union = [], ""
    for number, (source, target) in enumerate(moves):
        bit, moved = f"{name}.b{number}", f"{name}.m{number}"
        shift = f"shl i64 {bit}, {target - source}"
        if target < source:
            shift = f"lshr i64 {bit}, {source - target}"
        lines += [f"{bit} = and i64 {value}, {1 << source}", f"{moved} = {shift}"]
        if union:
            lines.append(f"{name}.u{number} = or i64 {union}, {moved}")
            moved = f"{name}.u{number}"
        union = moved
    return "\n".join(lines), union


def _takes(count: int, result: Type | None) -> Callable[..., Type | None]:
    def signature(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type | None:
        if types != (I64,) * count:
            raise IrError(f"must have {count} operands of i64, not {len(types)}")
        return result

    return signature


def _flags(types: tuple[Type, ...], _: Any) -> int:
    return environment.flags


def _clear(types: tuple[Type, ...], _: Any) -> None:
    environment.flags = 0


def _raise(types: tuple[Type, ...], _: Any, flags: int) -> None:
    environment.flags |= flags & mask(len(_FLAG_BITS))


def _set_rounding(types: tuple[Type, ...], _: Any, mode: int) -> None:
    environment.rounding = mode if mode <= softfloat.NEAREST_AWAY else softfloat.NEAREST_EVEN


def _save(types: tuple[Type, ...], _: Any) -> int:
    return environment.flags | environment.rounding << len(_FLAG_BITS)


def _restore(types: tuple[Type, ...], _: Any, saved: int) -> None:
    environment.flags = saved & mask(len(_FLAG_BITS))
    environment.rounding = saved >> len(_FLAG_BITS)


_get, _got = _collect("{a}", "{b}", list(_FLAG_BITS))
_put, _raised = _collect("{0}", "{b}", [(ours, theirs) for theirs, ours in _FLAG_BITS])

# The sticky flags as in RISC-V's fflags: NX 0, UF 1, OF 2, DZ 3, NV 4.
operation(
    "float_flags", _takes(0, I64), f"{{a}} = {_READ}\n{_get}\nor i64 {_got}, 0", _flags, pure=False
)
operation(
    "float_clear_flags",
    _takes(0, None),
    f"{{a}} = {_READ}\n{{b}} = and i64 {{a}}, {~_STICKY}\n{_WRITE}{{b}})",
    _clear,
    pure=False,
)
operation(
    "float_raise",
    _takes(1, None),
    f"{{a}} = {_READ}\n{_put}\n{{c}} = or i64 {{a}}, {_raised}\n{_WRITE}{{c}})",
    _raise,
    pure=False,
)
# Modes as in RISC-V's frm: 0 nearest even, 1 to zero, 2 down, 3 up (4 nearest away).
operation(
    "float_set_rounding",
    _takes(1, None),
    f"""\
{{a}} = {_READ}
{{b}} = and i64 {{a}}, {~_ROUNDING}
{{c}} = and i64 {{0}}, 7
{{d}} = shl i64 {{c}}, 1
{{e}} = lshr i64 {_ROUNDING_TABLE}, {{d}}
{{f}} = and i64 {{e}}, 3
{{g}} = shl i64 {{f}}, {_ROUNDING_SHIFT}
{{h}} = or i64 {{b}}, {{g}}
{_WRITE}{{h}})""",
    _set_rounding,
    pure=False,
)
# The whole environment as a number that means something to float_restore only.
operation("float_save", _takes(0, I64), _READ, _save, pure=False)
operation("float_restore", _takes(1, None), f"{_WRITE}{{0}})", _restore, pure=False)
