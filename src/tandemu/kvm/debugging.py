"""Breakpoints and watched memory by the processor's debug registers (KVM_SET_GUEST_DEBUG).

Intel SDM, volume 3, "Debug Registers": four addresses, each for an instruction or for 1, 2, 4 or 8
aligned bytes that are written, or read or written. While a debugger uses them the guest's own do
not count; what it writes there it reads back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tandemu.accel import BreakpointHit, Exit, Stopped, Watch, WatchpointHit
from tandemu.kvm.errors import KvmError

REGISTERS = 4
_EXECUTE, _WRITE, _ACCESS = 0, 1, 3
_LENGTHS = {1: 0, 2: 1, 8: 2, 4: 3}
_FIXED_ONE = 1 << 10
_DEBUG_EXCEPTION = 1


class DebugRegister(NamedTuple):
    """One address and what counts there."""

    address: int
    kind: int
    size: int = 1


class DebugRegisters:
    """What the debug registers of all processors of a VM hold."""

    def __init__(self) -> None:
        self._breakpoints: tuple[DebugRegister, ...] = ()
        self._watches: tuple[DebugRegister, ...] = ()

    def set_breakpoints(self, addresses: Collection[int]) -> bool:
        """Use registers for *addresses*; whether that changes anything. `KvmError`: too many."""
        wanted = tuple(DebugRegister(address, _EXECUTE) for address in sorted(set(addresses)))
        self._check(wanted, self._watches)
        changed = wanted != self._breakpoints
        self._breakpoints = wanted
        return changed

    def set_watches(self, watches: Sequence[Watch]) -> bool:
        """Use registers for *watches*; the same."""
        wanted: list[DebugRegister] = []
        for watch in watches:
            if not watch.writes:
                raise KvmError(
                    "an x86 processor cannot watch for reads alone: watch for accesses (awatch)"
                )
            if watch.last - watch.first >= REGISTERS * 8:
                raise self._too_many()
            wanted += _pieces(watch)
        self._check(self._breakpoints, tuple(wanted))
        changed = tuple(wanted) != self._watches
        self._watches = tuple(wanted)
        return changed

    def _check(self, some: tuple[DebugRegister, ...], more: tuple[DebugRegister, ...]) -> None:
        if len(some) + len(more) > REGISTERS:
            raise self._too_many()

    @staticmethod
    def _too_many() -> KvmError:
        return KvmError(
            f"the processor has {REGISTERS} debug registers for breakpoints and watchpoints "
            "together, each for at most 8 bytes: delete some"
        )

    @property
    def all(self) -> tuple[DebugRegister, ...]:
        """What is in use, by the number of the register."""
        return (*self._breakpoints, *self._watches)

    @property
    def values(self) -> list[int]:
        """The registers as KVM takes them: DR0 to DR7."""
        values = [0] * 8
        control = _FIXED_ONE
        for number, one in enumerate(self.all):
            values[number] = one.address
            control |= 2 << 2 * number
            control |= (one.kind | _LENGTHS[one.size] << 2) << (16 + 4 * number)
        values[7] = control
        return values

    def exit(self, exception: int, pc: int, status: int) -> Exit:
        """What a debug exit with DR6 = *status* means."""
        if exception == _DEBUG_EXCEPTION:
            for number, one in enumerate(self.all):
                if status >> number & 1:
                    if one.kind == _EXECUTE:
                        return BreakpointHit(pc)
                    reads = one.kind == _ACCESS
                    return WatchpointHit(pc, one.address, one.size, reads, True)
        return Stopped(pc)


def _pieces(watch: Watch) -> list[DebugRegister]:
    """*watch* in aligned pieces that a register can hold."""
    kind = _ACCESS if watch.reads else _WRITE
    pieces, address = [], watch.first
    while address <= watch.last:
        size = next(
            size
            for size in (8, 4, 2, 1)
            if address % size == 0 and address + size - 1 <= watch.last
        )
        pieces.append(DebugRegister(address, kind, size))
        address += size
    return pieces
