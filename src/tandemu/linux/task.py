"""A guest thread: its processor, its signal mask and queue, its loop.

One `Task` runs on one host thread, and is known to guest and host by the same number.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import mmap
import os
from typing import TYPE_CHECKING, Any

from tandemu.accel.user import (
    INTERRUPTED,
    INTERRUPTED_RESTARTS,
    Breakpoint,
    IllegalInstruction,
    Kicked,
    MemoryFault,
    Misaligned,
    SignalDue,
    SystemCall,
    UserCpu,
    UserExit,
)
from tandemu.linux import host, signals
from tandemu.linux.errors import ImageReplaced, ProgramEnded
from tandemu.linux.growth import grow_down
from tandemu.linux.host import bit
from tandemu.linux.native.layout import SIGNAL_FOR_PYTHON, SIGNAL_NO_ROOM, THREAD
from tandemu.linux.seccomp import Restrictions
from tandemu.linux.signals import SIGBUS, SIGILL, SIGSEGV, SIGTRAP

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

_EINTR = -errno.EINTR
_SEGV_MAPERR, _SEGV_ACCERR, _ILL_ILLOPC, _BUS_ADRALN, _BUS_ADRERR, _TRAP_BRKPT = 1, 2, 1, 1, 2, 1
_SCRATCH_SIZE = 256
_LARGEST_FRAME = 2048
"""A signal frame of any guest, no larger than the smallest alternate stack."""


class Task:
    """One guest thread."""

    def __init__(self, kernel: Kernel, cpu: UserCpu, mask: int) -> None:
        self.kernel = kernel
        self.memory = kernel.memory
        self.tid = _thread.get_native_id()
        self.ending = False
        """The thread must end as soon as it comes by."""
        self.exit_status = 0
        self.restrictions: Restrictions | None = None
        """What seccomp(2) has forbidden."""
        self.scratch = ctypes.create_string_buffer(_SCRATCH_SIZE)
        """For what a call gets from the host's kernel before the guest gets it."""
        self.scratch_address = ctypes.addressof(self.scratch)
        # Pages of an anonymous mapping cost memory only once touched.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._native_memory = mmap.mmap(-1, THREAD.size, flags=flags)
        self.native_address = ctypes.addressof(ctypes.c_char.from_buffer(self._native_memory))
        """Host address of what native calls know of this thread."""
        self.native: Any = THREAD.at(self.native_address)
        """That structure (`native.layout.THREAD`)."""
        native = self.native
        native.self = self.native_address
        native.process = kernel.native.process_address
        native.mask = mask
        self.cpu: UserCpu
        self.state: Any
        self._attach(cpu)
        host.set_thread_pointer(self.native_address)

    def _attach(self, cpu: UserCpu) -> None:
        """Run on *cpu*."""
        self.cpu, self.state = cpu, cpu.state
        self.native.request = cpu.request_address
        self.native.state = ctypes.addressof(cpu.state)
        cpu.set_call_context(self.native_address)

    def revive(self, cpu: UserCpu) -> None:
        """The thread is over, and begins anew on *cpu*. Only on the thread itself."""
        self._attach(cpu)
        self.ending = False
        self.refresh_host_mask()

    @property
    def mask(self) -> int:
        """The guest's signal mask."""
        value: int = self.native.mask
        return value

    @property
    def robust_list(self) -> int:
        """What set_robust_list(2) was given."""
        value: int = self.native.robust_list
        return value

    @robust_list.setter
    def robust_list(self, head: int) -> None:
        self.native.robust_list = head

    @property
    def clear_tid(self) -> int:
        """Where the guest wants a 0 when the thread ends (set_tid_address(2)); 0 for nowhere."""
        value: int = self.native.clear_tid
        return value

    @clear_tid.setter
    def clear_tid(self, address: int) -> None:
        self.native.clear_tid = address

    # The loop ---------------------------------------------------------------------------

    def run(self) -> None:
        """Run the program until this thread ends (`ProgramEnded`)."""
        while True:
            try:
                self._loop()
            except ImageReplaced:
                continue

    def _loop(self) -> None:
        kernel = self.kernel
        run, x, functions, counts = self.cpu.run, self.state.x, kernel.functions, kernel.counts
        number_register = kernel.architecture.number_register
        first = kernel.architecture.first_register
        ends = [first + count for count in range(8)]
        known = len(functions)
        while True:
            leaving = run()
            number = x[number_register]
            if type(leaving) is SystemCall:
                try:
                    if number < known:
                        result = functions[number](self, *x[first : ends[counts[number]]])
                    else:
                        result = kernel.unknown_number(self, number)
                except OSError as error:
                    result = -(error.errno or errno.EIO)
                except (OverflowError, MemoryError):
                    result = -errno.ENOMEM
            else:
                self._handle(leaving)
                continue
            if result is None:
                continue
            if result == _EINTR:
                again = kernel.restarts(number)
                result = INTERRUPTED_RESTARTS if again else INTERRUPTED
            if INTERRUPTED <= result <= INTERRUPTED_RESTARTS:
                self._signal_due(kernel.settle(self.native_address, result))
            else:
                x[first] = result

    def _handle(self, leaving: UserExit) -> None:
        """An exit that is no system call."""
        if isinstance(leaving, Kicked):
            if self.ending:
                raise ProgramEnded
        elif isinstance(leaving, SignalDue):
            self._signal_due(leaving.status)
        elif isinstance(leaving, MemoryFault):
            with self.kernel.memory_lock:
                mapping = self.memory.find(leaving.address)
                if mapping is None and grow_down(self.memory, leaving.address):
                    return
            self.kernel.architecture.note_fault(
                self.state, leaving.address, leaving.access, mapping is not None
            )
            if mapping is not None and mapping.name[:1] == "/" and self._allows(leaving):
                # Mapped, allowed, and still not there: behind the end of the file.
                self.fault(SIGBUS, _BUS_ADRERR, leaving.address)
            else:
                # A guard page is mapped and allowed, and yet not there (MADV_GUARD_INSTALL).
                refused = mapping is not None and not self._allows(leaving)
                code = _SEGV_ACCERR if refused else _SEGV_MAPERR
                self.fault(SIGSEGV, code, leaving.address)
        elif isinstance(leaving, IllegalInstruction):
            self.fault(SIGILL, _ILL_ILLOPC, self.state.pc)
        elif isinstance(leaving, Misaligned):
            self.fault(SIGBUS, _BUS_ADRALN, leaving.address)
        elif isinstance(leaving, Breakpoint):
            self.fault(SIGTRAP, _TRAP_BRKPT, self.state.pc)

    def _allows(self, leaving: MemoryFault) -> bool:
        mapping = self.memory.find(leaving.address)
        needed = {"read": 1, "write": 2, "execute": 4}.get(leaving.access, 1)
        return mapping is not None and bool(mapping.protection & needed)

    def fault(self, signal: int, code: int, address: int) -> None:
        """A signal for what the program itself just did; a blocked one ends it."""
        self.force(signal, signals.fault_information(signal, code, address), address)

    def force(self, signal: int, details: bytes, address: int) -> None:
        """Have *signal* handled at once, whose siginfo_t is *details*; or the process ends."""
        action = self.kernel.signals.actions[signal]
        if self.mask & bit(signal) or action.handler <= 1:
            self.kernel.die(self, signal, address)
        room = ctypes.create_string_buffer(details, 128)
        place = ctypes.addressof(room)
        status = self.kernel.enter_handler(self.native_address, signal, place)
        if status == SIGNAL_NO_ROOM and self._grow_stack():
            status = self.kernel.enter_handler(self.native_address, signal, place)
        self._signal_due(status)

    # From other threads -------------------------------------------------------------------

    def kick(self) -> None:
        """Have this thread come by its loop soon. Any thread."""
        self.cpu.kick()
        if self.tid != _thread.get_native_id():
            host.kick(os.getpid(), self.tid)

    # Signals ------------------------------------------------------------------------------

    def refresh_host_mask(self) -> None:
        """Have the host block what the guest blocks. Only on the thread itself."""
        self.kernel.set_mask(self.native_address, self.mask)

    def _grow_stack(self) -> bool:
        """Have the stack grow to hold a frame, if it does."""
        stack = self.kernel.architecture.stack_pointer(self.state)
        with self.kernel.memory_lock:
            return grow_down(self.memory, stack - _LARGEST_FRAME)

    def _signal_due(self, status: int) -> None:
        """What native code leaves of a signal (`native.signals`, SIGNAL_*)."""
        native = self.native
        if status == SIGNAL_NO_ROOM and native.pending and self._grow_stack():
            status = self.kernel.settle(self.native_address, 0)
        if status == SIGNAL_NO_ROOM:
            # No room for the frame: what overflows its stack dies of SIGSEGV.
            self.kernel.die(self, SIGSEGV, self.kernel.architecture.stack_pointer(self.state))
        if status == SIGNAL_FOR_PYTHON:
            signal, native.pending = native.pending, 0
            self.kernel.act_by_default(self, signal)
            if native.has_saved:
                native.has_saved = 0
                native.mask = native.saved_mask
            self.refresh_host_mask()
