"""A program under a pseudo-terminal of its own, for tests of what a user sees."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30


class PseudoTerminal:
    """Runs *arguments* with a terminal as controlling terminal, input, output and errors."""

    def __init__(
        self, *arguments: str, environment: dict[str, str] | None = None, program: str = ""
    ) -> None:
        self.master, self.slave = os.openpty()
        self.settings = termios.tcgetattr(self.slave)
        command = [program or sys.executable, *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(environment or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        self.output = b""

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.master], [], [], timeout_s)[0]:
            return False
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self.master, 65536)
        self.output += data
        return bool(data)

    def expect(self, text: bytes, patience_s: float = PATIENCE_S) -> bytes:
        """Wait for *text* on the screen; return the output up to it and use it up."""
        deadline = time.monotonic() + patience_s
        while text not in self.output:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come; there is {self.output[-2000:]!r}"
            self._read(min(left, 0.2))
        before, _, self.output = self.output.partition(text)
        return before

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def finish(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for the end; return the exit status. The rest of the output is in `output`."""
        deadline = time.monotonic() + patience_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it runs on; there is {self.output[-2000:]!r}"
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    @property
    def local_modes(self) -> int:
        return termios.tcgetattr(self.slave)[3]

    @property
    def raw(self) -> bool:
        return not self.local_modes & (termios.ICANON | termios.ECHO | termios.ISIG)

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.settings

    def until(self, raw: bool) -> None:
        """Wait until the terminal is raw, or is as it was."""
        deadline = time.monotonic() + PATIENCE_S
        while (self.raw if raw else self.restored) is False:
            assert time.monotonic() < deadline, f"the terminal does not become raw={raw}"
            time.sleep(0.01)
