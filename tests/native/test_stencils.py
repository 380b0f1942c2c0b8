"""Stencils: cut out of real objects, packed, patched into memory and run."""

from __future__ import annotations

import ctypes

import pytest

from tandemu.native import (
    FALLS_THROUGH,
    HOLE,
    STENCIL,
    ExecutableMemory,
    HoleKind,
    NativeError,
    StencilTable,
    load,
)
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.extractor import extract
from tandemu.native.linker import link
from tandemu.native.stencils import CODE_ALIGNMENT, CODE_OVERRUN

SYMBOLS = ("RD", "RS1", "IMM", "IMM64", "SHIFT", "NEXT", "TAKEN")
PRELUDE = """
@RD = external global i8, !absolute_symbol !0
@RS1 = external global i8, !absolute_symbol !0
@IMM = external global i8, !absolute_symbol !1
declare preserve_nonecc void @NEXT(ptr, i64)
declare preserve_nonecc void @TAKEN(ptr, i64)
!0 = !{i64 0, i64 65536}
!1 = !{i64 -2147483648, i64 2147483648}
!3 = !{!"branch_weights", i32 1, i32 2000}
"""
ATTRIBUTES = 'nounwind optsize align 1 "frame-pointer"="none"'


def stencil(name: str, body: str) -> str:
    return f"define preserve_nonecc void @{name}(ptr %cpu, i64 %k) {ATTRIBUTES} {{\n{body}\n}}\n"


def register(name: str) -> str:
    return f"getelementptr i8, ptr %cpu, i64 ptrtoint (ptr @{name} to i64)"


NEXT = "musttail call preserve_nonecc void @NEXT(ptr %cpu, i64 {0})\n  ret void"
ADDI = stencil(
    "addi",
    f"""
  %s = {register("RS1")}
  %a = load i64, ptr %s
  %v = add i64 %a, ptrtoint (ptr @IMM to i64)
  %d = {register("RD")}
  store i64 %v, ptr %d
  {NEXT.format("%v")}""",
)
SHIFT = stencil(
    "shift",
    f"""
  %v = call i64 asm "shlq $$SHIFT, $0", "=r,0,~{{flags}}"(i64 %k)
  %d = {register("RD")}
  store i64 %v, ptr %d
  {NEXT.format("%v")}""",
)
LOAD_64 = stencil(
    "li64",
    f"""
  %v = call i64 asm "movabsq $$IMM64, $0", "=r"()
  %d = {register("RD")}
  store i64 %v, ptr %d
  {NEXT.format("%v")}""",
)
BRANCH = stencil(
    "branch",
    f"""
  %s = {register("RS1")}
  %a = load i64, ptr %s
  %c = icmp eq i64 %a, ptrtoint (ptr @IMM to i64)
  br i1 %c, label %yes, label %no, !prof !3
no:
  {NEXT.format("poison")}
yes:
  musttail call preserve_nonecc void @TAKEN(ptr %cpu, i64 poison)
  ret void""",
)
JUMP = stencil("jump", "  " + NEXT.format("%k"))
END = stencil("end", f"  %d = {register('RD')}\n  store i64 %k, ptr %d\n  ret void")
# `preserve_nonecc` functions pop their own arguments: C does not call them, this does.
ENTER = """
define void @enter(ptr %code, ptr %cpu) nounwind {
  call preserve_nonecc void %code(ptr %cpu, i64 0)
  ret void
}
"""
NAMES = ("addi", "shift", "li64", "branch", "jump", "end")


@pytest.fixture(scope="module")
def table() -> StencilTable:
    source = ADDI + SHIFT + LOAD_64 + BRANCH + JUMP + END + PRELUDE
    return extract(compile_object(source, model=CodeModel.STENCIL), NAMES, SYMBOLS)


def test_holes(table: StencilTable) -> None:
    assert table.names == NAMES
    addi = table["addi"]
    assert addi.falls_through
    assert {SYMBOLS[hole.symbol] for hole in addi.holes} == {"RS1", "IMM", "RD"}
    assert HoleKind.ABSOLUTE_32 in {hole.kind for hole in addi.holes}
    assert HoleKind.ABSOLUTE_8 in {hole.kind for hole in table["shift"].holes}
    assert HoleKind.ABSOLUTE_64 in {hole.kind for hole in table["li64"].holes}
    branch = table["branch"]
    assert branch.falls_through
    taken = branch.holes[-1]
    assert (SYMBOLS[taken.symbol], taken.kind, taken.addend) == ("TAKEN", HoleKind.RELATIVE_32, -4)
    assert (table["jump"].code, table["jump"].falls_through) == (b"", True)
    assert not table["end"].falls_through
    assert {SYMBOLS[hole.symbol] for hole in table["end"].holes} == {"RD"}


def test_packed_form_and_storing(table: StencilTable) -> None:
    again = StencilTable.from_bytes(table.to_bytes())
    assert (again.names, again.symbols) == (table.names, table.symbols)
    assert (again.code, again.descriptors) == (table.code, table.descriptors)
    assert len(table.descriptors) == len(NAMES) * STENCIL.size
    used = 0
    for number, name in enumerate(NAMES):
        record = STENCIL.ctype.from_buffer_copy(table.descriptors, number * STENCIL.size)
        whole = table[name]
        assert record.code % CODE_ALIGNMENT == 0
        assert table.code[record.code : record.code + record.size] == whole.code
        assert bool(record.flags & FALLS_THROUGH) == whole.falls_through
        first = number * STENCIL.size + STENCIL.offset("holes")
        for index, hole in enumerate(whole.holes):
            place = first + index * HOLE.size + HOLE.offset("offset")
            assert int.from_bytes(table.descriptors[place : place + 2], "little") == hole.offset
        used = record.code + record.size
    assert len(table.code) >= used + CODE_OVERRUN
    data = table.to_bytes()
    for bad in (b"", data[:-1], data.replace(b"record", b"recorx", 1)):
        with pytest.raises(NativeError, match="not a stored stencil"):
            StencilTable.from_bytes(bad)
    with pytest.raises(NativeError, match="no stencil 'sub'"):
        table["sub"]


def test_copy_and_patch(table: StencilTable) -> None:
    values = dict.fromkeys(SYMBOLS, 0)
    with ExecutableMemory(4096) as memory:
        position = 0

        def put(name: str, **operands: int) -> None:
            nonlocal position
            filled = [{**values, **operands}[symbol] for symbol in SYMBOLS]
            code = table[name].filled(memory.address + position, filled)
            memory.write(position, code)
            position += len(code)

        taken = memory.address + 2048
        put("addi", RS1=8, RD=16, IMM=-1000)
        put("branch", RS1=16, IMM=-1, TAKEN=taken)
        put("addi", RS1=16, RD=16, IMM=3)
        put("shift", RD=24, SHIFT=5)
        put("li64", RD=32, IMM64=0x1122334455667788)
        put("end", RD=40)
        position = 2048
        put("li64", RD=32, IMM64=0xFFFFFFFFFFFFFFFF)
        put("end", RD=48)
        runtime = load(link(compile_object(ENTER, model=CodeModel.RUNTIME)))
        enter = runtime.function("enter", None, [ctypes.c_void_p, ctypes.c_void_p])

        def run(cpu: ctypes.Array[ctypes.c_int64]) -> list[int]:
            enter(memory.address, ctypes.addressof(cpu))
            return list(cpu)

        assert run((ctypes.c_int64 * 8)(0, 5)) == [
            0,
            5,
            -992,
            -992 * 32,
            0x1122334455667788,
            0x1122334455667788,
            0,
            0,
        ]
        assert run((ctypes.c_int64 * 8)(0, 999)) == [0, 999, -1, 0, -1, 0, -1, 0]


def test_values_that_do_not_fit(table: StencilTable) -> None:
    far = [0, 0, 0, 0, 0, 0, 1 << 40]
    with pytest.raises(NativeError, match="does not fit the 32-bit hole"):
        table["branch"].filled(0x1000, far)
    with pytest.raises(NativeError, match="does not fit the 8-bit hole"):
        table["shift"].filled(0, [0, 0, 0, 0, 300, 0, 0])


def test_unusable_stencils_are_named() -> None:
    constant = stencil(
        "constant",
        f"""
  %i = bitcast i64 %k to double
  %f = fmul double %i, 1.7
  %d = {register("RD")}
  store double %f, ptr %d
  {NEXT.format("%k")}""",
    )
    stranger = stencil(
        "stranger", "  musttail call preserve_nonecc void @OTHER(ptr %cpu, i64 %k)\n  ret void"
    )
    long = stencil(
        "long",
        "\n".join(
            f"  %p{n} = getelementptr i8, ptr %cpu, i64 {n * 4096}\n"
            f"  store volatile i64 {n}, ptr %p{n}"
            for n in range(100)
        )
        + f"\n  {NEXT.format('%k')}",
    )
    many = stencil(
        "many",
        "\n".join(
            f"  %p{n} = getelementptr i8, ptr %cpu, i64 ptrtoint (ptr @RD to i64)\n"
            f"  store volatile i8 {n}, ptr %p{n}"
            for n in range(20)
        )
        + f"\n  {NEXT.format('%k')}",
    )
    source = (
        constant
        + stranger
        + long
        + many
        + ADDI
        + PRELUDE
        + "declare preserve_nonecc void @OTHER(ptr, i64)\n"
    )
    names = ("constant", "stranger", "long", "many", "addi", "absent")
    with pytest.raises(NativeError, match="unusable stencils") as caught:
        extract(compile_object(source, model=CodeModel.STENCIL), names, SYMBOLS)
    text = str(caught.value)
    assert "constant: refers to '.LCPI" in text
    assert "stranger: refers to 'OTHER'" in text
    assert "long: " in text
    assert "many: 20 holes: the limit is 16" in text
    assert "absent: not defined" in text
    assert "addi" not in text
