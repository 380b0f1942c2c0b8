"""System calls of RISC-V only."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from tandemu.linux.calls.helpers import signed
from tandemu.linux.riscv64_processor import BIT_SETS, probe
from tandemu.linux.table import Calls

if TYPE_CHECKING:
    from tandemu.linux.memory import Memory
    from tandemu.linux.task import Task

calls = Calls()

_PAIR = struct.Struct("<qQ")
_MOST_PAIRS = 4096
_WHICH_CPUS = 1
_MOST_CPU_BYTES = 4096


@calls.row("riscv_flush_icache", "hex hex hex")
def _riscv_flush_icache(task: Task, start: int, end: int, flags: int) -> int:
    with task.kernel.memory_lock:
        task.memory.flush_code(start, end)
    return 0


@calls.row("riscv_hwprobe", "ptr size size ptr hex")
def _riscv_hwprobe(task: Task, pairs: int, count: int, cpu_size: int, cpus: int, flags: int) -> int:
    flags = signed(flags)
    if flags & ~_WHICH_CPUS or count > _MOST_PAIRS or cpu_size > _MOST_CPU_BYTES:
        return -errno.EINVAL
    memory = task.memory
    known = probe(memory.limit)
    if flags & _WHICH_CPUS:
        return _which_cpus(memory, known, pairs, count, cpu_size, cpus)
    if cpu_size and cpus and not _online(int.from_bytes(memory.read(cpus, cpu_size), "little")):
        return -errno.EINVAL
    for index in range(count):
        place = pairs + _PAIR.size * index
        key, _ = _PAIR.unpack(memory.read(place, _PAIR.size))
        # A key nobody knows is no error: it becomes -1.
        memory.write(place, _PAIR.pack(key if key in known else -1, known.get(key, 0)))
    return 0


def _online(wanted: int) -> int:
    """Which processors of a set there are."""
    return wanted & ((1 << (os.cpu_count() or 1)) - 1)


def _which_cpus(
    memory: Memory, known: dict[int, int], pairs: int, count: int, cpu_size: int, cpus: int
) -> int:
    """RISCV_HWPROBE_WHICH_CPUS: leave in the set what has all of *pairs*; all are alike."""
    if not cpus or not cpu_size:
        return -errno.EINVAL
    chosen = int.from_bytes(memory.read(cpus, cpu_size), "little")
    chosen = _online(chosen or (1 << 8 * cpu_size) - 1)
    for index in range(count):
        place = pairs + _PAIR.size * index
        key, wanted = _PAIR.unpack(memory.read(place, _PAIR.size))
        value = known.get(key, 0)
        if key not in known:
            memory.write(place, _PAIR.pack(-1, 0))
            chosen = 0
        elif (value & wanted if key in BIT_SETS else value) != wanted:
            chosen = 0
    memory.write(cpus, chosen.to_bytes(cpu_size, "little"))
    return 0
