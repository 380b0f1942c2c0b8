"""Generated sequences of system calls: under Tandemu as on the host's kernel.

One C program, compiled for both, makes the calls of a script and prints results, error
numbers, what is in memory, and which handlers ran. No path leads out of a sequence's own folder:
whoever runs this may be root.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.linux.conftest import TIMEOUT_S, run_exec
from tests.long import LONG

pytestmark = pytest.mark.guest

Argument = st.SearchStrategy[str]


def numbers(*values: int) -> Argument:
    return st.sampled_from([str(value) for value in values])


FILE = numbers(3, 4, 5, 6, 7, 8, -1, 99, 1000)
FOLDER = numbers(-100, -100, -100, 3, 99)
SIZE = numbers(0, 1, 3, 8, 100, 4096, 5000, 1 << 40, -1)
SMALL = numbers(0, 1, 3, 8, 100)
PATH = st.one_of(
    st.integers(0, 11).map(lambda n: f"p{n}"),
    st.sampled_from(["p0", "p1", "p2", "p4", "x0", "k0", "0"]),
)
BUFFER = st.sampled_from(["b0", "b8", "b64", "b512", "b4090", "m0", "m1", "x0", "k0", "0"])
ROOM = st.sampled_from(["b0", "b16", "b256", "b1024"])
PAGE = st.integers(0, 24).map(lambda n: f"m{n}")
LENGTH = numbers(0, 1, 4096, 4097, 8192, 12288, 40960, -1)
PROTECTION = numbers(0, 1, 3, 3, 2, 8)
SIGNAL = numbers(10, 12, 34, 9, 65, 0)
OPEN_FLAGS = numbers(0, 2, 0o102, 0o1101, 0o200000, 0o10000000, 0o400000)
MAP_FLAGS = numbers(0x32, 0x32, 0x22, 0x100022, 0x31, 0x30, 0x10)
OFFSET = numbers(0, 1, 100, 5000, -1)

CALLS: dict[str, tuple[Argument, ...]] = {
    "openat": (FOLDER, PATH, OPEN_FLAGS, numbers(0o644, 0o600)),
    "close": (FILE,),
    "read": (FILE, BUFFER, SIZE),
    "write": (FILE, BUFFER, SIZE),
    "pread": (FILE, BUFFER, SMALL, OFFSET),
    "pwrite": (FILE, BUFFER, SMALL, OFFSET),
    "lseek": (FILE, OFFSET, numbers(0, 1, 2, 9)),
    "dup": (FILE,),
    "dup3": (FILE, numbers(3, 7, 8, -1), numbers(0, 0o2000000, 1)),
    "pipe2": (BUFFER, numbers(0, 0o4000, 7)),
    "fcntl": (FILE, numbers(1, 2, 3, 1030, 0, 999), numbers(0, 1, 5)),
    "ftruncate": (FILE, OFFSET),
    "truncate": (PATH, OFFSET),
    "mkdirat": (FOLDER, PATH, numbers(0o755)),
    "unlinkat": (FOLDER, PATH, numbers(0, 0x200, 7)),
    "symlinkat": (PATH, FOLDER, PATH),
    "linkat": (FOLDER, PATH, FOLDER, PATH, numbers(0, 0x400)),
    "renameat2": (FOLDER, PATH, FOLDER, PATH, numbers(0, 1, 2, 9)),
    "readlinkat": (FOLDER, PATH, BUFFER, SMALL),
    "faccessat": (FOLDER, PATH, numbers(0, 4, 1, 9)),
    "fchmodat": (FOLDER, PATH, numbers(0o600, 0o644)),
    "stat": (FOLDER, PATH, numbers(0, 0x100, 0x1000, 7)),
    "fstat": (FILE,),
    "chdir": (st.sampled_from(["p2", "p7", "p6", "x0", "k0"]),),
    "mmap": (PAGE, LENGTH, PROTECTION, MAP_FLAGS, numbers(-1, 3), numbers(0, 1)),
    "munmap": (PAGE, LENGTH),
    "mprotect": (PAGE, LENGTH, PROTECTION),
    "mremap": (PAGE, LENGTH, LENGTH, numbers(0, 1, 9)),
    "madvise": (PAGE, LENGTH, numbers(4, 0, 3, 99)),
    "msync": (PAGE, LENGTH, numbers(4, 1, 5)),
    "brk": (numbers(0, 4096, 10000),),
    "socketpair": (numbers(1), numbers(1, 2, 0o4001), numbers(0, 9), BUFFER),
    "sendto": (FILE, BUFFER, SMALL, numbers(0x4040), numbers(0), numbers(0)),
    "recvfrom": (FILE, BUFFER, SMALL, numbers(0x40), numbers(0), numbers(0)),
    "shutdown": (FILE, numbers(0, 1, 2, 7)),
    "getsockopt": (FILE, numbers(1), numbers(3, 4, 99), BUFFER, BUFFER),
    "rt_sigprocmask": (numbers(0, 1, 2, 7), ROOM, BUFFER, numbers(8, 4)),
    "rt_sigpending": (BUFFER, numbers(8, 4, 16)),
    "word": (ROOM, numbers(0, 0x200, 0x800, 0x200000A00, 0x10)),
    "sigaction": (SIGNAL, numbers(0, 1, 2), numbers(0, 0x10000000, 0x40000000, 4)),
    "raise": (SIGNAL, numbers(0, 1)),
    "sigaltstack": (BUFFER, BUFFER),
    "umask": (numbers(0o22, 0o77),),
    "flock": (FILE, numbers(1, 2, 8, 5)),
    "epoll_create1": (numbers(0, 1),),
    "epoll_ctl": (FILE, numbers(1, 2, 3, 9), FILE, st.sampled_from(["e0", "e0", "x0", "k0", "0"])),
    "epoll_wait": (FILE, numbers(0, 1, 4, -1)),
    "event": (numbers(1, 4, 5), numbers(7, 1 << 40)),
    "eventfd2": (numbers(0, 3, 9), numbers(0, 0o4000, 7)),
    "poll": (FILE, numbers(1, 4, 5), FILE, numbers(0, 1, 2, 2)),
    "fallocate": (FILE, numbers(0, 1, 99), OFFSET, SMALL),
    "vectors": (ROOM, BUFFER, BUFFER, BUFFER, numbers(0, 1, 20)),
    "readv": (FILE, ROOM, numbers(0, 1, 3, 1025, -1)),
    "writev": (FILE, st.one_of(ROOM, BUFFER), numbers(0, 1, 3, 1025, -1)),
    "message": (FILE, numbers(0, 1), BUFFER, SMALL, numbers(0, 1, 2, 5)),
    "ioctl": (FILE, numbers(0x541B, 0x5421, 0x5450, 0x5401), BUFFER),
}  # fmt: skip


def call(name: str) -> st.SearchStrategy[str]:
    return st.tuples(*CALLS[name]).map(lambda words: " ".join((name, *words)))


NAMES = sorted(set(CALLS) - {"read", "readv", "pipe2", "socketpair", "eventfd2", "flock", "dup3"})
BEGINNINGS = (
    "openat -100 p0 66 420",
    "openat -100 p0 66 420\nwrite 3 b0 100\nlseek 3 0 0",
    "pipe2 b2048 2048",
    "socketpair 1 2049 0 b2048",
    "mkdirat -100 p2 493\nopenat -100 p2 0 0",
    "eventfd2 5 2048\nepoll_create1 0",
    "mmap m0 16384 3 50 -1 0",
    "sigaction 10 2 0\nsigaction 12 2 268435456\nsigaction 34 2 0",
)
SEQUENCE = st.tuples(
    st.lists(st.sampled_from(BEGINNINGS), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from([*NAMES, "read", "readv"]).flatmap(call), min_size=5, max_size=25),
).map(lambda parts: "\n".join(["---", *parts[0], *parts[1]]))


@settings(
    max_examples=40 if LONG else 2,
    deadline=None,
    derandomize=not LONG,
    database=None,
    phases=[Phase.generate, *([Phase.shrink] if LONG else [])],
    suppress_health_check=list(HealthCheck),
)
@given(sequences=st.lists(SEQUENCE, min_size=40, max_size=60))
def test_sequences(
    sequences: list[str],
    build: Callable[..., Path],
    build_native: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    script = tmp_path_factory.mktemp("script") / "script"
    script.write_text("\n".join([*sequences, ""]))
    theirs_at, ours_at = (tmp_path_factory.mktemp(name) for name in ("theirs", "ours"))
    theirs = subprocess.run(
        [build_native("sequence"), script], capture_output=True, cwd=theirs_at, timeout=TIMEOUT_S,
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    ours = run_exec(build("sequence"), script, cwd=ours_at)
    assert ours.stdout.decode().splitlines() == theirs.stdout.decode().splitlines()
