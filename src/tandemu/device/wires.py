"""Interrupt wires that several devices share."""

from __future__ import annotations

import threading

from tandemu.device.registers import InterruptLine


class SharedWire:
    """A wire that is high while one of its inputs is; *output* takes its level."""

    def __init__(self, output: InterruptLine) -> None:
        self._output = output
        self._levels = 0
        self._inputs = 0
        self._lock = threading.Lock()

    def add(self) -> InterruptLine:
        """One more input, low. It may be driven from any thread."""
        bit = 1 << self._inputs
        self._inputs += 1

        def drive(level: bool) -> None:
            with self._lock:
                before = self._levels
                self._levels = before | bit if level else before & ~bit
                if bool(before) != bool(self._levels):
                    self._output(bool(self._levels))

        return drive
