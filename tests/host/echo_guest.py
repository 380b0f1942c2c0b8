"""A console whose guest echoes what it is sent, in brackets: a child of test_terminal."""

from __future__ import annotations

import os
import sys
import threading
import time

from tandemu.host import Command, Signalled, Terminal

REFUSALS = 3


def main(mode: str) -> int:
    done = threading.Event()
    refusals = REFUSALS if mode == "slow" else 0

    def receive(data: bytes) -> int:
        nonlocal refusals
        if mode == "deaf":
            return 0
        if refusals:
            refusals -= 1
            return min(1, len(data))
        terminal.write(b"<" + data + b">")
        return len(data)

    commands = {
        "stats": Command("numbers", lambda words: f"answer {words or 42}", "[WORD]"),
        "state": Command("another with the same beginning", lambda words: str(1 // 0)),
    }
    # The name must be bound before input can come, which it does on another thread.
    terminal = Terminal(receive, done.set, commands=commands)
    try:
        with terminal:
            terminal.write(b"ready %d\r\n" % os.getpid())
            if mode == "raise":
                raise ValueError("a mistake")
            # In slices, as `Machine.wait` does: a signal that comes just before a wait begins
            # is handled when the wait ends.
            deadline = time.monotonic() + 30
            while not done.wait(0.1) and time.monotonic() < deadline:
                pass
            terminal.write(b"\x1b[31mlast words")
    except Signalled as signalled:
        return 128 + signalled.number
    return 7


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
