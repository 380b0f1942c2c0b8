"""The process that compiles regions: ``python -m tandemu.jit.regions.worker FD keep|forget``.

It is apart so that compiling neither holds Python's lock nor its memory in the process
that runs the guest, and so that a failed assertion inside LLVM ends this process only.
It answers requests in order until its socket is closed. LLVM keeps some memory of each
region, so that now and then it begins anew, in the same process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys

from tandemu.isa.catalogue import find_isa
from tandemu.jit.regions.channel import receive, send
from tandemu.jit.regions.compiler import compile_request
from tandemu.jit.regions.request import Region, RegionRequest, pack, unpack
from tandemu.jit.regions.store import RegionStore

_NICE = 10
_LIMIT_S = 20.0
"""Processor time for one region: twenty times what the largest takes."""
_GROWTH = 64 << 20
"""Bytes of memory that it takes before it begins anew: what some 6,000 regions leave."""


def serve(connection: socket.socket, store: RegionStore | None) -> bool:
    """Answer requests until the other side is gone: False; or too much memory is taken: True."""
    allowed: int | None = None
    while (data := receive(connection)) is not None:
        request = unpack(data)
        assert isinstance(request, RegionRequest)
        # Should it not come to an end, this process does: that is noticed, and not repeated.
        signal.setitimer(signal.ITIMER_VIRTUAL, _LIMIT_S)
        answer = compile_request(find_isa(request.kind.isa), request)
        try:
            send(connection, pack(answer))
        finally:
            # Whoever asked may be gone by now: the next one finds it.
            if store is not None and isinstance(answer, Region):
                store.save(answer)
        resident = _resident()
        allowed = allowed or resident + _GROWTH
        if resident > allowed:
            return True
    return False


def _resident() -> int:
    """Bytes of memory that this process takes; 0 if Linux does not say."""
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
    return 0


def main() -> None:
    """Serve the socket whose descriptor is the first argument; keep regions if told so."""
    # Guest code waits for nothing here: whoever runs it goes first. Linux may weigh sessions
    # before processes, and this one has a session of its own.
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write(str(_NICE))
    connection = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(OSError, KeyboardInterrupt):
        if serve(connection, RegionStore() if sys.argv[2] == "keep" else None):
            os.execv(sys.executable, sys.orig_argv)  # what was asked since waits in the socket


if __name__ == "__main__":
    main()
