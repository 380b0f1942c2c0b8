"""What to do where the host refuses files, threads or memory: which limit it is, and its name."""

from __future__ import annotations

import errno
import os
import resource

_NO_THREAD = "can't start new thread"


def explain(error: BaseException) -> str:
    """Which of this process's limits *error* comes from, with the mend; empty if from none."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may have {soft} files open and has: raise the limit (ulimit -n 4096)"
    if number == errno.ENFILE:
        return "the host has as many files open as it can: close some, or raise fs.file-max"
    if number == errno.ENOMEM or isinstance(error, MemoryError):
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            return (
                f"this process may have {soft >> 20} MiB of addresses: raise the limit "
                "(ulimit -v unlimited)"
            )
    if number == errno.EAGAIN or (isinstance(error, RuntimeError) and _NO_THREAD in str(error)):
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limit = "no limit" if soft == resource.RLIM_INFINITY else f"a limit of {soft}"
        return (
            f"the host starts no further thread or process (this user has {limit}): raise the "
            "limit (ulimit -u), or that of the container"
        )
    return ""


def host_memory_bytes() -> int:
    """How much memory there is for this process: the host's, or what its control group allows."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdecimal():
            total = min(total, int(text))
    return total
