"""The guest's console in Python: what it printed, expecting and sending.

Output is kept as bytes (the last *limit_bytes* of it) and is decoded as UTF-8 when it
is asked for. Input is queued and handed to the guest as fast as it takes it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import partial

from tandemu.bits import Record
from tandemu.machine.errors import MachineError, MachineTimeout
from tandemu.machine.unread import Search, Unread

_OUTPUT_LIMIT_BYTES = 16 << 20
_INPUT_LIMIT_BYTES = 64 << 10
_SETTLE_S = 0.003
_QUIET_S = 1.0
_IDLE_SHARE = 0.05
"""Who uses less of a processor than this has nothing to do."""
_LONG_WORK_S = 5.0
_SHOWN_CHARACTERS = 400


class ConsoleTimeout(MachineTimeout):
    """The expected text did not come in time; the message shows what came last."""


class Port(Record):
    """The guest's end of a console: *receive* takes input and returns how many bytes were taken.

    *listening* says whether the guest has its receiver in use.
    """

    receive: Callable[[bytes], int]
    listening: Callable[[], bool]


def _nowhere(data: bytes) -> object:
    return None


class Console:
    """A machine's console. All methods may be called from any thread."""

    def __init__(self, limit_bytes: int = _OUTPUT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._output = bytearray()
        self._dropped = 0  # bytes that are no longer in _output
        self._unread = Unread(limit_bytes)
        self._decoded = 0  # bytes that _unread was given, counted from the first one ever
        self._reading = threading.Lock()
        self._calling: set[int] = set()  # threads that are inside of the mirror
        self._last_output_s = 0.0
        self._silent_since_s = self._silence_worked_s = 0.0
        self._looked = 0.0, 0.0
        """The clock, and the processor time of this process, when it was looked at last."""
        self._lock = threading.RLock()  # a condition's own methods cost a microsecond a character
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._ended = ""
        self._mirror: Callable[[bytes], object] = _nowhere
        self._port: Port | None = None
        self._input = bytearray()
        self._feeding = threading.Lock()
        self._held = False
        self._room = threading.Condition()

    # ---- the machine's side --------------------------------------------------------------

    def transmit(self, data: bytes) -> None:
        """Take what the guest printed. On a vCPU's thread: waits where the mirror does."""
        with self._lock:
            self._output += data
            if len(self._output) > self._limit:
                surplus = len(self._output) - self._limit * 3 // 4
                del self._output[:surplus]
                self._dropped += surplus
            if self._waiting:
                self._changed.notify_all()
        self._last_output_s = time.monotonic()
        self._mirror(data)

    def connect(self, port: Port | None) -> None:
        """Let input go to *port* (None: keep it)."""
        with self._feeding:
            self._port = port
        self.feed()

    def feed(self) -> None:
        """Hand queued input to the guest, as much as it takes."""
        with self._feeding:
            if self._port is None or self._held or not self._input:
                return
            taken = self._port.receive(bytes(self._input[:4096]))
            del self._input[:taken]
        if taken:
            with self._room:
                self._room.notify_all()

    def hold(self) -> None:
        """The machine is paused: keep input until `go_on`."""
        with self._feeding:
            self._held = True

    def go_on(self) -> None:
        """The machine goes on: hand over what was typed meanwhile."""
        with self._feeding:
            self._held = False
        self.feed()

    def opened(self) -> None:
        """The machine starts: expecting is possible."""
        with self._changed:
            self._ended = ""

    def closed(self, reason: str) -> None:
        """The machine ended: whoever waits for output or room is told *reason*."""
        with self._changed:
            self._ended = reason
            self._changed.notify_all()
        with self._room:
            self._room.notify_all()

    @property
    def printed(self) -> int:
        """How many bytes the guest has printed ever."""
        return self._dropped + len(self._output)

    def tail(self, limit_bytes: int, since: int = 0) -> bytes:
        """The end of the output, without what came before the byte numbered *since*."""
        with self._changed:
            start = max(len(self._output) - limit_bytes, since - self._dropped, 0)
            return bytes(self._output[start:])

    # ---- the user's side -----------------------------------------------------------------

    @property
    def output(self) -> str:
        """Everything the guest has printed (the last 16 MiB of it)."""
        with self._changed:
            return self._output.decode(errors="replace")

    def mirror(self, sink: Callable[[bytes], object] | None, *, calls_back: bool = True) -> None:
        """Also hand all further output to *sink*, on the vCPU's thread; None: to nobody.

        *calls_back*: whether it may call methods of the machine, some of which it must not.
        """
        if sink is not None and calls_back:
            self._mirror = partial(self._call, sink)
        else:
            self._mirror = sink or _nowhere

    def _call(self, sink: Callable[[bytes], object], data: bytes) -> None:
        caller = threading.get_ident()
        self._calling.add(caller)
        try:
            sink(data)
        finally:
            self._calling.discard(caller)

    def listening(self) -> bool:
        """Whether the guest seems to take input: it uses its receiver, or fell silent."""
        port = self._port
        if port is None:
            return False
        return port.listening() or self._is_silent()

    def _is_silent(self) -> bool:
        """Whether the guest prints nothing, and for want of input rather than for its work.

        A kernel that is busy with its start may print nothing for a second, for longer on a busy
        host, and then empties the receiver. Asked again and again, by one thread.
        """
        last_s = self._last_output_s
        if not last_s:
            return False
        now_s, worked_s = time.monotonic(), time.process_time()
        if last_s != self._silent_since_s:
            self._silent_since_s, self._silence_worked_s = last_s, worked_s
            self._looked = now_s, worked_s
            return False
        if worked_s - self._silence_worked_s > _LONG_WORK_S:
            return True
        looked_s, before_s = self._looked
        if now_s - looked_s < _QUIET_S:
            return False
        if worked_s - before_s < _IDLE_SHARE * (now_s - looked_s):
            return True
        self._looked = now_s, worked_s
        return False

    def offer(self, data: bytes) -> int:
        """Queue input as far as there is room; return how many bytes of it."""
        with self._feeding:
            taken = max(min(len(data), _INPUT_LIMIT_BYTES - len(self._input)), 0)
            self._input += data[:taken]
        self.feed()
        return taken

    def send(self, text: str | bytes, timeout: float = 30.0) -> None:
        """Type *text* on the console: as it is, so end a line with ``\\n``.

        Returns once it is queued; `ConsoleTimeout` if the guest does not take enough of
        it within *timeout* seconds, `MachineError` if the machine has ended.
        """
        data = text.encode() if isinstance(text, str) else text
        deadline = time.monotonic() + timeout
        while data:
            if self._ended:
                raise MachineError(f"nothing can be sent to the console: {self._ended}")
            data = data[self.offer(data) :]
            left = deadline - time.monotonic()
            if data and left <= 0:
                raise ConsoleTimeout(
                    f"the guest did not take its input within {timeout:g} s; {len(data)} bytes "
                    "are left. Is it waiting for input?"
                )
            if data:
                self._refuse_in_mirror("wait for room in the input")
                with self._room:
                    self._room.wait(min(left, 0.1))

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 60.0) -> re.Match[str]:
        """Wait until the guest prints *pattern*; return the match.

        A string stands for itself, a compiled expression is searched. Only output after
        the last match counts; the match uses up the output before it. `ConsoleTimeout`
        after *timeout* seconds; `MachineError` if the machine ends first.
        """
        return self._expect(pattern, timeout)[0]

    def read_until(self, pattern: str | re.Pattern[str], timeout: float = 60.0) -> str:
        """As `expect`, but return the output from the last match up to and with this one."""
        match, start = self._expect(pattern, timeout)
        return match.string[start : match.end()]

    # ---- inside --------------------------------------------------------------------------

    def _expect(self, pattern: str | re.Pattern[str], timeout: float) -> tuple[re.Match[str], int]:
        """The match, and where in its text the output begins that came after the last one."""
        self._refuse_in_mirror("expect")
        search = Search(pattern)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            with self._reading:
                ended = self._take_new()
                start = self._unread.position
                match = self._unread.find(search, last=bool(ended) or left <= 0)
                if match is not None:
                    used = self._unread.position - start
                    return match, match.end() - used
            if ended:
                raise MachineError(
                    f"{_shown(search.expression)} did not come on the console: {ended}. "
                    f"{_tail(self._unread_text())}"
                )
            if left <= 0:
                raise ConsoleTimeout(
                    f"{_shown(search.expression)} did not come on the console within "
                    f"{timeout:g} s. {_tail(self._unread_text())}"
                )
            # What is new is searched soon, whether more comes or not.
            due = search.not_before_s - time.monotonic()
            pause = max(due, 0) if self._unread.has_more(search) else left
            self._wait_for_more(min(left, pause))

    def _take_new(self) -> str:
        """Have what was printed since read as text; return why there will be no more, if so."""
        with self._changed:
            gap = self._decoded < self._dropped
            new = bytes(self._output[max(self._decoded - self._dropped, 0) :])
            self._decoded = self._dropped + len(self._output)
            ended = self._ended
        self._unread.feed(new, gap=gap)
        return ended

    def _unread_text(self) -> str:
        with self._reading:
            return self._unread.text()

    def _refuse_in_mirror(self, what: str) -> None:
        if threading.get_ident() in self._calling:
            raise MachineError(
                f"a function that the machine calls cannot {what}, since the guest waits for it: "
                "do that on another thread"
            )

    def _wait_for_more(self, timeout_s: float) -> None:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(
                    lambda: self._ended or self._dropped + len(self._output) != self._decoded,
                    timeout_s,
                )
            finally:
                self._waiting -= 1
        # A guest prints byte by byte: let some gather before searching again.
        time.sleep(min(_SETTLE_S, max(timeout_s, 0)))


def _shown(expression: re.Pattern[str]) -> str:
    return repr(expression.pattern)


def _tail(text: str) -> str:
    if not text.strip():
        return "The guest printed nothing since."
    return f"The guest's last words: {text[-_SHOWN_CHARACTERS:].strip()!r}"
