"""Goldfish real-time clock: the Android emulator's hardware document, "Goldfish RTC".

Nanoseconds since 1970 in two halves: reading the low half latches the high one;
writing the low half sets clock or alarm together with the high half written
before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tandemu.device.registers import (
    Access,
    Field,
    InterruptLine,
    Peripheral,
    Register,
    RegisterMap,
    state,
)

_U64 = 0xFFFF_FFFF_FFFF_FFFF


class GoldfishRtc(Peripheral):
    """The clock. *clock* is the host's time in ns since 1970.

    *set_alarm* takes how many ns from now `alarm` is to be called, from any
    thread, or None for not at all.
    """

    registers = RegisterMap(
        Register("time_low", 0x00),
        Register("time_high", 0x04),
        Register("alarm_low", 0x08),
        Register("alarm_high", 0x0C),
        Register("irq_enabled", 0x10, 4, (Field("enabled", 0),)),
        Register("clear_alarm", 0x14, access=Access.WO),
        Register("alarm_status", 0x18, 4, (Field("armed", 0, access=Access.RO),)),
        Register("clear_interrupt", 0x1C, access=Access.WO),
    )

    clock: Callable[[], int]
    set_alarm: Callable[[int | None], None]
    irq: InterruptLine

    offset: int = state(64)
    """Guest's time minus the host's, modulo 2**64."""
    time_high: int = registers.time_high.state()
    alarm_low: int = registers.alarm_low.state()
    alarm_high: int = registers.alarm_high.state()
    irq_enabled: int = registers.irq_enabled.state()
    alarm_status: int = registers.alarm_status.state()
    pending: int = state(1)

    def prepare(self) -> None:
        self._lock = threading.Lock()

    def restored(self) -> None:
        with self._lock:
            self.set_alarm(None)
            self._update()
            if self.alarm_status:
                self._arm()

    def alarm(self) -> None:
        """The time asked for has passed: ring, or ask again if it was too early. Any thread."""
        with self._lock:
            if self.alarm_status:
                self._arm()

    def read_time_low(self) -> int:
        now = self._now()
        self.time_high = now >> 32
        return now & 0xFFFF_FFFF

    def write_time_low(self, value: int) -> None:
        with self._lock:
            self.offset = ((self.time_high << 32 | value) - self.clock()) & _U64
            if self.alarm_status:
                self._arm()

    def write_alarm_low(self, value: int) -> None:
        with self._lock:
            self.alarm_low = value
            self._arm()

    def write_irq_enabled(self, value: int) -> None:
        with self._lock:
            self.irq_enabled = value
            self._update()

    def write_clear_alarm(self, value: int) -> None:
        with self._lock:
            self.alarm_status = 0
            self.set_alarm(None)

    def write_clear_interrupt(self, value: int) -> None:
        with self._lock:
            self.pending = 0
            self._update()

    def _now(self) -> int:
        return (self.clock() + self.offset) & _U64

    def _deadline(self) -> int:
        return self.alarm_high << 32 | self.alarm_low

    def _arm(self) -> None:
        """Ask for the alarm; one in the past comes at once."""
        remaining = self._deadline() - self._now()
        if remaining > 0:
            self.alarm_status = 1
            self.set_alarm(remaining)
        else:
            self.alarm_status = 0
            self.pending = 1
            self.set_alarm(None)
            self._update()

    def _update(self) -> None:
        self.irq(bool(self.pending and self.irq_enabled))
