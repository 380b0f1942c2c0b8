"""Operations whose meaning is the host's."""

from __future__ import annotations

import errno
import os

from tandemu.ir import I64
from tandemu.ir.operations import SYSTEM_CALL_ARGUMENTS, TABLE

GETPID, CLOSE = 39, 3


def test_a_system_call_gives_a_result_or_an_error_number() -> None:
    row = TABLE["system_call"]
    types = (I64,) * (1 + SYSTEM_CALL_ARGUMENTS)
    nothing = (0,) * (SYSTEM_CALL_ARGUMENTS - 1)
    assert row.signature(types, ()) == I64
    assert row.meaning(types, (), GETPID, 0, *nothing) == os.getpid()
    assert row.meaning(types, (), CLOSE, 1 << 20, *nothing) == (1 << 64) - errno.EBADF
