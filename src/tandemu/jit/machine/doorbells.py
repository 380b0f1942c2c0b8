"""The entries of `jit.memory.doorbells`, as Python changes them."""

from __future__ import annotations

from typing import Any

from tandemu.jit.shared.layout import DOORBELL_LIMIT, INVALID


class Doorbells:
    """The doorbells of a *machine* (`MACHINE`, live)."""

    def __init__(self, machine: Any) -> None:
        self._machine = machine
        machine.doorbell_event = 1

    def connect(self, address: int, descriptor: int) -> bool:
        """Add an entry; False if there is no room."""
        machine = self._machine
        count = machine.doorbell_count
        places = range(count)
        free = next((n for n in places if machine.doorbells[n].address == INVALID), count)
        if free == DOORBELL_LIMIT:
            return False
        entry = machine.doorbells[free]
        # The address last: an entry is whole once it can be found.
        entry.address = INVALID
        entry.descriptor = descriptor
        entry.address = address
        machine.doorbell_count = max(count, free + 1)
        return True

    def disconnect(self, address: int, descriptor: int) -> None:
        """Take an entry out."""
        machine = self._machine
        for number in range(machine.doorbell_count):
            entry = machine.doorbells[number]
            if (entry.address, entry.descriptor) == (address, descriptor):
                entry.address = INVALID
                return
