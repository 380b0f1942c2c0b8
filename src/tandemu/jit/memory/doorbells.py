"""Doorbells: writes to an address that become events of a descriptor, without an exit.

Python changes the entries in place while vCPUs read them: an entry that is taken out may ring once
more, which is why its descriptor stays open until no vCPU runs (`accel.DoorbellVm`).
"""

from __future__ import annotations

from typing import Any

from tandemu.ir import I64, Builder, Value
from tandemu.jit.shared.layout import DOORBELL

_WRITE = 1
"""The host's system call."""
_EVENT_BYTES = 8


def emit_ring(b: Builder, machine: Any, address: Value) -> Value:
    """Ring what is at guest-physical *address*; 1-bit, whether there is a doorbell."""
    rung = b.variable(I64, 0)
    place = b.variable(I64, machine.doorbells.pointer(0).from_pointer())
    end = place.value + machine.doorbell_count * DOORBELL.size
    with b.While(lambda: place.value.ult(end)):
        entry = b.struct(DOORBELL, place.value.to_pointer())
        with b.If(b.load(entry.pointer("address"), I64, atomic=True) == address):
            event = machine.pointer("doorbell_event").from_pointer()
            # An event descriptor that cannot count further tells its reader anyway.
            b.system_call(_WRITE, entry.descriptor, event, _EVENT_BYTES)
            rung.value = 1
            place.value = end
        with b.Else():
            place.value = place.value + DOORBELL.size
    return rung.value != 0
