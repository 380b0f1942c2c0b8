"""What a debugger asks of generated code: breakpoints, and memory that is watched.

Both are short tables of the structure that the processors share. A breakpoint is looked for when
code is translated: one where there is none costs nothing. Pages with watched bytes have no TLB
entry for the accesses that are watched, so only those take the slow way, which looks closer.
Addresses are the guest's own, virtual ones, in whatever address space.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I64, PTR, Builder, Constant, Function, Value
from tandemu.jit.shared.layout import (
    EXIT_WATCH,
    MACHINE,
    WATCHES_READ,
    WATCHES_WRITE,
)
from tandemu.memory.layout import PAGE_SIZE

FAR = 1 << 63
"""The distance to the next breakpoint if there is none."""


def _machine(b: Builder, cpu: Any) -> Any:
    return b.struct(MACHINE, cpu.machine.to_pointer())


def build_next_breakpoint(layout: Layout) -> Function:
    """next_breakpoint(cpu, start) -> bytes from *start* to the first breakpoint from there on."""
    b = Builder("next_breakpoint", [("cpu", PTR), ("start", I64)], result=I64, exported=False)
    machine = _machine(b, b.struct(layout, b.cpu))
    found, index = b.variable(I64, FAR), b.variable(I64, 0)
    with b.While(lambda: index.value.ult(machine.breakpoint_count)):
        distance = machine.breakpoints[index.value] - b.start
        found.value = b.select(distance.ult(found.value), distance, found.value)
        index.value = index.value + 1
    b.Return(found.value)
    return b.finish()


def build_watched_accesses(layout: Layout) -> Function:
    """watched_accesses(cpu, page) -> `WATCHES_READ`, `WATCHES_WRITE`: what is watched on *page*."""
    b = Builder("watched_accesses", [("cpu", PTR), ("page", I64)], result=I64, exported=False)
    machine = _machine(b, b.struct(layout, b.cpu))
    found, index = b.variable(I64, 0), b.variable(I64, 0)
    with b.While(lambda: index.value.ult(machine.watch_count)):
        one = machine.watches[index.value]
        here = b.page.ule(one.last) & (b.page + (PAGE_SIZE - 1)).uge(one.first)
        with b.If(here):
            found.value = found.value | one.accesses
        index.value = index.value + 1
    b.Return(found.value)
    return b.finish()


def build_meets_watch(layout: Layout) -> Function:
    """meets_watch(cpu, address, size, accesses) -> 1 if the access is watched: leave, then.

    0 as well for the instruction that is carried out after such an exit (`watch_passed`).
    """
    parameters = [("cpu", PTR), ("address", I64), ("size", I64), ("accesses", I64)]
    b = Builder("meets_watch", parameters, result=I64, exported=False)
    cpu = b.struct(layout, b.cpu)
    machine = _machine(b, cpu)
    with b.If(cpu.watch_passed != 0):
        b.Return(0)
    index = b.variable(I64, 0)
    with b.While(lambda: index.value.ult(machine.watch_count)):
        one = machine.watches[index.value]
        touches = b.address.ule(one.last) & (b.address + b.size - 1).uge(one.first)
        with b.If(touches & ((one.accesses & b.accesses) != 0)):
            cpu.exit_kind = EXIT_WATCH
            cpu.exit_address, cpu.exit_size = b.address, b.size
            cpu.exit_value = b.accesses
            b.Return(1)
        index.value = index.value + 1
    b.Return(0)
    return b.finish()


class WatchRoutines:
    """The two questions about watched memory, asked only while something is watched."""

    def __init__(self, layout: Layout) -> None:
        self._accesses = build_watched_accesses(layout)
        self._meets = build_meets_watch(layout)

    def on_page(self, b: Builder, cpu: Any, page: Value) -> Value:
        """What is watched on *page*: `WATCHES_READ`, `WATCHES_WRITE`."""
        found = b.variable(I64, 0)
        with b.If(_machine(b, cpu).watch_count != 0, likely=False):
            found.value = b.call(self._accesses, b.cpu, page)
        return found.value

    def leave_if_met(
        self, b: Builder, cpu: Any, address: Value, size: Value, accesses: Value | int, status: int
    ) -> None:
        """Return *status* if this access is watched."""
        kinds = Constant(I64, accesses) if isinstance(accesses, int) else accesses
        with b.If(_machine(b, cpu).watch_count != 0, likely=False):
            with b.If(b.call(self._meets, b.cpu, address, size, kinds) != 0):
                b.Return(status)


def access_bits(b: Builder, write: Value) -> Value:
    """The bit of a single access by whether it is a write."""
    return b.select(write, Constant(I64, WATCHES_WRITE), Constant(I64, WATCHES_READ))
