"""Every A64 instruction with random operands, as unicorn has it."""

from __future__ import annotations

import random
from functools import cache

import pytest

from tandemu.isa.arm.instruction_set import A64
from tandemu.isa.instruction import Instruction, Kind
from tests.isa.arm.bed import DATA_SIZE, Bed, Outcome, random_registers, random_word
from tests.long import LONG

_TIMES = 200 if LONG else 3
_APART = ("stxr", "stlxr", "stxp", "stlxp", "dc_", "ic_", "mrs", "msr")
"""What asks for more than registers and memory: these have tests of their own."""
_ORACLE_FAULTS = frozenset(f"lds{name}.{size}" for name in ("max", "min") for size in "bhw")
"""Of narrow signed values unicorn's atomic minimum and maximum are those of unsigned ones."""


def _is_alone(record: Instruction) -> bool:
    return (
        record.kind in (Kind.STRAIGHT, Kind.LOAD, Kind.STORE, Kind.ATOMIC)
        and not record.name.startswith(_APART)
        and "_literal" not in record.name
        and record.name not in _ORACLE_FAULTS
    )


def _is_predictable(record: Instruction, operands: dict[str, int]) -> bool:
    """Whether the manual says what happens (K1.2 has the cases)."""
    base, index = operands.get("rs1"), operands.get("rs2")
    targets = {operands.get(name) for name in ("rd", "rs3", "rd2")}
    if record.access and "_" in record.name and index is not None and index == base:
        return False
    if record.name.endswith(("_post", "_pre")) and base in targets:
        return False
    return not (record.name.startswith("ld") and operands.get("rd") == operands.get("rd2", -1))


@cache
def bed() -> Bed:
    return Bed()


_RECORDS = [record for record in A64.records if _is_alone(record)]
_GROUPS = sorted({record.extension for record in _RECORDS})


@pytest.mark.parametrize("extension", _GROUPS)
def test_instructions_do_what_the_oracle_does(extension: str) -> None:
    pytest.importorskip("unicorn")
    r = random.Random(7)
    data = r.randbytes(DATA_SIZE)
    for record in _RECORDS:
        if record.extension != extension:
            continue
        for _ in range(_TIMES):
            word = random_word(r, record)
            decoded = A64.decode(word.to_bytes(4, "little"))
            if decoded is None or not _is_predictable(decoded.instruction, decoded.operands):
                continue
            given = random_registers(r, decoded.instruction, decoded.operands)
            pc = bed().place([word])
            expected = bed().theirs(pc, 4, given, data)
            found: Outcome = bed().ours(pc, given, data)
            assert found == expected, f"{decoded.instruction.name} {word:#x} {given}"
