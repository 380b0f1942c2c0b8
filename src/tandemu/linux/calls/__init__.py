"""The table of system calls: all rows of all modules."""

from __future__ import annotations

from tandemu.linux.calls import (
    aio,
    control,
    creating,
    executing,
    files,
    ioctls,
    ipc,
    memory,
    polling,
    processes,
    riscv,
    signals,
    sockets,
    system,
    times,
    transfers,
)
from tandemu.linux.table import Row

MODULES = (
    *(files, transfers, ioctls, memory, polling, sockets, creating, executing, processes),
    *(signals, times, system, ipc, control, aio, riscv),
)


def all_rows() -> list[Row]:
    """Every system call that is known, refused ones included."""
    return [row for module in MODULES for row in module.calls.rows]
