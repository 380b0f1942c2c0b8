"""A hart as the board sees it: a vCPU that runs or waits to be started.

The states are those of RISC-V SBI 2.0, chapter 9 (HSM). Any thread may start a
hart; its own thread waits in `Hart.wait`, fetches where to begin and runs.
"""

from __future__ import annotations

import threading
from enum import IntEnum

from tandemu.accel import Vcpu


class HartState(IntEnum):
    """Numbers as ``sbi_hart_get_status`` returns them."""

    STARTED = 0
    STOPPED = 1
    START_PENDING = 2


class Hart:
    """Hart number *index* and its vCPU."""

    def __init__(self, index: int, vcpu: Vcpu) -> None:
        self.index = index
        self.vcpu = vcpu
        self.state = HartState.STOPPED
        self.address = 0
        self.opaque = 0
        self._released = False
        self._changed = threading.Condition()

    def start(self, address: int, opaque: int) -> bool:
        """Have a stopped hart begin at *address*; False if it is not stopped. Any thread."""
        with self._changed:
            if self.state is not HartState.STOPPED:
                return False
            self.address = address
            self.opaque = opaque
            self.state = HartState.START_PENDING
            self._changed.notify_all()
            return True

    def stop(self) -> None:
        """The hart, in its own thread, stops."""
        with self._changed:
            self.state = HartState.STOPPED

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the hart is asked to start, or to go on; False: released or late.

        The caller, the hart's own thread, then calls `begin`.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._released or self.state is not HartState.STOPPED, timeout_s
            )
            return not self._released and self.state is not HartState.STOPPED

    def begin(self) -> bool:
        """Start, if that is asked for; False: the hart goes on where its vCPU stands.

        The caller, the hart's own thread, puts *address* and *opaque* into the vCPU first
        thing after a start.
        """
        with self._changed:
            if self.state is not HartState.START_PENDING:
                return False
            self.state = HartState.STARTED
            return True

    def put(self, state: HartState, address: int, opaque: int) -> None:
        """Be in *state* from now on, as another machine's hart was. No thread runs it just now."""
        with self._changed:
            self.state, self.address, self.opaque = state, address, opaque
            self._changed.notify_all()

    def release(self) -> None:
        """Let `wait` return False for good: the machine ends. Any thread."""
        with self._changed:
            self._released = True
            self._changed.notify_all()
