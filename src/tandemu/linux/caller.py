"""What `Process.run` shares with its caller: streams, descriptors, and errors raised in a hook.

Streams are given as to the subprocess module. The program has descriptors 0, 1 and 2 and those that
are passed on purpose. What is raised in the child is described in JSON over a pipe and raised again
in the caller: nothing that a hostile program could write there is executed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import IO, NoReturn

from tandemu.linux import host
from tandemu.linux.errors import HookFailed, LinuxError

Stream = IO[bytes] | int | None
_MOST_REPORT_BYTES = 48 << 10
"""Less than a pipe holds: whoever reports does not wait for a reader."""
_PIECE = 1 << 16


class Streams:
    """The program's standard input, output and error output, and the caller's ends of pipes."""

    def __init__(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        self._given: list[int] = []
        """Ours, to be closed once the child has them."""
        self.ends: dict[int, int] = {}
        """The caller's end of the pipe to 0, of those from 1 and 2."""
        if stdin is not None and not hasattr(stdin, "fileno") and stdin == subprocess.STDOUT:
            raise LinuxError("the standard input cannot be subprocess.STDOUT", 22)
        self.numbers: list[int | None] = []
        """What the child has as 0, 1 and 2; None: what the caller has."""
        try:
            for number, stream in enumerate((stdin, stdout, stderr)):
                self.numbers.append(self._number(number, stream))
        except BaseException:
            self.close()
            raise

    def _number(self, number: int, stream: Stream) -> int | None:
        if stream is None:
            return None
        if not isinstance(stream, int):
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.flush()
            return stream.fileno()
        if stream == subprocess.PIPE:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            ours, theirs = (writer, reader) if number == 0 else (reader, writer)
            self.ends[number] = ours
            self._given.append(theirs)
            return theirs
        if stream == subprocess.DEVNULL:
            descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self._given.append(descriptor)
            return descriptor
        if stream == subprocess.STDOUT:
            if number != 2:
                raise LinuxError("only the error output can go where the standard output goes", 22)
            out = self.numbers[1]
            return 1 if out is None else out
        if stream < 0:
            raise LinuxError(f"{stream} is no descriptor: must be 0 or more", 9)
        try:
            os.fstat(stream)
        except OSError as error:
            raise LinuxError(f"descriptor {stream} is not open", 9) from error
        return stream

    def install(self) -> None:
        """In the child: make them 0, 1 and 2, whatever they are now."""
        # First out of each other's way: they may be exchanged.
        high = [None if one is None else host.high_descriptor(os.dup(one)) for one in self.numbers]
        for number, descriptor in enumerate(high):
            if descriptor is not None:
                os.dup2(descriptor, number)
                os.close(descriptor)

    def begun(self) -> None:
        """In the caller: the child has its ends."""
        for descriptor in self._given:
            os.close(descriptor)
        self._given.clear()

    def close(self) -> None:
        """Close all that is ours."""
        self.begun()
        for descriptor in self.ends.values():
            os.close(descriptor)
        self.ends.clear()

    def communicate(self, data: bytes) -> dict[int, bytes]:
        """Feed *data* into the pipe to 0, and read those from 1 and 2 to their ends."""
        found: dict[int, list[bytes]] = {number: [] for number in self.ends if number}
        rest = memoryview(data)
        with selectors.DefaultSelector() as selector:
            for number, descriptor in self.ends.items():
                os.set_blocking(descriptor, False)
                event = selectors.EVENT_READ if number else selectors.EVENT_WRITE
                selector.register(descriptor, event, number)
            while selector.get_map():
                for key, _ in selector.select():
                    if key.data:
                        piece = os.read(key.fd, _PIECE)
                        found[key.data].append(piece)
                        over = not piece
                    else:
                        try:
                            rest = rest[os.write(key.fd, rest[:_PIECE]) if rest else 0 :]
                        except BrokenPipeError:
                            rest = rest[:0]
                        over = not rest
                    if over:
                        selector.unregister(key.fd)
                        os.close(self.ends.pop(key.data))
        return {number: b"".join(pieces) for number, pieces in found.items()}


def keep_only(kept: Iterable[int]) -> None:
    """In the child: close every descriptor above 2 but *kept*."""
    # An object of the caller's that is collected here must not close what the program opens.
    gc.freeze()
    start = 3
    for number in sorted(set(kept)):
        if number >= start:
            os.closerange(start, number)
            start = number + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def pass_on(descriptors: Sequence[int]) -> None:
    """In the child: what the program is to have besides stays open when it execs."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)


# Errors in the child -----------------------------------------------------------------------


class HookTraceback(Exception):
    """The cause of an error that a hook raised: its traceback in the child, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def describe_failure(error: BaseException) -> bytes:
    """What `raise_failure` raises *error* from."""
    hook = isinstance(error, HookFailed)
    cause = error.__cause__ if hook and error.__cause__ is not None else error
    text = "".join(traceback.format_exception(cause))
    arguments = [one if isinstance(one, str | int | float | None) else repr(one)
                 for one in cause.args]  # fmt: skip
    described = {
        "hook": hook,
        "module": type(cause).__module__,
        "name": type(cause).__qualname__,
        "arguments": arguments,
        "text": text[-_MOST_REPORT_BYTES // 4 :],
    }
    data = json.dumps(described).encode()
    if len(data) > _MOST_REPORT_BYTES:
        data = json.dumps({**described, "arguments": [], "text": text[-4096:]}).encode()
    return data


def raise_failure(data: bytes) -> NoReturn:
    """Raise in the caller what was raised in the child; *data* may be anything."""
    try:
        described = json.loads(data)
        text, hook = str(described["text"]), described["hook"] is True
        module, name = str(described["module"]), str(described["name"])
        arguments = [one for one in described["arguments"] if not isinstance(one, list | dict)]
    except (ValueError, KeyError, TypeError):
        raise LinuxError("the program's process reported an error that cannot be read") from None
    if not hook:
        last = text.strip().splitlines()[-1:]
        raise LinuxError(f"an error in Tandemu itself: {' '.join(last)}") from HookTraceback(text)
    raise _again(module, name, arguments) from HookTraceback(text)


def _again(module: str, name: str, arguments: list[object]) -> BaseException:
    """An exception of the same class, if there is one here that can be made of *arguments*."""
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        make: Callable[..., BaseException] = found
        with contextlib.suppress(Exception):
            return make(*arguments)
    shown = ", ".join(str(one) for one in arguments)
    return LinuxError(f"the hook raised {name}: {shown}")
