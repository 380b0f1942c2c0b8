"""Floating-point operations in machine code do what they do in Python: results and flags."""

from __future__ import annotations

import ctypes
import itertools
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandemu.ir import (
    F32,
    F64,
    I32,
    I64,
    PTR,
    Builder,
    Function,
    I,
    IrError,
    Type,
    Value,
    evaluate,
    lower,
)
from tandemu.ir.operations import TABLE
from tandemu.ir.softfloat import FORMATS, INVALID, environment
from tandemu.ir.values import emit_effect
from tandemu.native import LoadedImage, load
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link
from tests.ir.float_operands import INTEGERS, few, many, some

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="machine code is generated for x86-64 only"
)

MODES = range(4)
OPERATIONS: dict[str, tuple[str, tuple[Type, ...]]] = {}
for _t in (F32, F64):
    for _name, _count in (("fadd", 2), ("fsub", 2), ("fmul", 2), ("fdiv", 2), ("fsqrt", 1)):
        OPERATIONS[f"{_name}_{_t}"] = (_name, (_t,) * _count)
    for _name, _count in (("fma", 3), ("feq", 2), ("flt", 2), ("fle", 2), ("fuo", 2)):
        OPERATIONS[f"{_name}_{_t}"] = (_name, (_t,) * _count)
    for _to in (I32, I64):
        OPERATIONS[f"{_to}_to_{_t}"] = (f"signed_to_{_t}", (_to,))
        for _suffix in ("", "_truncated"):
            _name = f"{_t}_to_{_to}{_suffix}"
            OPERATIONS[_name] = (_name, (_t,))
    OPERATIONS[f"unsigned_to_{_t}"] = (f"unsigned_to_{_t}", (I64,))
OPERATIONS["fwiden"] = ("fwiden", (F32,))
OPERATIONS["fnarrow"] = ("fnarrow", (F64,))


def do(b: Builder, name: str, *operands: Value) -> Value:
    result = emit_effect(name, *operands, builder=b)
    assert result is not None
    return result


def program(name: str, operation: str, types: tuple[Type, ...]) -> Function:
    """(a, b, c, mode, out) -> flags: one operation in an environment of its own."""
    parameters = [("a", I64), ("b", I64), ("c", I64), ("mode", I64), ("out", PTR)]
    b = Builder(name, parameters, result=I64, attributes="strictfp")
    saved = do(b, "float_save")
    emit_effect("float_set_rounding", b.mode, builder=b)
    emit_effect("float_clear_flags", builder=b)
    operands = [
        v.resize(I(t.bits)).bitcast(t) for v, t in zip((b.a, b.b, b.c), types, strict=False)
    ]
    result = do(b, operation, *operands)
    bits = result.bitcast(I(result.type.bits)) if result.type.is_float else result
    b.store(b.out, bits.zext(I64))
    flags = do(b, "float_flags")
    emit_effect("float_restore", saved, builder=b)
    b.Return(flags)
    return b.finish()


PROGRAMS = {name: program(name, *row) for name, row in OPERATIONS.items()}
Native = Callable[..., tuple[int, int]]


@pytest.fixture(scope="module")
def image() -> LoadedImage:
    return load(link(compile_object(lower(PROGRAMS.values()), model=CodeModel.RUNTIME)))


def natively(image: LoadedImage, name: str) -> Native:
    u64 = ctypes.c_uint64
    function: Any = image.function(name, u64, [u64] * 5)
    out = u64()
    address = ctypes.addressof(out)

    def run(mode: int, a: int, b: int = 0, c: int = 0) -> tuple[int, int]:
        flags = function(a, b, c, mode, address)
        return out.value, flags

    return run


def in_python(name: str, mode: int, *operands: int) -> tuple[int, int]:
    operation, types = OPERATIONS[name]
    row = TABLE[operation]
    environment.rounding, environment.flags = mode, 0
    masked = [v & (1 << t.bits) - 1 for v, t in zip(operands, types, strict=True)]
    try:
        result = row.meaning(types, (), *masked)
        assert result is not None
        return result, environment.flags
    finally:
        environment.rounding = environment.flags = 0


def canonical(name: str, result: int) -> int:
    operation, types = OPERATIONS[name]
    kind = TABLE[operation].signature(types, ())
    if kind is not None and kind.is_float and FORMATS[kind.bits].is_nan(result):
        assert result & FORMATS[kind.bits].quiet, f"{name} gave a signalling NaN"
        return FORMATS[kind.bits].nan
    return result


def operands_of(types: tuple[Type, ...]) -> Iterable[tuple[int, ...]]:
    if not types[0].is_float:
        return ((v,) for v in INTEGERS)
    lists = {1: many, 2: some, 3: few}[len(types)]
    return itertools.product(lists(FORMATS[types[0].bits]), repeat=len(types))


def check(run: Native, name: str, mode: int, operands: tuple[int, ...]) -> None:
    result, flags = run(mode, *operands)
    expected, expected_flags = in_python(name, mode, *operands)
    if name.startswith("fma"):
        # Hosts differ on infinity times zero plus a quiet NaN.
        f = FORMATS[OPERATIONS[name][1][0].bits]
        a, b, c = operands
        if f.is_nan(c) and {a & ~f.sign, b & ~f.sign} == {0, f.infinity}:
            flags |= INVALID
    got = canonical(name, result), flags
    assert got == (canonical(name, expected), expected_flags), (
        f"{name} mode {mode} of {[hex(v) for v in operands]}: {got[0]:#x} flags {flags:#x}, "
        f"must be {expected:#x} flags {expected_flags:#x}"
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_corner_cases(image: LoadedImage, name: str) -> None:
    run = natively(image, name)
    for operands in operands_of(OPERATIONS[name][1]):
        for mode in MODES:
            check(run, name, mode, operands)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=30)
@given(
    a=st.integers(0, 2**64 - 1),
    near=st.integers(-(2**6), 2**6),
    c=st.integers(0, 2**64 - 1),
    mode=st.sampled_from(list(MODES)),
    close=st.booleans(),
)
def test_random(
    *, image: LoadedImage, name: str, a: int, near: int, c: int, mode: int, close: bool
) -> None:
    types = OPERATIONS[name][1]
    # Operands close to each other cancel; others mostly swallow each other.
    operands = (a, a + near if close else c ^ a, c)[: len(types)]
    masked = tuple(v & (1 << types[0].bits) - 1 for v in operands)
    check(natively(image, name), name, mode, masked)


def test_the_evaluator_runs_the_same_program() -> None:
    out = ctypes.c_uint64()
    third = PROGRAMS["fdiv_f64"]
    environment.flags, environment.rounding = 2, 3
    try:
        flags = evaluate(third, 0x3FF0000000000000, 0x4008000000000000, 0, 0, ctypes.addressof(out))
        assert (flags, hex(out.value)) == (1, "0x3fd5555555555555")
        assert (environment.flags, environment.rounding) == (2, 3)
    finally:
        environment.flags = environment.rounding = 0


def flag_program() -> Function:
    """(flags) -> flags, raised one after another in a loop, mixed with arithmetic."""
    b = Builder("raise_all", [("flags", I64)], result=I64, attributes="strictfp")
    saved = do(b, "float_save")
    emit_effect("float_clear_flags", builder=b)
    left = b.variable(I64, b.flags)
    with b.While(lambda: left.value != 0):
        lowest = left.value & -left.value
        emit_effect("float_raise", lowest, builder=b)
        left.value = left.value ^ lowest
    result = do(b, "float_flags")
    emit_effect("float_restore", saved, builder=b)
    b.Return(result)
    return b.finish()


def test_flags_are_raised_one_by_one() -> None:
    function = flag_program()
    loaded = load(link(compile_object(lower([function]), model=CodeModel.RUNTIME)))
    run = loaded.function("raise_all", ctypes.c_uint64, [ctypes.c_uint64])
    for flags in range(32):
        assert run(flags) == flags
        assert evaluate(function, flags) == flags
    assert environment.flags == 0


def test_an_operation_nobody_uses_still_raises_its_flags() -> None:
    b = Builder("unused", [("a", F64), ("b", F64)], result=I64, attributes="strictfp")
    saved = do(b, "float_save")
    emit_effect("float_clear_flags", builder=b)
    do(b, "fdiv", b.a, b.b)
    do(b, "f64_to_i32", b.a)
    flags = do(b, "float_flags")
    emit_effect("float_restore", saved, builder=b)
    b.Return(flags)
    loaded = load(link(compile_object(lower([b.finish()]), model=CodeModel.RUNTIME)))
    run = loaded.function("unused", ctypes.c_uint64, [ctypes.c_double] * 2)
    assert run(1.0, 0.0) == 8
    assert run(1e20, 1.0) == 16
    assert run(0.5, 0.5) == 1
    assert run(1.0, 1.0) == 0


def test_constants_are_not_folded() -> None:
    b = Builder("constant", result=I64, attributes="strictfp")
    saved = do(b, "float_save")
    results = []
    for mode in (2, 3):
        emit_effect("float_set_rounding", b.constant(I64, mode), builder=b)
        one, three = (b.constant(F64, v) for v in (0x3FF0000000000000, 0x4008000000000000))
        results.append(do(b, "fdiv", one, three).bitcast(I64))
    emit_effect("float_restore", saved, builder=b)
    b.Return(results[1] - results[0])
    function = b.finish()
    loaded = load(link(compile_object(lower([function]), model=CodeModel.RUNTIME)))
    assert loaded.function("constant", ctypes.c_uint64, [])() == 1
    assert evaluate(function) == 1


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("fadd", (F32, F64)),
        ("fadd", (I64, I64)),
        ("fsqrt", (F32, F32)),
        ("fwiden", (F64,)),
        ("fnarrow", (F32,)),
        ("f32_to_i64", (F64,)),
        ("signed_to_f32", (F32,)),
        ("unsigned_to_f64", (I32,)),
        ("float_raise", (I32,)),
        ("float_pattern", (F32,)),
    ],
)
def test_wrong_types_are_refused(name: str, types: tuple[Type, ...]) -> None:
    parameters = [(f"p{number}", type) for number, type in enumerate(types)]
    b = Builder("wrong", parameters)
    with pytest.raises(IrError, match=name):
        emit_effect(name, *(getattr(b, key) for key, _ in parameters), builder=b)


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Whatever a test did, the thread's environment is as before."""
    yield
    assert (environment.flags, environment.rounding) == (0, 0)
