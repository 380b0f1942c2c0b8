"""SiFive test finisher: one register through which a guest powers off, resets or fails.

The device tree presents it as a ``syscon`` with ``syscon-poweroff`` and
``syscon-reboot``.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from tandemu.device.registers import Access, Field, Peripheral, Register, RegisterMap

POWER_OFF, RESET, FAIL = 0x5555, 0x7777, 0x3333


class SystemEvent(Enum):
    """What a guest asks of the machine as a whole."""

    POWER_OFF = "power off"
    RESET = "reset"
    FAIL = "fail"
    PANIC = "panic"


class Syscon(Peripheral):
    """The finisher; *event* takes what the guest asks for and its exit code (0 save for FAIL)."""

    registers = RegisterMap(
        Register(
            "finish",
            0,
            4,
            (
                Field("command", 0, 16, access=Access.WO),
                Field("code", 16, 16, access=Access.WO),
            ),
        ),
    )

    event: Callable[[SystemEvent, int], None]

    def write_finish(self, value: int) -> None:
        command, code = value & 0xFFFF, value >> 16
        if command == POWER_OFF:
            self.event(SystemEvent.POWER_OFF, 0)
        elif command == RESET:
            self.event(SystemEvent.RESET, 0)
        elif command == FAIL:
            self.event(SystemEvent.FAIL, code)
