"""Power registers of a hardware-reduced ACPI machine: ACPI 6.5, section 4.8.3.7, and panic.

Three byte-wide I/O ports: sleep control (S5 powers off), sleep status and reset. The panic
port is what Linux calls pvpanic: a bit mask of what a guest can say, and writing one says it.
"""

from __future__ import annotations

from collections.abc import Callable

from tandemu.board.acpi import RESET_VALUE, S5_SLEEP_TYPE, SLEEP_ENABLE
from tandemu.device import SystemEvent
from tandemu.device.registers import Access, Peripheral, Register, RegisterMap

SLEEP_CONTROL, SLEEP_STATUS, RESET = range(3)
POWER_PORTS = 3
PANICKED, CRASH_LOADED, SHUT_DOWN = 1, 2, 4
_WAKE = 0x80


class AcpiPower(Peripheral):
    """The power registers; *event* takes what the guest asks for."""

    registers = RegisterMap(
        Register("sleep_control", SLEEP_CONTROL, 1),
        Register("sleep_status", SLEEP_STATUS, 1),
        Register("reset_request", RESET, 1, access=Access.WO),
    )

    event: Callable[[SystemEvent, int], None]

    sleep_control: int = registers.sleep_control.state()
    sleep_status: int = registers.sleep_status.state()

    def write_sleep_control(self, value: int) -> None:
        self.sleep_control = value & ~SLEEP_ENABLE
        if value & SLEEP_ENABLE and value >> 2 & 7 == S5_SLEEP_TYPE:
            self.event(SystemEvent.POWER_OFF, 0)

    def write_sleep_status(self, value: int) -> None:
        self.sleep_status &= ~(value & _WAKE)

    def write_reset_request(self, value: int) -> None:
        if value == RESET_VALUE:
            self.event(SystemEvent.RESET, 0)


class PanicPort(Peripheral):
    """Where a guest's kernel says that it panicked: the machine then ends."""

    registers = RegisterMap(Register("events", 0, 1))

    event: Callable[[SystemEvent, int], None]

    def read_events(self) -> int:
        return PANICKED | SHUT_DOWN

    def write_events(self, value: int) -> None:
        if value & PANICKED:
            self.event(SystemEvent.PANIC, 0)
        elif value & SHUT_DOWN:
            self.event(SystemEvent.POWER_OFF, 0)
