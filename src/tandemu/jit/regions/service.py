"""The way from those who run guest code to the process that compiles it.

One service serves all vCPUs of a process. It remembers what was compiled, knows what is
on disk, and starts the compiler's process with the first request. Should that end (LLVM
ends its process when an assertion fails), what it was at is not asked for again, and
another one is started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable
from functools import cache

from tandemu.accel.user import DescriptorKeeper
from tandemu.jit.regions.channel import receive, send
from tandemu.jit.regions.request import (
    HOT,
    Refusal,
    Region,
    RegionKind,
    RegionRequest,
    pack,
    unpack,
)
from tandemu.jit.regions.store import RegionStore
from tandemu.jit.shared.layout import KNOWN_BITS
from tandemu.jit.shared.tags import block_tag
from tandemu.memory.layout import PAGE_SIZE
from tandemu.native import NativeError

Start = Callable[..., int]
"""`routines.build_start_worker`, loaded."""
Deliver = Callable[[Region | None], None]
"""Told of what came of a request, on the service's thread."""

_PROCESS_LIMIT = 5
"""So many compiler processes may end one after another, with no answer between, before there is
none any more."""
_IDLE_S = 0.2
"""After so long without a request the service's thread ends, until there is one."""
_QUEUE_LIMIT = 128
"""Requests that may wait: a guest can have new code faster than any compiler."""
_MEMORY_LIMIT = 64 << 20
"""Bytes of regions in memory before all are forgotten: some 8,000 of usual size."""
_REFUSED_LIMIT = 8192
"""The same for refusals."""


def known_bit(tag: int) -> int:
    """As `dispatcher.sample_number`: the place of *tag* in the filter of known regions."""
    return (tag >> 1 ^ tag >> 11 ^ tag >> 23) & (KNOWN_BITS - 1)


def _code(request: RegionRequest) -> tuple[RegionKind, int, int]:
    """What tells the code that is asked for."""
    page = request.pages.get(request.pc & -PAGE_SIZE, b"")
    return request.kind, request.pc, zlib.crc32(page)


class RegionService:
    """Compiles regions and remembers them; all methods may be called from any thread."""

    def __init__(self, store: RegionStore | None) -> None:
        self._store = store
        self._memory = (ctypes.c_uint8 * (KNOWN_BITS // 8))()
        self.filter_address = ctypes.addressof(self._memory)
        """Host address of the filter of known regions, which generated code looks at."""
        self.descriptors: DescriptorKeeper = OPEN_DESCRIPTORS
        self.thread_begins: Callable[[], None] = _do_nothing
        """Called before the service's thread is made, by who asks for a region."""
        self._connection: socket.socket | None = None
        self._far_end = -1
        """The descriptor of the compiler's end of the connection, until it has it."""
        self._regions: dict[tuple[RegionKind, int], list[Region]] = {}
        self._on_page: dict[tuple[RegionKind, int], list[Region]] = {}
        """The same by the pages that their code is on."""
        self._bytes = 0
        self._files: dict[tuple[RegionKind, int], list[str]] | None = None
        self._start_worker: Start | None = None
        self.counts: Counter[str] = Counter()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Begin without a process: at first, and in the child of a fork."""
        self._disconnect()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._queue: deque[RegionRequest] = deque()
        self._waiting: dict[tuple[RegionKind, int, int], list[Deliver]] = {}
        self._refused: set[tuple[RegionKind, int, int]] = set()
        """By the guest code of the page too: other code may stand there later."""
        self._ends = 0
        self._has_begun = False

    @property
    def running(self) -> bool:
        """Whether the compiler's process has been started."""
        return self._has_begun

    def statistics(self) -> dict[str, int]:
        """What was compiled and loaded in this process, by name of the counter."""
        names = ("compiled", "loaded", "refused", "compile_us", "compiler_ends")
        return {f"regions_{name}": self.counts[name] for name in names}

    # What is known -----------------------------------------------------------------------

    def open(self, start_worker: Start | None = None) -> None:
        """Find out what is on disk, if that is not known; *start_worker* is the routine."""
        with self._condition:
            self._start_worker = start_worker or self._start_worker
            if self._files is None:
                self._files = {} if self._store is None else self._store.index()
                for kind, pc in self._files:
                    self._note(kind, pc)

    def _note(self, kind: RegionKind, pc: int) -> None:
        bit = known_bit(block_tag(kind.context, pc))
        self._memory[bit >> 3] |= 1 << (bit & 7)

    def _remember(self, region: Region) -> None:
        if self._bytes > _MEMORY_LIMIT:
            self._regions.clear()
            self._on_page.clear()
            self._files = None
            self._bytes = 0
        self._bytes += region.memory()
        self._regions.setdefault((region.kind, region.pc), []).append(region)
        for page in region.pages():
            self._on_page.setdefault((region.kind, page), []).append(region)

    def find(self, kind: RegionKind, pc: int) -> list[Region]:
        """The regions for *pc* that there are, the best first: for one guest code or another."""
        self.open()
        with self._condition:
            key = kind, pc
            assert self._files is not None
            for name in self._files.pop(key, ()):
                region = self._store.load(name) if self._store is not None else None
                if region is not None and (region.kind, region.pc) == key:
                    self.counts["loaded"] += 1
                    self._remember(region)
            return sorted(self._regions.get(key, ()), key=lambda one: -one.level)

    def has_inside(self, request: RegionRequest) -> bool:
        """Whether another region has the code that is asked for inside.

        Control is soon in there, then. One that begins at *pc* is worth it for what is very
        hot only: a function with many loops would be compiled once for each.
        """
        with self._condition:
            around = [
                one
                for one in self._on_page.get((request.kind, request.pc & -PAGE_SIZE), ())
                if any(start < request.pc < start + len(code) for start, code in one.extents)
            ]
        return any(one.fits(request.pages) for one in around)

    # What is asked for -------------------------------------------------------------------

    def ask(self, request: RegionRequest, deliver: Deliver) -> bool:
        """Have a region compiled; False if it is known to be in vain, or too much by now."""
        key = request.kind, request.pc, request.level
        with self._condition:
            if self._ends >= _PROCESS_LIMIT or len(self._queue) >= _QUEUE_LIMIT:
                return False
            if _code(request) in self._refused:
                return False
            # On the thread that runs the guest, which cannot see a descriptor half hidden.
            if not self._connect():
                return False
            if self._thread is None and not self._start_thread():
                return False
            waiting = self._waiting.setdefault(key, [])
            waiting.append(deliver)
            if len(waiting) == 1:
                self._queue.append(request)
                self._condition.notify()
        return True

    def _start_thread(self) -> bool:
        """Start the thread that talks to the compiler; False if the host lets us have none."""
        thread = threading.Thread(target=self._run, name="tandemu-regions", daemon=True)
        # Signals are for the threads that run a guest: a new thread begins with its maker's
        # mask, and a program's signal must not find it before it could block them itself.
        self.thread_begins()
        everything = signal.valid_signals()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        try:
            thread.start()
        except RuntimeError:  # a guest program may have lowered its limits
            self._ends = _PROCESS_LIMIT
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, everything - blocked)
        self._thread = thread
        self._has_begun = True
        return True

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._queue:
                    if not self._condition.wait(_IDLE_S) and not self._queue:
                        # A program forks faster without a thread of ours.
                        self._thread = None
                        return
                request = self._queue.popleft()
            vain = request.level == HOT and self.has_inside(request)
            answer = None if vain else self._compile(request)
            with self._condition:
                region = answer if isinstance(answer, Region) else None
                if region is not None:
                    self.counts["compiled"] += 1
                    self.counts["compile_us"] += region.nanoseconds // 1000
                    self._remember(region)
                    self._note(region.kind, region.pc)
                elif answer is not None:
                    self.counts["refused"] += 1
                    if len(self._refused) == _REFUSED_LIMIT:
                        self._refused.clear()
                    self._refused.add(_code(request))
                waiting = self._waiting.pop((request.kind, request.pc, request.level), [])
            for deliver in waiting:
                deliver(region)

    def _compile(self, request: RegionRequest) -> Region | Refusal:
        try:
            if self._connection is None and not self._connect():
                raise OSError("there is no descriptor left")
            connection = self._connection
            assert connection is not None
            if self._far_end >= 0:
                self._start_process()
            send(connection, pack(request))
            data = receive(connection)
            if data is None:
                raise OSError("the compiler's process has ended")
            answer = unpack(data)
            assert not isinstance(answer, RegionRequest)
            self._ends = 0
            return answer
        except (OSError, NativeError) as error:
            self._ends += 1
            self.counts["compiler_ends"] += 1
            self._disconnect()
            return Refusal(request.kind, request.pc, str(error))

    def _connect(self) -> bool:
        """Have a connection, whose other end waits for a process; False if there cannot be."""
        if self._connection is None:
            try:
                ours, theirs = socket.socketpair()
            except OSError:
                return False
            hide = self.descriptors.hide
            self._connection = socket.socket(fileno=hide(ours.detach()))
            self._far_end = hide(theirs.detach())
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self.descriptors.close(self._connection.detach())
            self._connection = None
        self._release_far_end()

    def _release_far_end(self) -> None:
        if self._far_end >= 0:
            self.descriptors.close(self._far_end)
            self._far_end = -1

    def _start_process(self) -> None:
        """Start the compiler at the far end of the connection."""
        keep = "keep" if self._store is not None else "forget"
        assert self._start_worker is not None
        start_worker(self._start_worker, self._far_end, keep)
        self._release_far_end()


def _do_nothing() -> None:
    """For who does not care when the service's thread begins."""


class _OpenDescriptors:
    """For a process whose descriptors are all of one owner (`accel.user.DescriptorKeeper`)."""

    def hide(self, descriptor: int) -> int:
        return descriptor

    def close(self, descriptor: int) -> None:
        os.close(descriptor)


OPEN_DESCRIPTORS = _OpenDescriptors()


_WAIT_CLONE = -(1 << 31)
"""Linux's __WCLONE as a signed number: wait for children that send no signal."""


def start_worker(start: Start, descriptor: int, keep: str) -> None:
    """Start the compiler's process with *descriptor* as its socket, by the native routine."""
    if not sys.executable:
        raise OSError("there is no Python to run the compiler with")
    package = sys.modules[__name__.partition(".")[0]]
    root = os.path.dirname(os.path.dirname(os.path.abspath(package.__file__ or "")))
    program = (
        f"import sys; sys.path.insert(0, {root!r}); "
        "from tandemu.jit.regions.worker import main; main()"
    )
    path = ctypes.create_string_buffer(os.fsencode(sys.executable))
    words = [sys.executable, "-c", program, str(descriptor), keep]
    arguments = _strings([os.fsencode(word) for word in words])
    environment = _strings([name + b"=" + value for name, value in os.environb.items()])
    null = ctypes.create_string_buffer(os.fsencode(os.devnull))
    mask = ctypes.c_uint64(0)
    between = start(
        ctypes.addressof(path),
        ctypes.addressof(arguments),
        ctypes.addressof(environment),
        descriptor,
        ctypes.addressof(null),
        ctypes.addressof(mask),
    )
    if between >> 63:
        raise OSError("the host starts no process for the compiler")
    os.waitpid(between, _WAIT_CLONE)


def _strings(words: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)


@cache
def region_service(kept: bool) -> RegionService:
    """The service of this process, with the user's store if regions are to be *kept*."""
    return RegionService(RegionStore() if kept else None)
