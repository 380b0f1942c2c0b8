"""Advanced platform-level interrupt controller: RISC-V AIA 1.0, chapter 4.

One domain of supervisor level without children, which sends each wired interrupt on as a message
to a hart's interrupt file (`device.imsic`). Where the files stand is fixed by the board.

Left out: direct delivery (domaincfg.DM is one for ever), delegation to other domains (sourcecfg.D
is zero), big-endian registers, guest files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from tandemu.bits import mask
from tandemu.device.registers import (
    Access,
    DeviceError,
    InterruptLine,
    Peripheral,
    Register,
    RegisterMap,
    state,
    states,
)

MAX_SOURCES = 1023
REGISTER_BYTES = 0x4000
_WORDS = 32
_BITS = MAX_SOURCES + 1

_DOMAIN_FIXED, _DOMAIN_ENABLE, _DOMAIN_MESSAGES = 0x80 << 24, 1 << 8, 1 << 2
_INACTIVE, _DETACHED, _RISING, _FALLING, _HIGH, _LOW = 0, 1, 4, 5, 6, 7
_WIRED = frozenset((_RISING, _FALLING, _HIGH, _LOW))
_MODES = _WIRED | {_DETACHED}
_LEVEL = frozenset((_HIGH, _LOW))
_INVERTED = frozenset((_FALLING, _LOW))
_TARGET = 0x3FFF << 18 | 0x7FF
_HART_SHIFT, _IDENTITY = 18, 0x7FF


class Aplic(Peripheral):
    """A domain with sources 1 to *sources*; *message* takes a hart's number and an identity."""

    registers = RegisterMap(
        Register("domaincfg", 0),
        Register("sourcecfg", 4, count=MAX_SOURCES),
        Register("setip", 0x1C00, count=_WORDS),
        Register("setipnum", 0x1CDC, access=Access.WO),
        Register("in_clrip", 0x1D00, count=_WORDS),
        Register("clripnum", 0x1DDC, access=Access.WO),
        Register("setie", 0x1E00, count=_WORDS),
        Register("setienum", 0x1EDC, access=Access.WO),
        Register("clrie", 0x1F00, count=_WORDS, access=Access.WO),
        Register("clrienum", 0x1FDC, access=Access.WO),
        Register("setipnum_le", 0x2000, access=Access.WO),
        Register("setipnum_be", 0x2004, access=Access.WO),
        Register("genmsi", 0x3000),
        Register("target", 0x3004, count=MAX_SOURCES),
    )

    message: Callable[[int, int], None]
    sources: int = 95

    enabled: int = state(1)
    """domaincfg.IE."""
    modes: list[int] = states(_BITS, 3)
    targets: list[int] = states(_BITS, 32)
    levels: int = state(_BITS)
    """Inputs that are high, bit by source."""
    pending: int = state(_BITS)
    enables: int = state(_BITS)

    def prepare(self) -> None:
        if not 0 < self.sources <= MAX_SOURCES:
            raise DeviceError(f"APLIC with {self.sources} sources: must be 1 to {MAX_SOURCES}")
        self._lock = threading.Lock()
        self._existing = (1 << self.sources + 1) - 2

    def restored(self) -> None:
        with self._lock:
            self.modes = [mode if mode in _MODES else _INACTIVE for mode in self.modes]
            self.targets = [target & _TARGET for target in self.targets]
            self.levels &= self._existing
            self.pending &= self._existing
            self.enables &= self._existing
            self._send()

    def line(self, source: int) -> InterruptLine:
        """The input of *source*: a callable that takes the level. Any thread."""
        if not 0 < source <= self.sources:
            raise DeviceError(f"interrupt source {source}: must be 1 to {self.sources}")
        return partial(self._drive, source)

    # Registers --------------------------------------------------------------------------

    def read_domaincfg(self) -> int:
        return _DOMAIN_FIXED | _DOMAIN_MESSAGES | self.enabled * _DOMAIN_ENABLE

    def write_domaincfg(self, value: int) -> None:
        with self._lock:
            self.enabled = int(bool(value & _DOMAIN_ENABLE))
            self._send()

    def read_sourcecfg(self, index: int) -> int:
        return self.modes[index + 1]

    def write_sourcecfg(self, index: int, value: int) -> None:
        source = index + 1
        if source > self.sources:
            return
        mode = value & 7 if value & 7 in _MODES and value < 1 << 10 else _INACTIVE
        with self._lock:
            before = self._is_high(source)
            self.modes[source] = mode
            bit = 1 << source
            if mode == _INACTIVE:
                self.pending &= ~bit
                self.enables &= ~bit
                self.targets[source] = 0
            elif self._is_high(source) and not before:
                self.pending |= bit
            elif mode in _LEVEL and not self._is_high(source):
                self.pending &= ~bit
            self._send()

    def read_setip(self, index: int) -> int:
        return self.pending >> 32 * index & mask(32)

    def write_setip(self, index: int, value: int) -> None:
        with self._lock:
            self._set_pending(value << 32 * index)

    def write_setipnum(self, value: int) -> None:
        with self._lock:
            self._set_pending(self._bit(value))

    write_setipnum_le = write_setipnum

    def write_setipnum_be(self, value: int) -> None:
        self.write_setipnum(int.from_bytes(value.to_bytes(4, "little"), "big"))

    def read_in_clrip(self, index: int) -> int:
        """The inputs as they count, inverted where sources are so."""
        sources = range(max(32 * index, 1), min(32 * index + 32, self.sources + 1))
        return sum(1 << source - 32 * index for source in sources if self._is_high(source))

    def write_in_clrip(self, index: int, value: int) -> None:
        with self._lock:
            self.pending &= ~(value << 32 * index)

    def write_clripnum(self, value: int) -> None:
        with self._lock:
            self.pending &= ~self._bit(value)

    def read_setie(self, index: int) -> int:
        return self.enables >> 32 * index & mask(32)

    def write_setie(self, index: int, value: int) -> None:
        with self._lock:
            self._set_enables(value << 32 * index)

    def write_setienum(self, value: int) -> None:
        with self._lock:
            self._set_enables(self._bit(value))

    def write_clrie(self, index: int, value: int) -> None:
        with self._lock:
            self.enables &= ~(value << 32 * index)

    def write_clrienum(self, value: int) -> None:
        with self._lock:
            self.enables &= ~self._bit(value)

    def read_genmsi(self) -> int:
        """Never busy: a message is sent before the write is over (section 4.5.15)."""
        return 0

    def write_genmsi(self, value: int) -> None:
        self.message(value >> _HART_SHIFT, value & _IDENTITY)

    def read_target(self, index: int) -> int:
        return self.targets[index + 1]

    def write_target(self, index: int, value: int) -> None:
        if self.modes[index + 1] != _INACTIVE:
            self.targets[index + 1] = value & _TARGET

    # Inside -----------------------------------------------------------------------------

    def _bit(self, source: int) -> int:
        return 1 << source if 0 < source <= self.sources else 0

    def _is_high(self, source: int) -> bool:
        """Whether a source's input, inverted if its mode says so, is high (section 4.7)."""
        mode = self.modes[source]
        return mode in _WIRED and bool(self.levels >> source & 1) != (mode in _INVERTED)

    def _active(self, bits: int) -> int:
        found = 0
        bits &= self._existing
        while bits:
            lowest = bits & -bits
            if self.modes[lowest.bit_length() - 1] != _INACTIVE:
                found |= lowest
            bits ^= lowest
        return found

    def _set_pending(self, bits: int) -> None:
        """Software sets pending bits; those of a level only while that is high (section 4.7)."""
        bits = self._active(bits)
        while bits:
            lowest = bits & -bits
            source = lowest.bit_length() - 1
            if self.modes[source] not in _LEVEL or self._is_high(source):
                self.pending |= lowest
            bits ^= lowest
        self._send()

    def _set_enables(self, bits: int) -> None:
        self.enables |= self._active(bits)
        self._send()

    def _drive(self, source: int, level: bool) -> None:
        bit = 1 << source
        with self._lock:
            before = self._is_high(source)
            self.levels = self.levels | bit if level else self.levels & ~bit
            after = self._is_high(source)
            if after and not before:
                self.pending |= bit
                self._send()
            elif not after and self.modes[source] in _LEVEL:
                self.pending &= ~bit

    def _send(self) -> None:
        """Send what is pending and enabled on as messages, which clears it."""
        due = self.pending & self.enables if self.enabled else 0
        self.pending &= ~due
        while due:
            lowest = due & -due
            target = self.targets[lowest.bit_length() - 1]
            self.message(target >> _HART_SHIFT, target & _IDENTITY)
            due ^= lowest
