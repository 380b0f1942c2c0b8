"""What instructions read and write, found by tracing their meanings."""

from __future__ import annotations

from tandemu.isa.guest import RESULTS, SOURCES
from tandemu.isa.instruction import Instruction, Kind
from tandemu.isa.riscv.architecture import RISCV32, RISCV64
from tandemu.isa.riscv.instruction_set import RECORDS
from tandemu.isa.riscv.traits import NAMES
from tandemu.isa.tracing import trace_operands
from tests.teaching.instructions import BY_NAME
from tests.teaching.state import TEACHING

HINTS = {"prefetch.i", "prefetch.r", "prefetch.w"}
"""They name registers and do nothing."""
ACCESSING = (Kind.LOAD, Kind.STORE, Kind.ATOMIC)


def fields(record: Instruction, names: tuple[str, ...]) -> set[str]:
    return {name for name in names if record.file(name) is not None}


def test_riscv_does_what_its_fields_say() -> None:
    for isa in (RISCV64, RISCV32):
        for record in isa.guest.instructions.records:
            if record.semantics is None or record.kind is Kind.SYSTEM:
                continue
            traced = trace_operands(isa, record)
            sources = set() if record.name in HINTS else fields(record, SOURCES)
            assert traced.read == sources, record.name
            assert traced.written == fields(record, RESULTS), record.name
            assert not traced.registers_read | traced.registers_written, record.name
            assert traced.accesses == (record.kind in ACCESSING), record.name


def test_traits_are_of_instructions_that_there_are() -> None:
    assert {record.name for record in RECORDS} >= NAMES


def test_what_no_field_names_is_found() -> None:
    flags = {("flag", number) for number in range(4)}
    add = trace_operands(TEACHING, BY_NAME["add"])
    assert (add.read, add.written) == ({"rd", "rs1"}, {"rd"})
    assert (add.registers_read, add.registers_written) == (set(), flags)
    branch = trace_operands(TEACHING, BY_NAME["blt"])
    assert (branch.read, branch.registers_read) == (set(), {("flag", 1), ("flag", 3)})
    assert trace_operands(TEACHING, BY_NAME["mul"]).written == {"rd", "rd2"}
    memory = trace_operands(TEACHING, BY_NAME["addm"])
    assert (memory.accesses, memory.registers_written) == (2, flags)
