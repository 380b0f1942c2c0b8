"""Waiting for an event in such a way that signals are heard."""

from __future__ import annotations

import threading
import time

_SLICE_S = 0.5


def wait_for(event: threading.Event, timeout_s: float | None = None) -> bool:
    """Wait for *event* in slices.

    Python hears of a signal between two instructions or when a wait ends early for it. One that
    comes just before the wait begins would go unheard until the wait is over.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not event.is_set():
        left = _SLICE_S if deadline is None else min(deadline - time.monotonic(), _SLICE_S)
        if left <= 0:
            return False
        event.wait(left)
    return True
