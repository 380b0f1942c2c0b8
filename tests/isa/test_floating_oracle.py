"""F and D against qemu-riscv64: results and flags, all rounding modes, boxed or not."""

from __future__ import annotations

import itertools
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandemu.ir.softfloat import BINARY32, BINARY64
from tandemu.isa.riscv.floating import DYNAMIC, SEMANTICS
from tests.ir.float_operands import INTEGERS, few, many
from tests.isa.floating_harness import SOFTWARE, Outcome, Run, compiled, evaluated

COMPILER, EMULATOR = "riscv64-linux-gnu-gcc", "qemu-riscv64"
pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"needs {COMPILER} and {EMULATOR}",
    ),
]

MODES = ("rne", "rtz", "rdn", "rup", "rmm")
ROUNDLESS = ("fsgnj", "fmin", "fmax", "feq", "flt", "fle", "fclass", "fmv", "fcvt.d.s", "fcvt.d.w")
MNEMONICS = tuple(m for m in SEMANTICS if m not in ("flw", "fld", "fsw", "fsd"))
BOX = 0xFFFFFFFF << 32

# Reads records of (form, frm, fs1, fs2, fs3, rs1), writes (fd, rd, fflags) for each.
PROGRAM = """
.option norelax
.globl _start
_start:
    lla s0, buffer
    lla s1, forms
    li s2, 0
fill:
    li a0, 0
    add a1, s0, s2
    li a2, 48
    sub a2, a2, s2
    li a7, 63
    ecall
    blez a0, end
    add s2, s2, a0
    li t0, 48
    blt s2, t0, fill
    li s2, 0
    ld t0, 0(s0)
    slli t0, t0, 3
    add t0, t0, s1
    ld t0, 0(t0)
    ld t1, 8(s0)
    fsrm t1
    fsflags zero
    fld fa1, 16(s0)
    fld fa2, 24(s0)
    fld fa3, 32(s0)
    ld a1, 40(s0)
    fmv.d.x fa0, zero
    li a0, 0
    jalr t0
    frflags t1
    fsd fa0, 48(s0)
    sd a0, 56(s0)
    sd t1, 64(s0)
    li a0, 1
    addi a1, s0, 48
    li a2, 24
    li a7, 64
    ecall
    j fill
end:
    li a0, 0
    li a7, 93
    ecall
.data
buffer: .zero 128
"""


def assembly(mnemonic: str, rm: int) -> str:
    """The instruction from the argument registers to fa0 or a0."""
    name, *kinds = mnemonic.split(".")
    tail = "" if rm == DYNAMIC else f", {MODES[rm]}"
    if name == "fmv":
        return f"{mnemonic} a0, fa1" if kinds[0] == "x" else f"{mnemonic} fa0, a1"
    if name == "fcvt":
        to = "fa0" if kinds[0] in "sd" else "a0"
        source = "fa1" if kinds[1] in "sd" else "a1"
        exact = mnemonic in ("fcvt.d.s", "fcvt.d.w", "fcvt.d.wu")
        return f"{mnemonic} {to}, {source}{'' if exact else tail}"
    if name == "fclass":
        return f"{mnemonic} a0, fa1"
    if name in ("feq", "flt", "fle"):
        return f"{mnemonic} a0, fa1, fa2"
    if name in ("fsgnj", "fsgnjn", "fsgnjx", "fmin", "fmax"):
        return f"{mnemonic} fa0, fa1, fa2"
    operands = {"fsqrt": "fa1", "fmadd": "fa1, fa2, fa3"}.get(name, "fa1, fa2")
    if name in ("fmsub", "fnmsub", "fnmadd"):
        operands = "fa1, fa2, fa3"
    return f"{mnemonic} fa0, {operands}{tail}"


FORMS = [(m, rm) for m in MNEMONICS for rm in (DYNAMIC, 0, 1, 2, 3, 4)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oracle")
    table, bodies = [".align 3", "forms:"], [".text"]
    for number, (mnemonic, rm) in enumerate(FORMS):
        table.append(f".dword form{number}")
        bodies.append(f"form{number}: {assembly(mnemonic, rm)}\n    ret")
    source, binary = folder / "oracle.s", folder / "oracle"
    source.write_text("\n".join([".text", PROGRAM, *table, *bodies, ""]))
    command = [COMPILER, "-nostdlib", "-static", "-march=rv64gc", "-o", binary, source]
    subprocess.run(command, check=True, timeout=60)
    return binary


Vector = tuple[int, int, int, int, int]
"""frm, fs1, fs2, fs3, rs1."""


def ask(program: Path, form: tuple[str, int], vectors: list[Vector]) -> Iterator[Outcome]:
    number = FORMS.index(form)
    data = b"".join(struct.pack("<6Q", number, *vector) for vector in vectors)
    done = subprocess.run(
        [EMULATOR, program], input=data, capture_output=True, check=True, timeout=120
    )
    assert len(done.stdout) == 24 * len(vectors)
    return (Outcome(*fields) for fields in struct.iter_unpack("<3Q", done.stdout))


def operands(mnemonic: str) -> list[tuple[int, int, int, int]]:
    """fs1, fs2, fs3, rs1 to try."""
    name, *kinds = mnemonic.split(".")
    source = kinds[-1]
    if source in ("w", "wu", "l", "lu") or mnemonic in ("fmv.w.x", "fmv.d.x"):
        return [(0, 0, 0, value) for value in INTEGERS]
    single = source in ("s", "w") or mnemonic == "fmv.x.w"
    f = BINARY32 if single else BINARY64
    unboxed = [0x3F800000, BOX - (1 << 32) | 0x3F800000, 1 << 63] if single else []

    def registers(patterns: tuple[int, ...]) -> list[int]:
        return [BOX | p if single else p for p in patterns] + unboxed

    if name in ("fsqrt", "fclass", "fcvt", "fmv"):
        return [(a, 0, 0, 0) for a in registers(many(f))]
    if name in ("fmadd", "fmsub", "fnmsub", "fnmadd"):
        source_of_chance = random.Random(mnemonic)
        triples = list(itertools.product(registers(few(f)), repeat=3))
        return [(*t, 0) for t in source_of_chance.sample(triples, 700)]
    return [(a, b, 0, 0) for a, b in itertools.product(registers(few(f)), repeat=2)]


def compare(run: Run, form: tuple[str, int], rm: int, pairs: list[tuple[Vector, Outcome]]) -> None:
    for (frm, *registers), expected in pairs:
        got = run(*registers[:3], rs1=registers[3], frm=frm, rm=rm)
        if got.left == SOFTWARE:
            assert (frm if rm == DYNAMIC else rm) == 4
            continue
        given = f"{assembly(*form)} frm={frm} of {[hex(r) for r in registers]}"
        assert got == expected, f"{given}: {got}, must be {expected}"


@pytest.mark.parametrize("mnemonic", MNEMONICS)
def test_like_qemu(program: Path, mnemonic: str) -> None:
    given = operands(mnemonic)
    native = compiled([(mnemonic, rm) for rm in (DYNAMIC, 1, None)])
    python = evaluated(mnemonic)
    modes = (0,) if mnemonic.startswith(ROUNDLESS) else range(5)
    dynamic = [(frm, *registers) for frm in modes for registers in given]
    pairs = list(zip(dynamic, ask(program, (mnemonic, DYNAMIC), dynamic), strict=True))
    ambient = [pair for pair in pairs if pair[0][0] < 4]
    compare(native[mnemonic, DYNAMIC], (mnemonic, DYNAMIC), DYNAMIC, ambient)
    compare(native[mnemonic, None], (mnemonic, DYNAMIC), DYNAMIC, pairs)
    compare(python, (mnemonic, DYNAMIC), DYNAMIC, pairs[:: max(1, len(pairs) // 800)])
    if len(modes) == 1:
        return
    chance = random.Random(1)
    some = chance.sample(given, min(60, len(given)))
    for rm in range(5):
        # The mode in force is another: it must be put aside, and back.
        static = [((rm + 2) % 4, *registers) for registers in some]
        pairs = list(zip(static, ask(program, (mnemonic, rm), static), strict=True))
        compare(python, (mnemonic, rm), rm, pairs)
        compare(native[mnemonic, None], (mnemonic, rm), rm, pairs)
        if rm == 1:
            compare(native[mnemonic, 1], (mnemonic, rm), rm, pairs)
