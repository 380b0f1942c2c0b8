"""What the instructions of F and D do: by hand, and evaluated against compiled."""

from __future__ import annotations

import ctypes
import math
import platform
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandemu.ir import I64, Constant, I
from tandemu.ir.softfloat import BINARY32, BINARY64
from tandemu.isa.riscv import double, single
from tandemu.isa.riscv.floating import DYNAMIC, SEMANTICS
from tests.ir.float_operands import many
from tests.isa.floating_harness import (
    ILLEGAL,
    SOFTWARE,
    Outcome,
    Run,
    Tracing,
    compiled,
    evaluated,
)

NX, UF, OF, DZ, NV = (1 << bit for bit in range(5))
BOX = 0xFFFFFFFF << 32
ONE_S, NAN_S, SIGNALLING_S, INFINITY_S = 0x3F800000, 0x7FC00000, 0x7F800001, 0x7F800000
ONE, TWO, NAN, SIGNALLING = 0x3FF << 52, 1 << 62, 0x7FF8 << 48, 0x7FF << 52 | 1
INFINITY, MINUS = 0x7FF << 52, 1 << 63
COMPUTING = [m for m in SEMANTICS if m not in ("flw", "fld", "fsw", "fsd")]

only_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="machine code is generated for x86-64 only"
)


def test_every_record_has_semantics_and_every_semantics_a_record() -> None:
    records = {record.name for record in (*single.INSTRUCTIONS, *double.INSTRUCTIONS)}
    assert records == set(SEMANTICS)


def d(*values: int, **fields: int) -> tuple[tuple[int, ...], Outcome]:
    return values, Outcome(**fields)


def s(*values: int, **fields: int) -> tuple[tuple[int, ...], Outcome]:
    if "fd" in fields:
        fields["fd"] |= BOX
    return tuple(BOX | value for value in values), Outcome(**fields)


@pytest.mark.parametrize(
    ("mnemonic", "case"),
    [
        ("fadd.d", d(ONE, ONE, fd=TWO)),
        ("fadd.d", d(NAN | 7, ONE, fd=NAN)),
        ("fadd.d", d(SIGNALLING, ONE, fd=NAN, fflags=NV)),
        ("fsub.s", s(INFINITY_S, INFINITY_S, fd=NAN_S, fflags=NV)),
        ("fdiv.s", s(ONE_S, 0x40400000, fd=0x3EAAAAAB, fflags=NX)),
        ("fdiv.d", d(ONE, 0, fd=INFINITY, fflags=DZ)),
        ("fsqrt.s", s(0x40800000, fd=0x40000000)),
        # A single that is not boxed reads as the canonical NaN.
        ("fadd.s", ((ONE_S, BOX | ONE_S), Outcome(fd=BOX | NAN_S))),
        ("fsgnj.s", ((BOX | ONE_S, MINUS), Outcome(fd=BOX | ONE_S))),
        ("fmv.x.w", ((0x80000000,), Outcome(rd=0xFFFFFFFF80000000))),
        ("fmadd.d", d(INFINITY, 0, NAN, fd=NAN, fflags=NV)),
        ("fmadd.d", d(TWO, TWO, ONE, fd=0x4014 << 48)),
        ("fmsub.d", d(TWO, TWO, ONE, fd=0x4008 << 48)),
        ("fnmsub.d", d(TWO, TWO, ONE, fd=0xC008 << 48)),
        ("fnmadd.d", d(TWO, TWO, ONE, fd=0xC014 << 48)),
        ("fmin.d", d(0, MINUS, fd=MINUS)),
        ("fmax.d", d(MINUS, 0, fd=0)),
        ("fmin.d", d(SIGNALLING, ONE, fd=ONE, fflags=NV)),
        ("fmax.d", d(ONE, NAN | 3, fd=ONE)),
        ("fmax.d", d(NAN | 3, NAN | 5, fd=NAN)),
        ("fsgnjn.d", d(ONE, ONE, fd=ONE | MINUS)),
        ("fsgnjx.d", d(ONE | MINUS, MINUS, fd=ONE)),
        ("feq.d", d(NAN, ONE, rd=0)),
        ("flt.d", d(NAN, ONE, rd=0, fflags=NV)),
        ("fle.d", d(0, MINUS, rd=1)),
        ("fclass.d", d(INFINITY | MINUS, rd=1 << 0)),
        ("fclass.d", d(ONE | MINUS, rd=1 << 1)),
        ("fclass.d", d(1 | MINUS, rd=1 << 2)),
        ("fclass.d", d(MINUS, rd=1 << 3)),
        ("fclass.d", d(0, rd=1 << 4)),
        ("fclass.d", d(1, rd=1 << 5)),
        ("fclass.d", d(ONE, rd=1 << 6)),
        ("fclass.d", d(INFINITY, rd=1 << 7)),
        ("fclass.d", d(SIGNALLING, rd=1 << 8)),
        ("fclass.d", d(NAN, rd=1 << 9)),
        ("fclass.s", ((ONE,), Outcome(rd=1 << 9))),
        ("fcvt.w.d", d(NAN | MINUS, rd=0x7FFFFFFF, fflags=NV)),
        ("fcvt.w.d", d(INFINITY | MINUS, rd=0xFFFFFFFF80000000, fflags=NV)),
        ("fcvt.wu.d", d(INFINITY, rd=0xFFFFFFFFFFFFFFFF, fflags=NV)),
        ("fcvt.wu.d", d(0xBFE0 << 48, rd=0, fflags=NX)),  # -0.5
        ("fcvt.wu.d", d(0xBFE8 << 48, rd=0, fflags=NV)),  # -0.75 would be -1
        ("fcvt.lu.d", d(0x43E0000000000001, rd=0x8000000000000800)),
        ("fcvt.lu.d", d(0x43F0 << 48, rd=0xFFFFFFFFFFFFFFFF, fflags=NV)),
        ("fcvt.l.s", s(0xDF000000, rd=1 << 63)),  # -2**63
        ("fcvt.s.d", d(0x3FF0000000000001, fd=BOX | ONE_S, fflags=NX)),
        ("fcvt.d.s", ((BOX | SIGNALLING_S,), Outcome(fd=NAN, fflags=NV))),
    ],
)
def test_by_hand(mnemonic: str, case: tuple[tuple[int, ...], Outcome]) -> None:
    operands, expected = case
    assert evaluated(mnemonic)(*operands) == expected


@pytest.fixture(scope="module")
def native() -> dict[tuple[str, int | None], Run]:
    return compiled([(m, rm) for m in COMPUTING for rm in (DYNAMIC, 1, None)])


PATTERNS = [BOX | p for p in many(BINARY32)] + list(many(BINARY64)) + [ONE_S]
REGISTER = st.integers(0, 2**64 - 1) | st.sampled_from(PATTERNS)


@only_x86
@pytest.mark.parametrize("mnemonic", COMPUTING)
@settings(max_examples=20)
@given(a=REGISTER, b=REGISTER, c=REGISTER, frm=st.integers(0, 7), rm=st.integers(0, 7))
def test_compiled_like_evaluated(
    *,
    native: dict[tuple[str, int | None], Run],
    mnemonic: str,
    a: int,
    b: int,
    c: int,
    frm: int,
    rm: int,
) -> None:
    expected = evaluated(mnemonic)(a, b, c, rs1=a, frm=frm, rm=rm)
    got = native[mnemonic, None](a, b, c, rs1=a, frm=frm, rm=rm)
    if got.left == SOFTWARE:
        assert (frm if rm == DYNAMIC else rm) == 4
    else:
        assert got == expected
    if frm < 4:
        expected = evaluated(mnemonic)(a, b, c, rs1=a, frm=frm, rm=DYNAMIC)
        assert native[mnemonic, DYNAMIC](a, b, c, rs1=a, frm=frm) == expected
        if mnemonic.startswith("fcvt"):
            expected = evaluated(mnemonic)(a, b, c, rs1=a, frm=frm, rm=1)
            assert native[mnemonic, 1](a, b, c, rs1=a, frm=frm) == expected


ROUNDING = ["fadd.d", "fmadd.s", "fsqrt.d", "fcvt.w.d", "fcvt.lu.s", "fcvt.s.d", "fcvt.d.l"]


@pytest.mark.parametrize("mnemonic", [*ROUNDING, "fcvt.d.s", "fcvt.d.w"])
@pytest.mark.parametrize(("rm", "frm"), [(5, 0), (6, 0), (7, 5), (7, 6), (7, 7)])
def test_reserved_modes_are_illegal(mnemonic: str, rm: int, frm: int) -> None:
    assert evaluated(mnemonic)(frm=frm, rm=rm) == Outcome(left=ILLEGAL)
    if rm != DYNAMIC:
        assert evaluated(mnemonic, rm)(frm=frm) == Outcome(left=ILLEGAL)


@only_x86
@pytest.mark.parametrize("mnemonic", ROUNDING)
def test_machine_code_leaves_ties_away_to_software(mnemonic: str) -> None:
    runs = compiled([(mnemonic, None), (mnemonic, 4)])
    assert runs[mnemonic, None](frm=4) == Outcome(left=SOFTWARE)
    assert runs[mnemonic, None](frm=0, rm=4) == Outcome(left=SOFTWARE)
    assert runs[mnemonic, 4](frm=0) == Outcome(left=SOFTWARE)


TO_INTEGERS = [f"fcvt.{to}.{of}" for to in ("w", "wu", "l", "lu") for of in ("s", "d")]


@only_x86
@pytest.mark.parametrize("mnemonic", TO_INTEGERS)
def test_the_interpreter_rounds_ties_away_itself(mnemonic: str) -> None:
    native = compiled([(mnemonic, None)], interprets=True)[mnemonic, None]
    python = evaluated(mnemonic)
    single = mnemonic.endswith(".s")
    values = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 1e5 + 0.5, 2.0**31 - 0.5, 2.0**31, 2.0**32 - 0.5]
    values += [2.0**32, 2.0**52 + 0.5, 2.0**53 + 1, 2.0**63, 2.0**64, 1e-320, math.inf, math.nan]
    for value in (*values, *(-value for value in values)):
        if single:
            operand = BOX | int.from_bytes(struct.pack("<f", value), "little")
        else:
            operand = int.from_bytes(struct.pack("<d", value), "little")
        for modes in ({"frm": 4}, {"frm": 0, "rm": 4}):
            assert native(operand, **modes) == python(operand, **modes), value


@pytest.mark.parametrize(("rm", "expected"), [(0, 2), (1, 2), (2, 2), (3, 3), (4, 3)])
def test_the_mode_of_the_instruction_counts(rm: int, expected: int) -> None:
    two_and_a_half = 0x4004 << 48
    for run in (evaluated("fcvt.l.d", rm), evaluated("fcvt.l.d")):
        for frm in range(4):
            got = run(two_and_a_half, frm=frm, rm=rm)
            assert got == Outcome(rd=expected, fflags=NX)


@pytest.mark.parametrize(
    ("mnemonic", "operand", "expected"),
    [
        ("fmv.x.w", BOX | 0x80000000, 0x80000000),
        ("fcvt.w.d", ONE | MINUS, 0xFFFFFFFF),
        ("fcvt.wu.d", INFINITY, 0xFFFFFFFF),
        ("feq.d", 0, 1),
        ("fclass.s", BOX | ONE_S, 1 << 6),
    ],
)
def test_32_bit_registers(mnemonic: str, operand: int, expected: int) -> None:
    assert evaluated(mnemonic, xlen=32)(operand).rd == expected


def test_memory() -> None:
    memory = (ctypes.c_uint64 * 2)(0, 0x1122334480000000)
    address = ctypes.addressof(memory)  # the immediate is 8
    assert evaluated("fld")(rs1=address) == Outcome(fd=0x1122334480000000)
    assert evaluated("flw")(rs1=address) == Outcome(fd=BOX | 0x80000000)
    evaluated("fsw")(fs2=0x99887766_55443322, rs1=address)
    assert memory[1] == 0x11223344_55443322
    evaluated("fsd")(fs2=0x99887766_55443322, rs1=address)
    assert memory[1] == 0x99887766_55443322


class _Known(Tracing):
    """Registers whose contents are known when the instruction is traced."""

    fs1 = property(lambda self: Constant(I64, ONE))
    fs2 = property(lambda self: Constant(I64, NAN))
    fs3 = property(lambda self: Constant(I64, BOX | ONE_S))
    rs1 = property(lambda self: Constant(I(self.xlen), 5))


@pytest.mark.parametrize("mnemonic", COMPUTING)
def test_known_operands_do(mnemonic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluated(mnemonic)(ONE, NAN, BOX | ONE_S, rs1=5)
    monkeypatch.setattr("tests.isa.floating_harness.Tracing", _Known)
    evaluated.cache_clear()
    assert evaluated(mnemonic)() == expected
    evaluated.cache_clear()
