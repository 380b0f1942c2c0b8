"""The user's terminal as the guest's console.

On a terminal the input is raw: every key reaches the guest, Ctrl-C included, and
Ctrl-A begins a command of ours (X quit, C monitor, Ctrl-A itself, H help). Without a
terminal, input streams to the guest and output from it; the end of the input does not
end the run. The terminal's settings are restored on leaving, at SIGTERM and SIGHUP
(as `Signalled`, raised in the main thread) and around a stop by SIGTSTP.

Left out: the guest is not told of a change of the window's size, which a serial line cannot
say; the monitor's `resize` types the command that does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import threading
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

from tandemu.host.monitor import Command, Monitor
from tandemu.host.output import OutputPump

ESCAPE = 0x01  # Ctrl-A
HELP = """\
Ctrl-A X       end the machine
Ctrl-A C       monitor prompt, and back
Ctrl-A Ctrl-A  send Ctrl-A to the guest
Ctrl-A H       this help
"""
_USUAL_COLUMNS = 80
_READ_BYTES = 4096
_LIMIT_BYTES = 64 << 10
_RETRY_S = 0.02
_CATCHABLE = (signal.SIGTERM, signal.SIGHUP)


class TerminalError(RuntimeError):
    """The terminal cannot be used; the message says why and how to mend it."""


class Signalled(BaseException):
    """A signal asks the process to end; like `KeyboardInterrupt`, raised in the main thread."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _always() -> bool:
    return True


class Terminal:
    """A console on two file descriptors, for the time of a ``with`` block.

    *receive* takes input for the guest and returns how many bytes of it were taken;
    *quit* is called at Ctrl-A X and when nobody reads the output any more. *ready* says
    whether a guest listens yet: input from a pipe is held back until then, since a
    guest that starts up throws away what it had received. Enter it in the main thread.
    """

    def __init__(
        self,
        receive: Callable[[bytes], int],
        quit: Callable[[], None],
        *,
        commands: Mapping[str, Command] | None = None,
        ready: Callable[[], bool] = _always,
        input_descriptor: int = 0,
        output_descriptor: int = 1,
    ) -> None:
        self._receive = receive
        self._quit = quit
        self._ready = ready
        self._input = input_descriptor
        self._output_descriptor = output_descriptor
        own = {
            "continue": Command("back to the guest", lambda words: "", leaves=True),
            "quit": Command("end the machine", lambda words: self._end(), leaves=True),
        }
        self._monitor = Monitor(
            {**own, **(commands or {})}, self._say, self._leave_monitor, self._columns
        )
        self._in_monitor = False
        self.interactive = os.isatty(input_descriptor)
        self._saved: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._closed = threading.Event()
        self._escaped = False
        self._pending = bytearray()
        self.lost: OSError | None = None
        """Why output was lost, if some was."""
        self.patience_s: float | None = 1.0
        """How long `close` waits for a reader that takes nothing; None: for ever."""

    def _note_lost(self, error: OSError) -> None:
        self.lost = error
        self._quit()

    # ---- the time of the with block ------------------------------------------------------

    def __enter__(self) -> Terminal:
        self._pump = OutputPump(self._output_descriptor, lost=self._note_lost)
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if threading.current_thread() is threading.main_thread():
                self._catch_signals()
            if self.interactive:
                self._saved = termios.tcgetattr(self._input)
                self._make_raw()
        except termios.error as error:
            self.close()
            raise TerminalError(
                f"the terminal refuses raw mode ({error}); run with input from a pipe or "
                "/dev/null instead"
            ) from error
        except BaseException:
            self.close()
            raise
        self._thread = threading.Thread(target=self._read, name="console input", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write out what is left and give the terminal back. Again: nothing happens."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            os.write(self._wake_writer, b"x")
            self._pump.close(self.patience_s)
            if os.isatty(self._output_descriptor):
                # Colours and a hidden cursor would outlive the guest that set them.
                tail = b"\x1b[0m\x1b[?25h" + (b"" if self._pump.last_byte == b"\n" else b"\r\n")
                with contextlib.suppress(OSError):
                    os.write(self._output_descriptor, tail)
        finally:
            self._restore()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()
        thread = getattr(self, "_thread", None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(1)
        os.close(self._wake_writer)
        if thread is None or not thread.is_alive():
            os.close(self._wake_reader)

    def write(self, data: bytes) -> None:
        """Show what the guest transmits. Any thread; blocks while the terminal is behind."""
        self._pump.write(data)

    # ---- settings and signals ------------------------------------------------------------

    def _make_raw(self) -> None:
        """As cfmakeraw(3): no echo, no lines, no signals from keys, no translation."""
        if self._saved is None:
            return
        mode = list(self._saved)
        mode[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6] = list(mode[6])
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)

    def _restore(self) -> None:
        if self._saved is not None:
            # Flushing drops answers the guest asked of the terminal and never read.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._input, termios.TCSAFLUSH, self._saved)

    def _catch_signals(self) -> None:
        for number in _CATCHABLE:
            if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
                self._handlers[number] = signal.signal(number, self._on_end)
        if self.interactive:
            self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._on_stop)
            self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._on_continue)

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        for caught in _CATCHABLE:  # once is enough; a second must not cut the clean-up short
            signal.signal(caught, signal.SIG_IGN)
        raise Signalled(number)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._saved)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here the process stops, and goes on after SIGCONT.
        signal.signal(signal.SIGTSTP, self._on_stop)
        self._on_continue(number, frame)

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        if not self._closed.is_set():
            with contextlib.suppress(termios.error):
                self._make_raw()

    # ---- input ---------------------------------------------------------------------------

    def _read(self) -> None:
        if not self.interactive:
            while not self._closed.is_set() and not self._ready():
                self._closed.wait(_RETRY_S)
        poller = select.poll()
        poller.register(self._wake_reader, select.POLLIN)
        ended = False
        while not self._closed.is_set() and not (ended and not self._pending):
            # On a terminal keys are read even while the guest takes nothing: Ctrl-A X
            # must work. From a pipe, what the guest does not take stays in the pipe.
            listening = not ended and (self.interactive or not self._pending)
            if listening:
                poller.register(self._input, select.POLLIN)
            else:
                with contextlib.suppress(KeyError):
                    poller.unregister(self._input)
            events = dict(poller.poll(_RETRY_S * 1000 if self._pending else None))
            if self._closed.is_set():
                return
            if self._input in events:
                ended = not self._take_input()
            self._deliver()

    def _take_input(self) -> bool:
        """Read what is there into the bytes for the guest; False at the input's end."""
        try:
            data = os.read(self._input, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:  # the terminal is gone
            return False
        passed = self._keys(data) if self.interactive else data
        self._pending += passed[: max(_LIMIT_BYTES - len(self._pending), 0)]
        return bool(data)

    def _deliver(self) -> None:
        if self._pending:
            del self._pending[: self._receive(bytes(self._pending))]

    def _keys(self, data: bytes) -> bytes:
        """Carry out our own keys in *data*; return what is for the guest."""
        passed = bytearray()
        for key in data:
            if self._escaped:
                self._escaped = False
                if key == ESCAPE and not self._in_monitor:
                    passed.append(key)
                else:
                    self._own_key(chr(key).lower())
            elif key == ESCAPE:
                self._escaped = True
            elif self._in_monitor:
                self._monitor.key(key)
            else:
                passed.append(key)
        return bytes(passed)

    def _own_key(self, key: str) -> None:
        if key in ("x", "\x18"):
            self._end()
        elif key in ("c", "\x03"):
            self._leave_monitor() if self._in_monitor else self._enter_monitor()
        elif key in ("h", "?"):
            self._say(f"\n{HELP}")

    def _end(self) -> str:
        self._quit()
        return ""

    # ---- the monitor ---------------------------------------------------------------------

    def _say(self, text: str) -> None:
        """Write on the terminal beside the guest's output."""
        data = text.replace("\n", "\r\n").encode(errors="replace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._output_descriptor, data) :]

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._output_descriptor).columns or _USUAL_COLUMNS
        except OSError:
            return _USUAL_COLUMNS

    def _enter_monitor(self) -> None:
        self._pump.hold(True)
        self._say("\nThe guest's output waits here. 'help' lists commands, 'continue' goes back.\n")
        self._in_monitor = True
        self._monitor.enter()

    def _leave_monitor(self) -> None:
        self._in_monitor = False
        self._say("\n")
        self._pump.hold(False)
