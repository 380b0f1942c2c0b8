"""One debugger's session: packets answered, all-stop.

"Debugging with GDB", appendix "GDB Remote Serial Protocol". The target stands still while packets
are answered; once it goes on, only an interrupt is heard until it stops. What is left out answers
with an empty packet, as the protocol says: tracepoints, files (vFile), non-stop mode, reverse
execution.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping
from typing import Any

from tandemu.bits import mask
from tandemu.debug.architecture import Register
from tandemu.debug.errors import DebugError
from tandemu.debug.packets import LONGEST_BYTES, Mark, PacketReader, escape, frame, unescape
from tandemu.debug.points import Points
from tandemu.debug.target import Cause, Step, Stop, Target

_MOST_BYTES = (LONGEST_BYTES - 16) // 2
_CHUNK = 1 << 16
_ALL, _ANY = -1, 0
_SEND_PATIENCE_S = 30.0


class _Goodbye(Exception):
    """The debugger has left."""


class Session:
    """Serves the debugger at the other end of *connection*. `serve` returns once it has left.

    Meanwhile *others* are watched: each is called when its socket can be read, and ends the session
    if it returns False.
    """

    def __init__(
        self,
        target: Target,
        connection: socket.socket,
        others: Mapping[socket.socket, Callable[[], bool]],
    ) -> None:
        self._target, self._connection, self._others = target, connection, others
        self._architecture = target.architecture
        self._reader = PacketReader()
        self._acknowledges = True
        self._last = b""
        self._runs = False
        self._points = Points(target)
        self._register_thread = self._run_thread = _ANY
        self._stop = Stop(Cause.SIGNAL, target.current())
        self._listed = 0
        self._breaks: set[bytes] = set()
        self._width = self._architecture.address_bits // 8
        self._commands: tuple[tuple[bytes, Callable[[bytes], bytes | None]], ...] = (
            (b"?", lambda _: self._stop_reply(self._stop)),
            (b"g", self._read_registers),
            (b"G", self._write_registers),
            (b"p", self._read_register),
            (b"P", self._write_register),
            (b"m", self._read_memory),
            (b"M", self._write_memory),
            (b"X", self._write_binary),
            (b"vCont?", lambda _: b"vCont;c;C;s;S;t;r"),
            (b"vCont;", self._continue),
            (b"vKill", self._kill),
            (b"vCtrlC", lambda _: b"OK"),
            (b"c", lambda text: self._continue_at(text, step=False)),
            (b"s", lambda text: self._continue_at(text, step=True)),
            (b"C", lambda text: self._continue_at(text.partition(b";")[2], step=False)),
            (b"S", lambda text: self._continue_at(text.partition(b";")[2], step=True)),
            (b"Z", self._insert),
            (b"z", self._remove),
            (b"H", self._choose_thread),
            (b"T", self._is_thread),
            (b"k", self._kill),
            (b"D", self._detach),
            (b"QStartNoAckMode", self._no_acknowledgements),
            (b"qSupported", self._supported),
            (b"qAttached", lambda _: b"1"),
            (b"qC", lambda _: b"QC%x" % self._target.current()),
            (b"qfThreadInfo", self._first_threads),
            (b"qsThreadInfo", lambda _: b"l"),
            (b"qThreadExtraInfo,", self._describe_thread),
            (b"qXfer:features:read:target.xml:", lambda text: self._piece(text, self._description)),
            (b"qXfer:threads:read::", lambda text: self._piece(text, self._thread_list())),
            (b"qRcmd,", self._command),
            (b"qSearch:memory:", self._search),
        )

    @property
    def _description(self) -> bytes:
        return self._architecture.description

    # The connection ----------------------------------------------------------------------

    def serve(self) -> None:
        """Answer until the debugger leaves; what it has set is gone then."""
        try:
            while True:
                self._turn()
        except (_Goodbye, OSError, DebugError):
            return

    def _turn(self) -> None:
        watched: list[Any] = [self._connection, self._target.descriptor, *self._others]
        ready, _, _ = select.select(watched, [], [])
        if self._target.descriptor in ready:
            stop = self._target.take_stop()
            if stop is not None and self._runs:
                self._tell_stop(stop)
            elif stop is not None and stop.cause in (Cause.ENDED, Cause.KILLED):
                raise _Goodbye  # by somebody else's hand while it stood still
        if self._connection in ready:
            data = self._connection.recv(_CHUNK)
            if not data:
                raise _Goodbye
            for one in self._reader.feed(data):
                self._take(one)
        for other, heard in self._others.items():
            if other in ready and not heard():
                raise _Goodbye

    def _take(self, one: bytes | Mark) -> None:
        if isinstance(one, Mark):
            if one is Mark.INTERRUPT and self._runs:
                self._target.interrupt()
            elif one is Mark.DAMAGED and self._acknowledges:
                self._send(b"-")
            elif one is Mark.REPEAT and self._acknowledges:
                self._send(self._last)
            return
        if self._acknowledges:
            self._send(b"+")
        try:
            answer = self._answer(one)
        except DebugError as error:
            answer = b"E." + escape(str(error).encode("ascii", "replace"))
        if answer is not None:
            self._reply(answer)

    def _send(self, data: bytes) -> None:
        self._connection.settimeout(_SEND_PATIENCE_S)
        self._connection.sendall(data)

    def _reply(self, payload: bytes) -> None:
        self._last = frame(payload)
        self._send(self._last)

    def _answer(self, packet: bytes) -> bytes | None:
        """The answer to *packet*; None: none yet."""
        if self._runs:
            if packet.startswith(b"vCtrlC"):
                self._target.interrupt()
                return b"OK"
            raise DebugError("it runs; interrupt it first")
        for name, command in self._commands:
            if packet.startswith(name):
                return command(packet[len(name) :])
        return b""

    # What it can do ----------------------------------------------------------------------

    def _supported(self, text: bytes) -> bytes:
        wanted = text.lstrip(b":").split(b";")
        self._breaks = {name for name in (b"swbreak", b"hwbreak") if name + b"+" in wanted}
        offered = (
            *(b"QStartNoAckMode+", b"qXfer:features:read+", b"qXfer:threads:read+"),
            *(b"vContSupported+", b"swbreak+", b"hwbreak+", b"ConditionalBreakpoints+"),
        )
        return b";".join((b"PacketSize=%x" % LONGEST_BYTES, *offered))

    def _no_acknowledgements(self, _: bytes) -> bytes | None:
        self._reply(b"OK")
        self._acknowledges = False
        return None

    def _piece(self, text: bytes, whole: bytes) -> bytes:
        """``offset,length`` of an object."""
        offset, length = _numbers(text, 2)
        piece = whole[offset : offset + min(length, _MOST_BYTES)]
        return (b"m" if offset + len(piece) < len(whole) else b"l") + escape(piece)

    # Threads -----------------------------------------------------------------------------

    def _thread(self, text: bytes) -> int:
        if text == b"-1":
            return _ALL
        (thread,) = _numbers(text, 1)
        if thread and thread not in self._target.threads():
            raise DebugError(f"there is no thread {thread}")
        return thread

    def _choose_thread(self, text: bytes) -> bytes:
        thread = self._thread(text[1:])
        if text[:1] == b"g":
            self._register_thread = thread
        elif text[:1] == b"c":
            self._run_thread = thread
        else:
            return b""
        return b"OK"

    @property
    def _chosen(self) -> int:
        thread = self._register_thread
        return thread if thread > 0 else self._target.current()

    def _is_thread(self, text: bytes) -> bytes:
        self._thread(text)
        return b"OK"

    def _first_threads(self, _: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % thread for thread in self._target.threads())

    def _describe_thread(self, text: bytes) -> bytes:
        return self._target.describe_thread(self._thread(text)).encode().hex().encode()

    def _thread_list(self) -> bytes:
        rows = "".join(
            f'<thread id="{thread:x}">{self._target.describe_thread(thread)}</thread>\n'
            for thread in self._target.threads()
        )
        return f'<?xml version="1.0"?>\n<threads>\n{rows}</threads>\n'.encode()

    # Registers ---------------------------------------------------------------------------

    def _register(self, number: int) -> bytes:
        register = self._architecture.registers[number]
        value = None
        if register.source:
            value = self._target.read_register(self._chosen, register.source)
        return _in_hex(register, value)

    def _read_registers(self, _: bytes) -> bytes:
        registers = self._architecture.registers[: self._architecture.general]
        values = self._target.read_registers(self._chosen, [one.source for one in registers])
        return b"".join(map(_in_hex, registers, values))

    def _put(self, number: int, data: bytes) -> None:
        register = self._architecture.registers[number]
        if not register.source:
            raise DebugError(f"register {register.name} cannot be written here")
        value = int.from_bytes(data, "little")
        self._target.write_register(self._chosen, register.source, value)

    def _write_registers(self, text: bytes) -> bytes:
        data = _from_hex(text)
        for number in range(self._architecture.general):
            size = self._architecture.registers[number].bytes
            if len(data) < size:
                raise DebugError("packet G holds fewer bytes than there are registers")
            self._put(number, data[:size])
            data = data[size:]
        return b"OK"

    def _number(self, text: bytes) -> int:
        (number,) = _numbers(text, 1)
        if not 0 <= number < len(self._architecture.registers):
            raise DebugError(f"there is no register {number}")
        return number

    def _read_register(self, text: bytes) -> bytes:
        return self._register(self._number(text))

    def _write_register(self, text: bytes) -> bytes:
        number, _, value = text.partition(b"=")
        index = self._number(number)
        data = _from_hex(value)
        if len(data) != self._architecture.registers[index].bytes:
            raise DebugError("packet P holds another number of bytes than the register has")
        self._put(index, data)
        return b"OK"

    # Memory ------------------------------------------------------------------------------

    def _range(self, text: bytes) -> tuple[int, int]:
        address, size = _numbers(text, 2)
        return address & ((1 << self._architecture.address_bits) - 1), min(size, _MOST_BYTES)

    def _read_memory(self, text: bytes) -> bytes:
        address, size = self._range(text)
        data = self._target.read_memory(self._chosen, address, size)
        return data.hex().encode() if data or not size else b"E14"

    def _write(self, place: bytes, data: bytes) -> bytes:
        address, size = self._range(place)
        if len(data) != size:
            raise DebugError(f"a packet writes {size} bytes and holds {len(data)}")
        if data:
            self._target.write_memory(self._chosen, address, data)
        return b"OK"

    def _write_memory(self, text: bytes) -> bytes:
        place, _, data = text.partition(b":")
        return self._write(place, _from_hex(data))

    def _write_binary(self, text: bytes) -> bytes:
        place, _, data = text.partition(b":")
        return self._write(place, unescape(data))

    def _search(self, text: bytes) -> bytes:
        start, length, pattern = text.split(b";", 2) if text.count(b";") >= 2 else (b"", b"", b"")
        (address,), (left,) = _numbers(start, 1), _numbers(length, 1)
        wanted = unescape(pattern)
        if not wanted:
            raise DebugError("there is nothing to search for")
        before = b""
        while left > 0:
            data = self._target.read_memory(self._chosen, address, min(left, _CHUNK))
            found = (before + data).find(wanted)
            if found >= 0:
                return b"1,%x" % (address - len(before) + found)
            if len(data) < min(left, _CHUNK):
                return b"0"
            before = (before + data)[len(before + data) - len(wanted) + 1 :]
            address, left = address + len(data), left - len(data)
        return b"0"

    # Breakpoints -------------------------------------------------------------------------

    def _insert(self, text: bytes) -> bytes:
        self._points.insert(text)
        return b"OK"

    def _remove(self, text: bytes) -> bytes:
        self._points.remove(text)
        return b"OK"

    # Going on ----------------------------------------------------------------------------

    def _continue(self, text: bytes) -> bytes | None:
        """``action[:thread];action[:thread]…``: the first that names a thread is its."""
        threads = self._target.threads()
        steps: dict[int, Step] = {}
        running: set[int] = set()
        decided: set[int] = set()
        for part in text.split(b";"):
            action, _, name = part.partition(b":")
            which = self._thread(name) if name else _ALL
            named = set(threads) if which == _ALL else {which or self._target.current()}
            for thread in named - decided:
                if action[:1] in b"cC" and action:
                    running.add(thread)
                elif action[:1] in b"sS" and action:
                    steps[thread] = Step()
                elif action[:1] == b"r":
                    steps[thread] = Step(*_numbers(action[1:], 2))
                elif action != b"t":
                    raise DebugError(f"no action {action.decode('ascii', 'replace')!r}")
            decided |= named
        self._go(steps, running)
        return None

    def _continue_at(self, text: bytes, *, step: bool) -> bytes | None:
        thread = self._run_thread if self._run_thread > 0 else self._target.current()
        if text and not text[0:1].isalnum():
            raise DebugError("an address in hexadecimal follows the command, or nothing")
        where = text.partition(b";")[0]
        if where and len(where) > 2:
            self._target.write_register(thread, self._architecture.pc, _numbers(where, 1)[0])
        others = set(self._target.threads()) - {thread}
        if step:
            self._go({thread: Step()}, others)
        else:
            self._go({}, others | {thread})
        return None

    def _go(self, steps: Mapping[int, Step], running: set[int]) -> None:
        self._runs = True
        try:
            self._target.go_on(steps, running)
        except DebugError:
            self._runs = False
            raise

    def _tell_stop(self, stop: Stop) -> None:
        self._runs = False
        self._stop = stop
        self._register_thread = self._run_thread = _ANY
        self._reply(self._stop_reply(stop))
        if stop.cause in (Cause.ENDED, Cause.KILLED):
            raise _Goodbye

    def _stop_reply(self, stop: Stop) -> bytes:
        if stop.cause in (Cause.ENDED, Cause.KILLED):
            return b"%s%02x" % (stop.cause.value.encode(), stop.signal & 0xFF)
        reason = b""
        if stop.cause is Cause.BREAKPOINT:
            reason = self._kind_of_breakpoint(stop.thread)
        elif stop.cause is not Cause.SIGNAL:
            reason = b"%s:%x;" % (stop.cause.value.encode(), stop.address)
        expedited = self._expedited(stop.thread)
        return b"T%02xthread:%x;%s%s" % (stop.signal, stop.thread, reason, expedited)

    def _kind_of_breakpoint(self, thread: int) -> bytes:
        """As it was set: GDB goes on at once if it is told of one that it has not set."""
        pc = self._target.read_register(thread, self._architecture.pc)
        name = b"hwbreak" if pc is not None and self._points.is_hardware(pc) else b"swbreak"
        return name + b":;" if name in self._breaks else b""

    def _expedited(self, thread: int) -> bytes:
        """The program counter, which is asked for at every stop."""
        registers = self._architecture.registers
        number = next(n for n, one in enumerate(registers) if one.source == self._architecture.pc)
        value = self._target.read_register(thread, self._architecture.pc)
        if value is None:
            return b""
        return b"%02x:%s;" % (number, value.to_bytes(self._width, "little").hex().encode())

    # The end -----------------------------------------------------------------------------

    def _detach(self, _: bytes) -> bytes | None:
        self._reply(b"OK")
        raise _Goodbye

    def _kill(self, text: bytes) -> bytes | None:
        self._target.kill()
        if text.startswith(b";"):
            self._reply(b"OK")
        raise _Goodbye

    def finish(self) -> None:
        """The debugger is gone, whatever it left running or standing: let the target go on."""
        self._target.detach()

    # The monitor -------------------------------------------------------------------------

    def _command(self, text: bytes) -> bytes | None:
        answer = self._target.command(_from_hex(text).decode("utf-8", "replace")).encode()
        if answer and not answer.endswith(b"\n"):
            answer += b"\n"
        for start in range(0, len(answer), _MOST_BYTES - 1):
            self._reply(b"O" + answer[start : start + _MOST_BYTES - 1].hex().encode())
        return b"OK"


def _in_hex(register: Register, value: int | None) -> bytes:
    """A register as it travels; x for digits of one that there is none of."""
    if value is None:
        return b"xx" * register.bytes
    return (value & mask(register.bits)).to_bytes(register.bytes, "little").hex().encode()


def _numbers(text: bytes, count: int) -> list[int]:
    """*count* numbers in hexadecimal, with commas between."""
    parts = text.split(b",")
    try:
        if len(parts) != count or not all(part.isalnum() for part in parts):
            raise ValueError
        return [int(part, 16) for part in parts]
    except ValueError:
        shown = text[:40].decode("ascii", "replace")
        raise DebugError(f"{shown!r}: must be {count} number(s) in hexadecimal") from None


def _from_hex(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise DebugError("a packet holds what is not hexadecimal") from None
