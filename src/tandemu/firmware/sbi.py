"""RISC-V Supervisor Binary Interface 2.0, as a state machine over `FirmwareCall` exits.

A hart in S-mode executes ECALL, its vCPU's `run` returns a `FirmwareCall`, and
`Sbi.call` reads a0 to a7, does what is asked and writes a0 and a1. Implemented
are the base extension (chapter 4), the legacy calls (5), TIME (6), IPI (7),
RFENCE (8, without the hypervisor's fences), HSM (9, retentive suspend only),
SRST (10), a PMU without counters (11) and DBCN (12). Every other extension is
"not supported".

A guest is hostile: every argument is checked, memory is touched only where it
is RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tandemu.accel import Fence
from tandemu.bits import mask
from tandemu.board import Hart, HartState
from tandemu.device import SystemEvent
from tandemu.memory import GuestMemory

# Chapter 3, "Binary Encoding"
SUCCESS = 0
FAILED, NOT_SUPPORTED, INVALID_PARAM, DENIED, INVALID_ADDRESS, ALREADY_AVAILABLE = range(-1, -7, -1)
NO_SHMEM = -9

SPECIFICATION_VERSION = 2 << 24
IMPLEMENTATION_ID = 0x5444_4D45
"""Not a registered number; it says "TDME"."""
IMPLEMENTATION_VERSION = 0x1_0000

LEGACY = range(9)
BASE = 0x10
TIME = 0x5449_4D45
IPI = 0x0073_5049
RFENCE = 0x5246_4E43
HSM = 0x0048_534D
SRST = 0x5352_5354
PMU = 0x0050_4D55
DBCN = 0x4442_434E

_SOFTWARE_INTERRUPT, _TIMER_INTERRUPT = 1, 5
_SUPERVISOR_MODE = 1
_USER_COUNTERS = 7
_PAGE = 4096
_LONGEST_CONSOLE_BYTES = 1 << 20
_FENCE_INSTRUCTIONS = Fence(instructions=True)
_FENCE_EVERYTHING = Fence()

Answer = tuple[int, int]
_OK: Answer = (SUCCESS, 0)

_ARGUMENTS = tuple(f"a{number}" for number in range(8))


def no_input(limit: int) -> bytes:
    """The default source of console input: there is none."""
    return b""


class Sbi:
    """The firmware of one machine.

    *memory* is for console calls, *console* takes what they print, *console_input*
    returns up to so many typed bytes without waiting; *event* takes power-off
    and reset.
    """

    def __init__(
        self,
        harts: Sequence[Hart],
        memory: GuestMemory,
        *,
        xlen: int,
        console: Callable[[bytes], None],
        event: Callable[[SystemEvent, int], None],
        console_input: Callable[[int], bytes] = no_input,
    ) -> None:
        self.harts = harts
        self.memory = memory
        self.xlen = xlen
        self.console = console
        self.event = event
        self.console_input = console_input
        self._ones = mask(xlen)
        self._mstatus = 2 << 32 | 2 << 34 if xlen == 64 else 0
        self._calls: dict[tuple[int, int], Callable[[Hart], Answer]] = {
            (BASE, 0): lambda hart: (SUCCESS, SPECIFICATION_VERSION),
            (BASE, 1): lambda hart: (SUCCESS, IMPLEMENTATION_ID),
            (BASE, 2): lambda hart: (SUCCESS, IMPLEMENTATION_VERSION),
            (BASE, 3): self._probe_extension,
            (BASE, 4): lambda hart: _OK,  # mvendorid, marchid and mimpid: not registered
            (BASE, 5): lambda hart: _OK,
            (BASE, 6): lambda hart: _OK,
            (TIME, 0): self._set_timer,
            (IPI, 0): self._send_ipi,
            (RFENCE, 0): self._remote_fence_i,
            (RFENCE, 1): self._remote_sfence_vma,
            (RFENCE, 2): self._remote_sfence_vma_asid,
            (HSM, 0): self._hart_start,
            (HSM, 1): self._hart_stop,
            (HSM, 2): self._hart_status,
            (HSM, 3): self._hart_suspend,
            (SRST, 0): self._system_reset,
            (PMU, 0): lambda hart: _OK,  # no counters
            (PMU, 1): lambda hart: (INVALID_PARAM, 0),  # so no counter has that number
            (PMU, 3): lambda hart: (INVALID_PARAM, 0),
            (PMU, 4): lambda hart: (INVALID_PARAM, 0),
            (PMU, 5): lambda hart: (INVALID_PARAM, 0),
            (DBCN, 0): self._console_write,
            (DBCN, 1): self._console_read,
            (DBCN, 2): self._console_write_byte,
        }
        self._legacy: dict[int, Callable[[Hart], int]] = {
            0: lambda hart: self._set_timer(hart)[0],
            1: self._legacy_putchar,
            2: self._legacy_getchar,
            3: self._legacy_clear_ipi,
            4: self._legacy_send_ipi,
            5: lambda hart: self._legacy_fence(hart, _FENCE_INSTRUCTIONS),
            6: lambda hart: self._legacy_fence(hart, self._range_fence(hart, 1)),
            7: lambda hart: self._legacy_fence(
                hart, self._range_fence(hart, 1, hart.vcpu.get("a3"))
            ),
            8: self._legacy_shutdown,
        }
        self._extensions = frozenset(
            {extension for extension, _ in self._calls} | self._legacy.keys()
        )

    # What the board asks of firmware

    def call(self, hart: Hart) -> None:
        """Answer *hart*'s call. Its own thread."""
        vcpu = hart.vcpu
        extension = vcpu.get("a7")
        call = self._calls.get((extension, vcpu.get("a6")))
        if call is not None:
            error, value = call(hart)
            if hart.state is HartState.STARTED:
                vcpu.set("a0", error & self._ones)
                vcpu.set("a1", value & self._ones)
            return
        legacy = self._legacy.get(extension)
        if legacy is not None:
            # The legacy calls leave a1 alone (chapter 5).
            vcpu.set("a0", legacy(hart) & self._ones)
            return
        vcpu.set("a0", NOT_SUPPORTED & self._ones)
        vcpu.set("a1", 0)

    def enter(self, hart: Hart) -> None:
        """Put a started hart at its start address in S-mode, as chapter 9 tells. Its own thread."""
        vcpu = hart.vcpu
        # Fences asked for while the hart was stopped have passed it by.
        vcpu.fence(_FENCE_EVERYTHING)
        vcpu.fence(_FENCE_INSTRUCTIONS)
        vcpu.set("mstatus", self._mstatus)
        vcpu.set("satp", 0)
        vcpu.set("mie", 0)
        vcpu.set("scounteren", _USER_COUNTERS)
        vcpu.set("privilege", _SUPERVISOR_MODE)
        vcpu.set("a0", hart.index)
        vcpu.set("a1", hart.opaque & self._ones)
        vcpu.set("pc", hart.address)

    # Base

    def _probe_extension(self, hart: Hart) -> Answer:
        return SUCCESS, int(hart.vcpu.get("a0") in self._extensions)

    # Timer

    def _set_timer(self, hart: Hart) -> Answer:
        vcpu = hart.vcpu
        deadline = vcpu.get("a0")
        if self.xlen == 32:
            deadline |= vcpu.get("a1") << 32
        vcpu.set("stimecmp", deadline)
        vcpu.set_interrupt(_TIMER_INTERRUPT, False)
        return _OK

    # Harts by mask

    def _targets(self, bits: int, base: int) -> list[Hart] | None:
        """The harts a mask names, those that do not run left out; None if one does not exist."""
        if base == self._ones:
            return [hart for hart in self.harts if hart.state is HartState.STARTED]
        found = []
        while bits:
            lowest = bits & -bits
            index = base + lowest.bit_length() - 1
            if index >= len(self.harts):
                return None
            if self.harts[index].state is HartState.STARTED:
                found.append(self.harts[index])
            bits ^= lowest
        return found

    def _send_ipi(self, hart: Hart) -> Answer:
        vcpu = hart.vcpu
        targets = self._targets(vcpu.get("a0"), vcpu.get("a1"))
        if targets is None:
            return INVALID_PARAM, 0
        for target in targets:
            target.vcpu.set_interrupt(_SOFTWARE_INTERRUPT, True)
        return _OK

    def _range_fence(self, hart: Hart, first: int, asid: int | None = None) -> Fence:
        """The fence for the range whose start is in argument *first*, its size in the next."""
        vcpu = hart.vcpu
        start, size = vcpu.get(_ARGUMENTS[first]), vcpu.get(_ARGUMENTS[first + 1])
        if size == self._ones or (start == 0 and size == 0):
            return _FENCE_EVERYTHING if asid is None else Fence(asid=asid)
        # A size of zero would mean everything to the engine: an empty range is one byte.
        return Fence(start=start, size=size or 1, asid=asid)

    def _remote_fence(self, hart: Hart, fence: Fence) -> Answer:
        vcpu = hart.vcpu
        targets = self._targets(vcpu.get("a0"), vcpu.get("a1"))
        if targets is None:
            return INVALID_PARAM, 0
        for target in targets:
            target.vcpu.fence(fence)
        return _OK

    def _remote_fence_i(self, hart: Hart) -> Answer:
        return self._remote_fence(hart, _FENCE_INSTRUCTIONS)

    def _remote_sfence_vma(self, hart: Hart) -> Answer:
        return self._remote_fence(hart, self._range_fence(hart, 2))

    def _remote_sfence_vma_asid(self, hart: Hart) -> Answer:
        return self._remote_fence(hart, self._range_fence(hart, 2, hart.vcpu.get("a4")))

    # Hart state management

    def _hart_start(self, hart: Hart) -> Answer:
        vcpu = hart.vcpu
        index, address = vcpu.get("a0"), vcpu.get("a1")
        if index >= len(self.harts):
            return INVALID_PARAM, 0
        if address & 1 or self.memory.read(address, 4) is None:
            return INVALID_ADDRESS, 0
        if not self.harts[index].start(address, vcpu.get("a2")):
            return ALREADY_AVAILABLE, 0
        return _OK

    def _hart_stop(self, hart: Hart) -> Answer:
        hart.stop()
        return _OK

    def _hart_status(self, hart: Hart) -> Answer:
        index = hart.vcpu.get("a0")
        if index >= len(self.harts):
            return INVALID_PARAM, 0
        return SUCCESS, int(self.harts[index].state)

    def _hart_suspend(self, hart: Hart) -> Answer:
        """The default retentive suspend, which any event may end: it ends at once."""
        kind = hart.vcpu.get("a0") & 0xFFFF_FFFF
        if kind == 0:
            return _OK
        return (NOT_SUPPORTED if kind in (0x8000_0000,) else INVALID_PARAM), 0

    # System reset

    def _system_reset(self, hart: Hart) -> Answer:
        kind = hart.vcpu.get("a0") & 0xFFFF_FFFF
        reason = hart.vcpu.get("a1") & 0xFFFF_FFFF
        if kind > 2 or reason > 1:
            return INVALID_PARAM, 0
        if kind:
            self.event(SystemEvent.RESET, reason)
        elif reason:
            self.event(SystemEvent.FAIL, reason)
        else:
            self.event(SystemEvent.POWER_OFF, 0)
        return _OK

    # Debug console

    def _console_buffer(self, hart: Hart) -> tuple[int, int]:
        """Guest-physical address and size that the call names."""
        vcpu = hart.vcpu
        size, low, high = vcpu.get("a0"), vcpu.get("a1"), vcpu.get("a2")
        return high << self.xlen | low, size

    def _console_write(self, hart: Hart) -> Answer:
        address, size = self._console_buffer(hart)
        if self.memory.lend(address, size) is None:
            return INVALID_PARAM, 0
        # Fewer bytes than asked for is a valid answer, and the guest sends the rest.
        data = self.memory.read(address, min(size, _LONGEST_CONSOLE_BYTES))
        if data:
            self.console(data)
        return SUCCESS, len(data or b"")

    def _console_read(self, hart: Hart) -> Answer:
        address, size = self._console_buffer(hart)
        loan = self.memory.lend_for_writing(address, size)
        if loan is None:
            return INVALID_PARAM, 0
        loan.end(0)
        data = self.console_input(min(size, _LONGEST_CONSOLE_BYTES))[:size]
        self.memory.write(address, data)
        return SUCCESS, len(data)

    def _console_write_byte(self, hart: Hart) -> Answer:
        self.console(bytes((hart.vcpu.get("a0") & 0xFF,)))
        return _OK

    # Legacy calls: one result, in a0

    def _legacy_putchar(self, hart: Hart) -> int:
        self.console(bytes((hart.vcpu.get("a0") & 0xFF,)))
        return SUCCESS

    def _legacy_getchar(self, hart: Hart) -> int:
        data = self.console_input(1)
        return data[0] if data else FAILED

    def _legacy_clear_ipi(self, hart: Hart) -> int:
        hart.vcpu.set_interrupt(_SOFTWARE_INTERRUPT, False)
        return SUCCESS

    def _legacy_targets(self, hart: Hart) -> list[Hart] | None:
        """The harts of the mask at the virtual address in a0; 0 is all of them.

        None if it cannot be read there, or names a hart that does not exist.
        """
        address = hart.vcpu.get("a0")
        if not address:
            return self._targets(0, self._ones)
        mask_bytes = self._read_virtual(hart, address, self.xlen // 8)
        return (
            None if mask_bytes is None else self._targets(int.from_bytes(mask_bytes, "little"), 0)
        )

    def _read_virtual(self, hart: Hart, address: int, size: int) -> bytes | None:
        """*size* bytes at *address* as *hart* itself would load them; None if it would trap."""
        data = b""
        while len(data) < size:
            physical = hart.vcpu.translate((address + len(data)) & self._ones)
            if physical is None:
                return None
            piece = self.memory.read(physical, min(size - len(data), -physical % _PAGE or _PAGE))
            if piece is None:
                return None
            data += piece
        return data

    def _legacy_send_ipi(self, hart: Hart) -> int:
        targets = self._legacy_targets(hart)
        if targets is None:
            return INVALID_PARAM
        for target in targets:
            target.vcpu.set_interrupt(_SOFTWARE_INTERRUPT, True)
        return SUCCESS

    def _legacy_fence(self, hart: Hart, fence: Fence) -> int:
        targets = self._legacy_targets(hart)
        if targets is None:
            return INVALID_PARAM
        for target in targets:
            target.vcpu.fence(fence)
        return SUCCESS

    def _legacy_shutdown(self, hart: Hart) -> int:
        self.event(SystemEvent.POWER_OFF, 0)
        return SUCCESS
