"""The teaching architecture: a guest that is unlike RISC-V where a translator could lean on it.

Instructions of one to five bytes at any address; sixteen registers of 64 bits, none of which is
always zero; four condition flags; a load with base + index << scale; an instruction that loads and
stores; one with two results; traps that go to a table of handlers; code that is what was written
last, without a fence. Two levels: kernel (physical addresses) and user (one table of pages).

It is for the tests alone, and shows that the translator has no line that names a guest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tandemu.bits import U64, Array, Layout, Scalar
from tandemu.isa.architecture import Faults, Isa, RegisterFile, State

REGISTERS = 16
LINK = 14
"""The register that calls write by convention."""
ZERO, NEGATIVE, CARRY, OVERFLOW = range(4)
"""The flags, each 0 or 1."""
USER, KERNEL = 0, 1
"""Levels, and contexts of code."""
(
    CALL,
    ILLEGAL,
    LOAD_FAULT,
    STORE_FAULT,
    FETCH_FAULT,
    LOAD_BUS,
    STORE_BUS,
    MISALIGNED,
    INTERRUPT,
) = range(9)
"""Causes of traps."""
HANDLER_BYTES = 16
"""From one handler of the table at `vector` to the next."""
TIMER_INPUT = 1
PAGES = 4096
"""Entries of the table of pages."""
VALID, WRITABLE, EXECUTABLE = 1, 2, 4
NEVER = (1 << 64) - 1

SYSTEM_REGISTERS = (
    *("vector", "table", "cause", "value", "back", "back_level", "back_masked"),
    *("enable", "masked", "scratch", "deadline"),
)
"""By the number that `getr` and `setr` know them by."""
_WORDS = (
    *("pc", "level", *SYSTEM_REGISTERS, "inputs", "back_flags"),
    *("effects", "fence_kind", "fence_address"),
    *("walk_physical", "walk_size", "walk_leaf", "walk_permissions"),
)


def fields() -> dict[str, Scalar | Array | Layout]:
    """The fields of a processor's structure."""
    return {"r": U64[REGISTERS], "flag": U64[4], **{name: U64 for name in _WORDS}}


def _revision() -> str:
    here = Path(__file__).resolve().parent
    text = b"".join(
        (here / f"{name}.py").read_bytes() for name in ("guest", "instructions", "state")
    )
    return hashlib.sha256(text).hexdigest()


TEACHING = Isa(
    name="teaching",
    state=State(
        name="teaching",
        address_bits=64,
        fields=fields,
        files=(RegisterFile("r", REGISTERS, 64), RegisterFile("flag", 4, 64)),
        pinned=(0, 1, 2, 3),
        alignment=1,
        longest=5,
        faults=Faults(
            load=LOAD_BUS,
            store=STORE_BUS,
            load_misaligned=MISALIGNED,
            store_misaligned=MISALIGNED,
            fetch=FETCH_FAULT,
            illegal=ILLEGAL,
        ),
        contexts=2,
        unpaged=frozenset({KERNEL}),
        code_visible_at_once=True,
    ),
    revision=_revision(),
    control_module="tests.teaching.control",
    guest_module="tests.teaching.guest",
)
