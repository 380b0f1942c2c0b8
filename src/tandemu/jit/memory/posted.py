"""A port whose writes are kept and whose status is at hand, both without an exit.

Python switches it in place while vCPUs use it (`jit.machine.posted`).
"""

from __future__ import annotations

from typing import Any

from tandemu.ir import I8, I64, Builder, Constant, Value
from tandemu.jit.shared.layout import POSTED_BYTES

_LOOKS = 8
"""So many looks at the status in a row are a guest that waits for something else than room."""


def _at(b: Builder, port: Any, field: str, address: Value, size: Value) -> Value:
    return (b.load(port.pointer(field), I64, atomic=True) == address) & (size == 1)


def emit_post(b: Builder, port: Any, address: Value, size: Value, value: Value) -> Value:
    """Keep a write of *size* bytes at guest-physical *address*; 1-bit, whether it is kept."""
    posted = b.variable(I64, 0)
    with b.If(_at(b, port, "writes", address, size)):
        lock = port.pointer("lock")
        with b.While(lambda: b.compare_exchange(lock, Constant(I64, 0), Constant(I64, 1)) != 0):
            pass
        last = port.last
        room = last - b.load(port.pointer("first"), I64, atomic=True) != POSTED_BYTES
        with b.If(room):
            b.store(port.kept.pointer(last & (POSTED_BYTES - 1)), value.trunc(I8))
            # The number last: who takes bytes does not take the lock.
            b.store(port.pointer("last"), last + 1, atomic=True)
            port.looks = 0
            posted.value = 1
        b.store(lock, Constant(I64, 0), atomic=True)
    return posted.value != 0


def emit_status(b: Builder, port: Any, address: Value, size: Value) -> Value:
    """1-bit, whether `POSTED_PORT`'s *value* answers a read of *size* bytes at *address*."""
    known = b.variable(I64, 0)
    with b.If(_at(b, port, "status", address, size)):
        looks = port.looks
        with b.If(looks.ult(_LOOKS)):
            port.looks = looks + 1
            known.value = 1
    return known.value != 0
