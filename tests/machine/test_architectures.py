"""What a board tells its guest of the processors is what the engine executes."""

from __future__ import annotations

from tandemu.board import RiscvVirt
from tandemu.isa.riscv.instruction_set import RV64GC
from tandemu.machine.architectures import find_architecture, make_board

HINTS = {"zicbop", "zihintpause"}
"""Executed, and not told of: they do nothing here."""


def test_the_device_tree_names_every_extension_of_the_instruction_set() -> None:
    board = make_board(find_architecture("riscv64"), "", 64 << 20, 1)
    assert isinstance(board, RiscvVirt)
    executed = {name.lower() for name in RV64GC.extensions} - {"priv"}
    assert executed - set(board.extensions) == HINTS
