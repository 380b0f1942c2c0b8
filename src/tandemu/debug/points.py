"""Breakpoints and watchpoints that a debugger has set by packets Z and z.

"Debugging with GDB", appendix "Packets". Software and hardware breakpoints are one thing here:
neither is written into the guest's memory. Tracepoint commands at breakpoints are left out.
"""

from __future__ import annotations

from tandemu.accel import Watch
from tandemu.debug.errors import DebugError
from tandemu.debug.target import Target

_BREAKPOINTS = (0, 1)
_WATCHES = {2: (False, True), 3: (True, False), 4: (True, True)}
"""Whether reads and writes count, by the type of a watchpoint."""
_MOST_CONDITIONS = 64


class Points:
    """What is set, put into *target* when that is about to go on."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._breakpoints: dict[tuple[int, int], tuple[bytes, ...]] = {}
        self._watches: dict[tuple[int, int, int], Watch] = {}
        self._bits = target.architecture.address_bits

    def insert(self, text: bytes) -> None:
        """Set what a packet Z says: ``type,address,kind[;X length,expression…]``."""
        place, *rest = text.split(b";")
        kind, address, size = self._place(place)
        if kind in _BREAKPOINTS:
            self._breakpoints[kind, address] = _conditions(b";".join(rest))
            self._put_breakpoints()
            return
        reads, writes = _WATCHES[kind]
        key = kind, address, size
        known = self._watches.get(key)
        self._watches[key] = Watch(address, address + max(size, 1) - 1, reads, writes)
        try:
            self._target.set_watches(tuple(self._watches.values()))
        except DebugError:
            if known is None:
                del self._watches[key]
            raise

    def remove(self, text: bytes) -> None:
        """Take away what a packet z says; nothing happens if it is not there."""
        kind, address, size = self._place(text.split(b";")[0])
        if kind in _BREAKPOINTS:
            self._breakpoints.pop((kind, address), None)
            self._put_breakpoints()
        elif self._watches.pop((kind, address, size), None) is not None:
            self._target.set_watches(tuple(self._watches.values()))

    def is_hardware(self, address: int) -> bool:
        """Whether the breakpoint there was set as a hardware one, and not as the other kind too."""
        return (1, address) in self._breakpoints and (0, address) not in self._breakpoints

    def _place(self, text: bytes) -> tuple[int, int, int]:
        try:
            kind, address, size = (int(field, 16) for field in text.split(b","))
        except ValueError:
            raise DebugError("a breakpoint is type,address,kind in hexadecimal") from None
        if kind not in (*_BREAKPOINTS, *_WATCHES):
            raise DebugError(f"no breakpoints of type {kind}")
        if not 0 <= address < 1 << self._bits or not 0 <= size <= (1 << self._bits) - address:
            raise DebugError(f"{address:#x} and {size:#x} bytes from there: there is no such place")
        return kind, address, size

    def _put_breakpoints(self) -> None:
        merged: dict[int, tuple[bytes, ...]] = {}
        for (_, address), conditions in self._breakpoints.items():
            # One without a condition always counts.
            other = merged.get(address, conditions)
            merged[address] = (*other, *conditions) if other and conditions else ()
        self._target.set_breakpoints(merged)


def _conditions(text: bytes) -> tuple[bytes, ...]:
    """The expressions in ``X length,expression…``, one or several."""
    found: list[bytes] = []
    place = 0
    while place < len(text):
        if text[place : place + 1] in b";":
            place += 1
            continue
        if text[place : place + 1] != b"X" or len(found) == _MOST_CONDITIONS:
            raise DebugError("a breakpoint can have conditions, up to 64, and no commands")
        comma = text.find(b",", place)
        try:
            size = int(text[place + 1 : comma], 16)
            code = bytes.fromhex(text[comma + 1 : comma + 1 + 2 * size].decode("ascii"))
        except ValueError:
            raise DebugError("the condition of a breakpoint is not hexadecimal") from None
        if comma < 0 or size <= 0 or len(code) != size:
            raise DebugError("the condition of a breakpoint is cut short")
        found.append(code)
        place = comma + 1 + 2 * size
    return tuple(found)
