"""Records: what contradicts itself is an error, immediates and operands round-trip."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.bits import replace
from tandemu.ir import Builder
from tandemu.isa.decoder import Decoder
from tandemu.isa.errors import IsaError
from tandemu.isa.instruction import Field, ImmediateFormat
from tandemu.isa.riscv import compressed, floating, formats
from tandemu.isa.riscv.compression import CompressedTable
from tandemu.isa.riscv.formats import KEY_LAYOUT, OP, RD, RS1, exact, r_type
from tandemu.isa.riscv.instruction_set import RV32GC, RV64GC, InstructionSet, instruction_set
from tandemu.isa.riscv.privileged import PrivilegedFunctions, privileged_semantics
from tandemu.isa.riscv.registers import register_number

ADD = RV64GC.by_name["add"]
IMMEDIATES = [
    value
    for module in (formats, compressed)
    for value in vars(module).values()
    if isinstance(value, ImmediateFormat)
]


@pytest.mark.parametrize("immediate", IMMEDIATES, ids=lambda one: one.name)
@given(data=st.data())
def test_immediate_round_trip(immediate: ImmediateFormat, data: st.DataObject) -> None:
    word = data.draw(st.integers(0, 0xFFFFFFFF)) & immediate.instruction_mask
    assert immediate.encode(immediate.extract(word)) == word


@pytest.mark.parametrize(
    ("immediate", "value"),
    [
        (formats.I_IMMEDIATE, 2048),
        (formats.I_IMMEDIATE, -2049),
        (formats.B_IMMEDIATE, 3),
        (formats.J_IMMEDIATE, 1 << 20),
        (formats.U_IMMEDIATE, 0x1001),
        (formats.SHIFT_5, 32),
        (formats.SHIFT_5, -1),
    ],
)
def test_immediate_that_does_not_fit(immediate: ImmediateFormat, value: int) -> None:
    with pytest.raises(IsaError, match=f"immediate {value} does not fit format"):
        immediate.encode(value)


def test_branch_immediate_by_the_book() -> None:
    # beq x0,x0,-4 and jal x0,2048 as in the specification's figures.
    assert formats.B_IMMEDIATE.encode(-4) == 0xFE000E80
    assert formats.J_IMMEDIATE.encode(2048) == 1 << 20


def test_bits_that_overlap() -> None:
    with pytest.raises(IsaError, match="add: rx overlaps other bits 0x00000f80"):
        replace(ADD, fields=(*ADD.fields, Field("rx", 7, 5)))


def test_bits_that_belong_to_nothing() -> None:
    with pytest.raises(IsaError, match="bits 0x00000f80 belong to nothing"):
        replace(ADD, fields=ADD.fields[1:])


def test_operands_that_do_not_exist_or_fit() -> None:
    with pytest.raises(IsaError, match="has no operand 'rs3': it has rd, rs1, rs2"):
        ADD.encode({"rs3": 1})
    with pytest.raises(IsaError, match="operand rd = 32: must be 0 to 31"):
        ADD.encode({"rd": 32})
    with pytest.raises(IsaError, match="operand rm = 5: this value is reserved"):
        RV64GC.by_name["fadd.s"].encode({"rm": 5})
    with pytest.raises(IsaError, match="no instruction 'nonsense'"):
        RV64GC.encode("nonsense", {})
    with pytest.raises(IsaError, match="no register 'q1'"):
        register_number("q1")


def test_records_that_overlap_are_an_error_in_either_order() -> None:
    other = r_type("other", OP, 0, 0, extension="I")
    for pair in ((ADD, other), (other, ADD)):
        with pytest.raises(IsaError, match=r"overlap: some words fit both"):
            Decoder(pair, KEY_LAYOUT)


def test_a_name_may_stand_once() -> None:
    with pytest.raises(IsaError, match="add has two records"):
        Decoder((ADD, ADD), KEY_LAYOUT)


def test_specialising_a_stranger() -> None:
    sub = replace(RV64GC.by_name["sub"], specialises="add")
    with pytest.raises(IsaError, match="sub is said to specialise add"):
        Decoder((ADD, sub), KEY_LAYOUT)


def test_a_special_record_wins_in_either_order() -> None:
    clear = exact("clear", ADD.match, extension="I", fields=(RD,), specialises="add")
    for pair in ((ADD, clear), (clear, ADD)):
        decoder = Decoder(pair, KEY_LAYOUT)
        forms = [decoder.form(word) for word in (ADD.match | 5 << 7, ADD.match | 5 << 15)]
        assert [pair[form - 1] for form in forms] == [clear, ADD]


def test_records_that_only_unseen_bits_tell_apart() -> None:
    halves = [
        exact(name, match, extension="I", fields=(RD,)) for name, match in (("a", 51), ("b", 32819))
    ]
    with pytest.raises(IsaError, match="cannot tell a, b apart"):
        Decoder(halves, KEY_LAYOUT)


def test_compressed_records_that_overlap() -> None:
    nop = next(one for one in compressed.INSTRUCTIONS if one.name == "c.nop")
    with pytest.raises(IsaError, match=r"c\.nop2 and c\.nop overlap at 0x0001"):
        CompressedTable((nop, replace(nop, name="c.nop2")), RV64GC.by_name)


def test_unknown_extension() -> None:
    with pytest.raises(IsaError, match="no RV64 with Q"):
        instruction_set(64, ("I", "Q"))


def test_semantics_are_joined_by_name() -> None:
    def meaning(c: object) -> None:
        """Nothing."""

    one = instruction_set(64, ("I",), {"ecall": meaning})
    assert one.by_name["ecall"].semantics is meaning
    assert RV64GC.by_name["add"].file("rd") == "x"
    assert RV64GC.by_name["fmadd.s"].file("rs3") == "f"
    assert RS1.file == "x" and ADD.file("rs3") is None


@pytest.mark.parametrize("one", [RV64GC, RV32GC], ids=["RV64GC", "RV32GC"])
def test_every_instruction_has_a_meaning(one: InstructionSet) -> None:
    function = Builder("nothing").finish()
    functions = PrivilegedFunctions(*[function] * len(fields(PrivilegedFunctions)))
    privileged = privileged_semantics(functions)
    assert [r.name for r in one.joined(privileged).records if r.semantics is None] == []
    # What the privileged architecture attaches, its records do not say themselves; with
    # two names for one thing, one would rot.
    assert all(one.by_name[name].semantics is None for name in privileged)


def test_semantics_for_a_name_that_does_not_exist() -> None:
    with pytest.raises(IsaError, match=r"semantics for fnord: no instruction has that name"):
        RV64GC.joined({"fnord": floating.flw})
