"""A guest thread: its processor, its signal mask and queue, its loop.

One `Task` runs on one host thread, and is known to guest and host by the same number.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import mmap
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from tandemu.accel.user import (
    Breakpoint,
    IllegalInstruction,
    Kicked,
    MemoryFault,
    Misaligned,
    ReturnedCall,
    SystemCall,
    UserCpu,
    UserExit,
)
from tandemu.linux import host, signals
from tandemu.linux.errors import ImageReplaced, ProgramEnded
from tandemu.linux.growth import grow_down
from tandemu.linux.host import NUMBERS, SIGNAL_KICK, HostFault, bit
from tandemu.linux.native.layout import THREAD
from tandemu.linux.seccomp import Restrictions
from tandemu.linux.signals import (
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESETHAND,
    SA_RESTART,
    SIGBUS,
    SIGILL,
    SIGPIPE,
    SIGSEGV,
    SIGTRAP,
    SIGXFSZ,
    SS_AUTODISARM,
    SS_DISABLE,
    Action,
)

if TYPE_CHECKING:
    from tandemu.linux.kernel import Kernel

_EINTR = -errno.EINTR
_SIGNAL_OF = {-errno.EPIPE: bit(SIGPIPE), -errno.EFBIG: bit(SIGXFSZ)}
"""What the host's kernel has sent to the very thread whose call ends so."""
_SEGV_MAPERR, _SEGV_ACCERR, _ILL_ILLOPC, _BUS_ADRALN, _BUS_ADRERR, _TRAP_BRKPT = 1, 2, 1, 1, 2, 1
_TGKILL = NUMBERS["tgkill"]
_SCRATCH_SIZE = 256
_UNMASKABLE = bit(9) | bit(19)


class Task:
    """One guest thread."""

    def __init__(self, kernel: Kernel, cpu: UserCpu, mask: int) -> None:
        self.kernel = kernel
        self.memory = kernel.memory
        self.cpu: UserCpu
        self.state: Any
        self.mask = mask
        self.tid = _thread.get_native_id()
        self.pending: deque[tuple[int, bytes]] = deque()
        self.attention = False
        """Set by anybody: something waits for the loop to come by."""
        self.stale_mask = False
        self.ending = False
        """The thread must end as soon as it comes by."""
        self.saved_mask: int | None = None
        """The mask to go back to when a call with a mask of its own is over."""
        self.alternate = (0, SS_DISABLE, 0)
        self.clear_tid = 0
        self.robust_list = 0
        self.exit_status = 0
        self.restrictions: Restrictions | None = None
        """What seccomp(2) has forbidden."""
        self.scratch = ctypes.create_string_buffer(_SCRATCH_SIZE)
        """For what a call gets from the host's kernel before the guest gets it."""
        self.scratch_address = ctypes.addressof(self.scratch)
        # Pages of an anonymous mapping cost memory only once touched.
        self._native_memory = mmap.mmap(
            -1, THREAD.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self.native_address = ctypes.addressof(ctypes.c_char.from_buffer(self._native_memory))
        """Host address of what native calls know of this thread (`native.layout.THREAD`)."""
        native = THREAD.at(self.native_address)
        native.self = self.native_address
        native.process = kernel.native.process_address
        self._attach(cpu)
        host.set_thread_pointer(self.native_address)

    def _attach(self, cpu: UserCpu) -> None:
        """Run on *cpu*."""
        self.cpu, self.state = cpu, cpu.state
        THREAD.at(self.native_address).request = cpu.request_address
        cpu.set_call_context(self.native_address)

    def revive(self, cpu: UserCpu) -> None:
        """The thread is over, and begins anew on *cpu*. Only on the thread itself."""
        self._attach(cpu)
        self.attention = self.ending = self.stale_mask = False
        self.refresh_host_mask()

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
            elif type(leaving) is ReturnedCall:
                result = leaving.result
            else:
                self._handle(leaving)
                continue
            if self.attention:
                self._settle(number, result)
            elif result is None:
                continue
            elif result >= 0:
                x[first] = result
            elif result == _EINTR:
                self._settle(number, result)
            else:
                x[first] = result
                if result in _SIGNAL_OF:
                    # It is blocked there if it is handled.
                    kernel.signals.collect(self, _SIGNAL_OF[result] & ~self.mask)
                    if self.attention:
                        self._settle(None, None)

    def _handle(self, leaving: UserExit) -> None:
        """An exit that is no system call."""
        if isinstance(leaving, Kicked):
            if self.attention:
                self._settle(None, None)
        elif isinstance(leaving, MemoryFault):
            mapping = self.memory.find(leaving.address)
            if mapping is None and grow_down(self.memory, leaving.address):
                return
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
        self._enter(signal, details, action)

    # From other threads -------------------------------------------------------------------

    def kick(self) -> None:
        """Have this thread come by its loop soon. Any thread."""
        self.attention = True
        self.cpu.kick()
        if self.tid != _thread.get_native_id():
            host.quick(_TGKILL, os.getpid(), self.tid, SIGNAL_KICK)

    # Signals ------------------------------------------------------------------------------

    def refresh_host_mask(self) -> None:
        """Tell the host's kernel what this thread blocks. Only on the thread itself."""
        host.set_mask(self.kernel.signals.host_mask(self.mask))

    def set_mask(self, mask: int) -> None:
        """Change the signal mask; what waits for it is queued."""
        mask &= ~_UNMASKABLE
        old = self.mask
        if mask == old:
            return
        state = self.kernel.signals
        self.mask = mask
        if state.handled:
            state.watch()
        if (old ^ mask) & ~state.handled:
            self.refresh_host_mask()
        if old & ~mask:
            state.collect(self, old & ~mask)
            if self.pending:
                self.attention = True

    def is_due(self) -> bool:
        """Whether a queued signal would be delivered now."""
        return any(not self.mask & bit(signal) for signal, _ in self.pending)

    def _settle(self, number: int | None, result: int | None) -> None:
        """Before going on: end, deliver signals, repeat what was interrupted.

        *number* and *result* are of the system call just made, None if there was none;
        its first argument is still in its register.
        """
        self.attention = False
        if self.ending:
            raise ProgramEnded
        if self.stale_mask:
            self.stale_mask = False
            self.refresh_host_mask()
        kernel = self.kernel
        due = self._take_due()
        interrupted = number is not None and result == _EINTR
        if interrupted:
            assert number is not None
            again = due is None or (
                bool(self._action(due[0]).flags & SA_RESTART)
                and kernel.restarts(number, self._arguments())
            )
            if again:
                self.state.pc -= kernel.architecture.call_size
            else:
                self.state.x[kernel.architecture.first_register] = _EINTR
        elif result is not None:
            self.state.x[kernel.architecture.first_register] = result
        while due is not None:
            self._deliver(*due)
            due = self._take_due()
        if self.saved_mask is not None:
            mask, self.saved_mask = self.saved_mask, None
            self.set_mask(mask)

    def _arguments(self) -> list[int]:
        first = self.kernel.architecture.first_register
        arguments: list[int] = self.state.x[first : first + 6]
        return arguments

    def _action(self, signal: int) -> Action:
        return self.kernel.signals.actions[signal]

    def _take_due(self) -> tuple[int, bytes] | None:
        """The next queued signal to act on; blocked and ignored ones are put where they belong."""
        kept = []
        found = None
        while self.pending:
            signal, details = self.pending.popleft()
            action = self._action(signal)
            if self.mask & bit(signal):
                if self.kernel.signals.host_mask(0) & bit(signal):
                    signals.send_back(signal, details)
                else:
                    kept.append((signal, details))
            elif action.handler == 1 or (
                action.handler == 0 and signal in signals.IGNORED_BY_DEFAULT
            ):
                continue
            else:
                found = signal, details
                break
        self.pending.extend(kept)
        if found and self.pending:
            self.attention = True
        return found

    def _deliver(self, signal: int, details: bytes) -> None:
        action = self._action(signal)
        if action.handler == 0:
            self.kernel.act_by_default(self, signal)
        else:
            self._enter(signal, details, action)

    def _enter(self, signal: int, details: bytes, action: Action) -> None:
        """Have the handler run when the loop goes on."""
        kernel = self.kernel
        architecture = kernel.architecture
        stack = architecture.stack_pointer(self.state)
        start, flags, size = self.alternate
        disabled = flags & SS_DISABLE
        inside = not disabled and start < stack <= start + size
        top = stack
        if action.flags & SA_ONSTACK and not disabled and not inside:
            top = start + size
        place = (top - architecture.frame_size) & -16
        # The mask that comes back: the one before a call with a mask of its own.
        mask = self.mask if self.saved_mask is None else self.saved_mask
        self.saved_mask = None
        described = (start, flags | (1 if inside else 0), size)
        frame = architecture.build_frame(self.state, details, described, mask)
        try:
            if inside and place < start:
                raise HostFault
            self.memory.write(place, frame)
        except HostFault:
            # No room for the frame: what overflows its stack dies of SIGSEGV.
            kernel.die(self, SIGSEGV, place)
        if flags & SS_AUTODISARM and not disabled:
            self.alternate = (0, SS_DISABLE, 0)
        architecture.enter_handler(
            self.state, place, action.handler, signal, kernel.image.trampoline
        )
        blocked = self.mask | action.mask
        if not action.flags & SA_NODEFER:
            blocked |= bit(signal)
        if action.flags & SA_RESETHAND:
            kernel.signals.set_action(self, signal, Action(0, action.flags & ~SA_RESETHAND))
        self.set_mask(blocked)

    def leave_handler(self) -> None:
        """rt_sigreturn(2)."""
        architecture = self.kernel.architecture
        place = architecture.stack_pointer(self.state)
        try:
            frame = self.memory.read(place, architecture.frame_size)
        except HostFault:
            self.kernel.die(self, SIGSEGV, place)
        mask, (start, flags, size) = architecture.read_frame(self.state, frame)
        self.alternate = (start, flags & (SS_DISABLE | SS_AUTODISARM), size)
        self.set_mask(mask)
