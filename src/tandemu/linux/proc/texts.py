"""What files of /proc/PID say of a program, by their names."""

from __future__ import annotations

import os
from collections.abc import Callable

from tandemu.linux import identity
from tandemu.linux.host import PAGE, SIGNAL_KICK, bit
from tandemu.linux.mappings import PROT_EXEC, PROT_WRITE
from tandemu.linux.proc.subject import Area, Subject
from tandemu.linux.signals import SIGBUS, SIGNALS, SIGSEGV

_OURS = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGNAL_KICK)
"""Signals that the translator catches, whatever the program does with them."""


def maps(subject: Subject, thread: int) -> str:
    """/proc/PID/maps."""
    return "".join(area.line() for area in subject.areas())


def smaps(subject: Subject, thread: int) -> str:
    """/proc/PID/smaps."""
    parts = []
    for area in subject.areas(details=True):
        parts.append(area.line())
        for line in area.details:
            told = line
            if line.startswith("VmFlags:"):
                told = line.replace(" dd", "")
                if area.protection & PROT_EXEC:
                    told = told.replace(" mr", " ex mr", 1)
            parts.append(told + "\n")
    return "".join(parts)


def smaps_rollup(subject: Subject, thread: int) -> str:
    """/proc/PID/smaps_rollup: the sums."""
    areas = subject.areas(details=True)
    if not areas:
        return ""
    start, end = areas[0].start, areas[-1].end
    sums: dict[str, int] = {}
    for area in areas:
        for line in area.details:
            key, _, rest = line.partition(":")
            if rest.endswith(" kB") and key not in ("Size", "KernelPageSize", "MMUPageSize"):
                sums[key] = sums.get(key, 0) + int(rest.split()[0])
    head = f"{start:08x}-{end:08x} ---p 00000000 00:00 0 ".ljust(73) + "[rollup]\n"
    return head + "".join(f"{key + ':':<16}{value:8} kB\n" for key, value in sums.items())


class _Sizes:
    """Sizes of a program's memory in kB, as fs/proc/task_mmu.c counts them."""

    def __init__(self, subject: Subject) -> None:
        areas = subject.areas(details=True)
        program = subject.program_area(areas)
        self.total = sum(map(_size, areas))
        self.resident = sum(area.number("Rss:") for area in areas)
        self.anonymous = sum(area.number("Anonymous:") for area in areas)
        self.shared_memory = sum(
            area.number("Rss:") for area in areas if area.is_shared and area.inode != "0"
        )
        self.file = max(0, self.resident - self.anonymous - self.shared_memory)
        self.swapped = sum(area.number("Swap:") for area in areas)
        self.locked = sum(area.number("Locked:") for area in areas)
        self.stack = sum(_size(area) for area in areas if area.name == "[stack]")
        code = [area for area in areas if area.protection & PROT_EXEC and area.inode != "0"]
        self.code = sum(_size(area) for area in code if program and area.name == program.name)
        self.libraries = sum(map(_size, code)) - self.code
        self.data = sum(
            _size(area)
            for area in areas
            if area.protection & PROT_WRITE and not area.is_shared and area.name != "[stack]"
        )
        kernel = subject.kernel
        if subject.traces is None:
            kernel.peaks = (
                max(kernel.peaks[0], self.total),
                max(kernel.peaks[1], self.resident),
            )
            self.most_total, self.most_resident = kernel.peaks
        else:
            self.most_total, self.most_resident = self.total, self.resident
        self.program = program
        following = [a for a in areas if program and a.name == program.name]
        self.writable = next((a for a in following if a.protection & PROT_WRITE), None)


def _size(area: Area) -> int:
    return (area.end - area.start) >> 10


def statm(subject: Subject, thread: int) -> str:
    """/proc/PID/statm, in pages."""
    sizes, unit = _Sizes(subject), PAGE >> 10
    numbers = (
        *(sizes.total, sizes.resident, sizes.file + sizes.shared_memory, sizes.code, 0),
        *(sizes.data + sizes.stack, 0),
    )
    return " ".join(str(number // unit) for number in numbers) + "\n"


def _signals(subject: Subject, thread: int) -> dict[str, int]:
    """Masks of the program at hand, by their names in status."""
    kernel = subject.kernel
    task = next((one for one in kernel.tasks if one.tid == thread), None)
    actions = kernel.signals.actions
    ignored = caught = 0
    for signal in range(1, SIGNALS + 1):
        ignored |= bit(signal) if actions[signal].handler == 1 else 0
        caught |= bit(signal) if actions[signal].handler > 1 else 0
    found = {"SigIgn": ignored, "SigCgt": caught}
    if task is not None:
        found["SigBlk"] = task.mask
    return found


def status(subject: Subject, thread: int) -> str:
    """/proc/PID/status, and of a thread."""
    name = f"task/{thread}/status" if thread else "status"
    text = subject.read(name).decode("utf-8", "surrogateescape")
    sizes = _Sizes(subject)
    kilobytes = {
        "VmPeak": sizes.most_total, "VmSize": sizes.total, "VmLck": sizes.locked, "VmPin": 0,
        "VmHWM": sizes.most_resident, "VmRSS": sizes.resident, "RssAnon": sizes.anonymous,
        "RssFile": sizes.file, "RssShmem": sizes.shared_memory, "VmData": sizes.data,
        "VmStk": sizes.stack, "VmExe": sizes.code, "VmLib": sizes.libraries,
        "VmSwap": sizes.swapped,
    }  # fmt: skip
    masks = _signals(subject, thread or subject.pid) if subject.traces is None else {}
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        told = line
        if key in kilobytes:
            told = f"{key}:\t{kilobytes[key]:8} kB"
        elif key in masks:
            told = f"{key}:\t{masks[key]:016x}"
        elif key == "SigCgt":
            told = f"{key}:\t{int(value, 16) & ~_OURS:016x}"
        elif key == "Threads":
            told = f"{key}:\t{len(subject.threads())}"
        lines.append(told + "\n")
    return "".join(lines)


def stat(subject: Subject, thread: int) -> str:
    """/proc/PID/stat, and of a thread. Fields by their numbers in proc(5)."""
    text = subject.read(f"task/{thread}/stat" if thread else "stat")
    head, fields = text[: text.rindex(b")") + 1], identity.stat_fields(text)
    sizes = _Sizes(subject)
    code, data = sizes.program, sizes.writable
    base = subject.base
    values = {
        20: len(subject.threads()), 23: sizes.total << 10, 24: (sizes.resident << 10) // PAGE,
        26: code.start if code else 0, 27: code.end if code else 0, 28: subject.stack,
        45: data.start if data else 0, 46: data.end if data else 0, 47: subject.heap,
    }  # fmt: skip
    for number in range(identity.ARG_START, identity.ENV_END + 1):
        place = int(fields[number - 3]) - base
        values[number] = place if 0 <= place < subject.size else 0
    if subject.traces is None:
        masks, low = _signals(subject, thread or subject.pid), 0x7FFFFFFF
        values[32] = masks.get("SigBlk", 0) & low
        values[33], values[34] = masks["SigIgn"] & low, masks["SigCgt"] & low
    else:
        values[34] = int(fields[34 - 3]) & ~_OURS
    for number, value in values.items():
        if number - 3 < len(fields):
            fields[number - 3] = b"%d" % value
    return (head + b" " + b" ".join(fields) + b"\n").decode("utf-8", "surrogateescape")


def limits(subject: Subject, thread: int) -> str:
    """/proc/PID/limits."""
    if subject.traces is None:
        return subject.kernel.limits.text()
    return subject.read("limits").decode()


def numa_maps(subject: Subject, thread: int) -> str:
    """/proc/PID/numa_maps: a line for each mapping that has pages."""
    lines = []
    for line in subject.read("numa_maps").decode("utf-8", "surrogateescape").splitlines():
        address, _, rest = line.partition(" ")
        place = int(address, 16) - subject.base
        if 0 <= place < subject.size:
            lines.append(f"{place:08x} {rest}\n")
    return "".join(lines)


def _memory(subject: Subject, start: int, end: int) -> str:
    data = subject.kernel.memory.read(start, end - start) if end > start else b""
    return data.decode("utf-8", "surrogateescape")


def cmdline(subject: Subject, thread: int) -> str:
    """/proc/PID/cmdline, where the host's kernel could not be told where it is."""
    return _memory(subject, *subject.kernel.image.arguments)


def environ(subject: Subject, thread: int) -> str:
    """/proc/PID/environ in the same case."""
    return _memory(subject, *subject.kernel.image.environment)


Text = Callable[[Subject, int], str]
"""What a file says of a process, or of the thread whose number is not 0."""

TEXTS: dict[str, Text] = {
    "maps": maps, "smaps": smaps, "smaps_rollup": smaps_rollup, "statm": statm, "status": status,
    "stat": stat, "limits": limits, "numa_maps": numa_maps,
}  # fmt: skip
UNTOLD: dict[str, Text] = {"cmdline": cmdline, "environ": environ}
"""Of the process itself, if the host's kernel does not know (`identity.publish`)."""


def processors(subject_text: str) -> str:
    """/proc/cpuinfo of as many processors as the host lends."""
    count = len(os.sched_getaffinity(0))
    return "".join(subject_text.format(number=number) for number in range(count))
