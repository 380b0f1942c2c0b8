"""Core-local interruptor: SiFive CLINT, which RISC-V ACLINT 1.0 describes as MSWI and MTIMER.

Software interrupts of the harts, their timer compare registers and the time.
Time belongs to the engine: *time* reads it, *set_time* changes it, *set_timer* hands
over a deadline and the engine raises the timer interrupt.
"""

from __future__ import annotations

from collections.abc import Callable

from tandemu.device.registers import (
    DeviceError,
    Field,
    Peripheral,
    Register,
    RegisterMap,
)

MAX_HARTS = 4095


class Clint(Peripheral):
    """The CLINT of *harts* harts; times are ticks of the time base."""

    registers = RegisterMap(
        Register("msip", 0, 4, (Field("pending", 0),), count=MAX_HARTS),
        Register("mtimecmp", 0x4000, 8, count=MAX_HARTS, reset=0xFFFF_FFFF_FFFF_FFFF),
        Register("mtime", 0xBFF8, 8),
    )

    harts: int
    time: Callable[[], int]
    set_time: Callable[[int], None]
    set_timer: Callable[[int, int], None]
    set_software_interrupt: Callable[[int, bool], None]

    msip: list[int] = registers.msip.state()
    mtimecmp: list[int] = registers.mtimecmp.state()

    def prepare(self) -> None:
        if not 0 < self.harts <= MAX_HARTS:
            raise DeviceError(f"CLINT for {self.harts} harts: must be 1 to {MAX_HARTS}")

    def restored(self) -> None:
        for hart in range(self.harts):
            self.set_software_interrupt(hart, bool(self.msip[hart]))
            self.set_timer(hart, self.mtimecmp[hart])

    def write_msip(self, hart: int, value: int) -> None:
        if hart < self.harts:
            self.msip[hart] = value
            self.set_software_interrupt(hart, bool(value))

    def write_mtimecmp(self, hart: int, value: int) -> None:
        if hart < self.harts:
            self.mtimecmp[hart] = value
            self.set_timer(hart, value)

    def write_mtime(self, value: int) -> None:
        self.set_time(value)

    def read_mtime(self) -> int:
        return self.mtime

    @property
    def mtime(self) -> int:
        """Ticks now: what is read, and what a write of half the register leaves of it."""
        return self.time() & 0xFFFF_FFFF_FFFF_FFFF
