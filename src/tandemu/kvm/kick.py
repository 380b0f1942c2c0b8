"""The signal that gets a thread out of `KVM_RUN`.

Nothing but its arrival counts: the kernel leaves `KVM_RUN` for it. It is not blocked, so
that programs started from a thread that runs a vCPU do not inherit a blocked signal, and
a handler that does nothing keeps it from ending the process; what else it interrupts the
kernel starts anew. A program that is started finds it as it always is.
"""

from __future__ import annotations

import ctypes
import os
import signal

SIGNAL = signal.SIGRTMIN + 1

_DEFAULT, _IGNORE = 0, 1
_TGKILL = 234
_library = ctypes.CDLL(None, use_errno=True)
_library.signal.restype = ctypes.c_void_p
_library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
# abs() takes an int, touches nothing and returns. Python's own handlers can be set by the
# main thread only, and have it do something.
_NOTHING = ctypes.cast(_library.abs, ctypes.c_void_p)


def prepare_thread() -> None:
    """Let the calling thread be kicked. A handler of the application's stays: it does as well."""
    before = _library.signal(SIGNAL, _NOTHING) or _DEFAULT
    if before not in (_DEFAULT, _IGNORE, _NOTHING.value):
        _library.signal(SIGNAL, before)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (SIGNAL,))


def send(thread: int) -> None:
    """Kick the thread that the kernel knows by that number; one that has ended: nothing."""
    _library.syscall(_TGKILL, os.getpid(), thread, SIGNAL)
