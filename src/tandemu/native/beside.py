"""Compiling a module in a process beside this one, where there is a processor for it.

LLVM holds one lock for all that a process compiles, so threads would wait for each other. Whatever
keeps the other process from its work, this one does it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from tandemu.native.compiler import CodeModel, compile_object

_DONE = b"object\0"


class CompilingBeside:
    """*llvm_ir* being compiled from now on; `result` waits for the object."""

    def __init__(self, llvm_ir: str, *, model: CodeModel) -> None:
        self._ir, self._model = llvm_ir, model
        self._process: subprocess.Popen[bytes] | None = None
        if len(os.sched_getaffinity(0)) > 1 and sys.executable:
            program = (
                f"import sys; sys.path[:] = {sys.path!r}; "
                f"from tandemu.native.beside import main; main({model.name!r})"
            )
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                self._send(llvm_ir.encode())

    def _send(self, data: bytes) -> None:
        """It reads all before it begins, so this waits for its start and nothing else."""
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def result(self) -> bytes:
        """The object; NativeError for IR that LLVM rejects."""
        if self._process is not None:
            assert self._process.stdout is not None
            with self._process.stdout:
                answer = self._process.stdout.read()
            if self._process.wait() == 0 and answer.startswith(_DONE):
                return answer.removeprefix(_DONE)
        return compile_object(self._ir, model=self._model)


def main(model: str) -> None:
    """The other process: a module from the standard input, its object to the standard output."""
    made = compile_object(sys.stdin.buffer.read().decode(), model=CodeModel[model])
    sys.stdout.buffer.write(_DONE + made)
