"""seccomp(2): filters over the numbers and arguments of system calls, and strict mode.

A filter is a program for the classic BPF machine (linux/filter.h), which looks at ``struct
seccomp_data`` (linux/seccomp.h). It sees the program's own numbers and architecture, so it runs
here and not in the host's kernel. What a filter says of most calls does not depend on their
arguments: that is found out once for each number, and calls that are allowed run as fast as ever.

Left out: listeners (SECCOMP_RET_USER_NOTIF), and tracers.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple

MOST_INSTRUCTIONS = 4096
_MOST_IN_ALL, _PENALTY = 1 << 15, 4
DATA = struct.Struct("<iIQ6Q")
"""struct seccomp_data: number, architecture, address behind the call, arguments."""
_WITHOUT_ARGUMENTS = 8

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO = 0x80000000, 0, 0x30000, 0x50000
USER_NOTIFICATION, TRACE, LOG, ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000
ACTIONS = frozenset((KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW))
"""What is done; to a listener there is no way."""
_MASK32 = 0xFFFFFFFF

_LOAD, _LENGTH, _LENGTH_X = 0x20, 0x80, 0x81
_ARITHMETIC = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << (b & 31),
    0x70: lambda a, b: a >> (b & 31),
    0xA0: lambda a, b: a ^ b,
}
_DIVIDE = 0x30
_COMPARE = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: a & b != 0,
}
_CODES = frozenset((
    *(0x20, 0x80, 0x81, 0x06, 0x16, 0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C, 0x34, 0x3C, 0x54, 0x5C),
    *(0x44, 0x4C, 0xA4, 0xAC, 0x64, 0x6C, 0x74, 0x7C, 0x84, 0x00, 0x01, 0x07, 0x87, 0x60, 0x61),
    *(0x02, 0x03, 0x05, 0x15, 0x1D, 0x35, 0x3D, 0x25, 0x2D, 0x45, 0x4D),
))  # fmt: skip
_WORDS = 16
"""Of the BPF machine's memory."""


class Instruction(NamedTuple):
    """struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    value: int


class BadFilterError(ValueError):
    """No kernel would take the program."""


def parse(data: bytes) -> list[Instruction]:
    """The instructions of a filter that may be installed; else `BadFilterError`.

    net/core/filter.c, bpf_check_classic; kernel/seccomp.c, seccomp_check_filter.
    """
    program = [Instruction(*fields) for fields in struct.iter_unpack("<HBBI", data)]
    size = len(program)
    for index, (code, if_true, if_false, value) in enumerate(program):
        left = size - index - 1
        kind = code & 7
        if (
            code not in _CODES
            or (code == _LOAD and (value >= DATA.size or value & 3))
            or (code == 0x34 and not value)
            or (code in (0x64, 0x74) and value > 31)
            or (code in (0x60, 0x61, 0x02, 0x03) and value >= _WORDS)
            or (code == 0x05 and value >= left)
            or (kind == 5 and code != 0x05 and max(if_true, if_false) >= left)
        ):
            raise BadFilterError
    if program[-1].code not in (0x06, 0x16):
        raise BadFilterError
    _check_memory(program)
    return program


def _check_memory(program: Sequence[Instruction]) -> None:
    """Refuse what reads a word of memory that some way has not written."""
    written = [(1 << _WORDS) - 1] * len(program)
    here = 0
    for index, (code, if_true, if_false, value) in enumerate(program):
        here &= written[index]
        if code in (0x02, 0x03):
            here |= 1 << value
        elif code in (0x60, 0x61):
            if not here >> value & 1:
                raise BadFilterError
        elif code == 0x05:
            written[index + 1 + value] &= here
            here = (1 << _WORDS) - 1
        elif code & 7 == 5:
            written[index + 1 + if_true] &= here
            written[index + 1 + if_false] &= here
            here = (1 << _WORDS) - 1


def run(program: Sequence[Instruction], data: bytes) -> int | None:
    """What the filter says of a call; None if it wants to know more than *data* holds."""
    a = x = index = 0
    memory = [0] * _WORDS
    while True:
        code, if_true, if_false, value = program[index]
        index += 1
        kind = code & 7
        if code == _LOAD:
            if value >= len(data):
                return None
            a = int.from_bytes(data[value : value + 4], "little")
        elif code == 0x05:
            index += value
        elif kind == 5:
            taken = _COMPARE[code & 0xF0](a, x if code & 8 else value)
            index += if_true if taken else if_false
        elif kind == 6:
            return a if code == 0x16 else value
        elif code == 0x84:
            a = -a & _MASK32
        elif kind == 4:
            operand = x if code & 8 else value
            if code & 0xF0 != _DIVIDE:
                a = _ARITHMETIC[code & 0xF0](a, operand) & _MASK32
            elif operand:
                a //= operand
            else:
                return KILL_THREAD
        elif code == 0x00:
            a = value
        elif code == 0x01:
            x = value
        elif code == _LENGTH:
            a = DATA.size
        elif code == _LENGTH_X:
            x = DATA.size
        elif code == 0x07:
            x = a
        elif code == 0x87:
            a = x
        elif code == 0x60:
            a = memory[value]
        elif code == 0x61:
            x = memory[value]
        else:
            memory[value] = a if code == 0x02 else x


def _precedence(answer: int) -> int:
    """The lowest goes before the others: as signed numbers, without the data."""
    action = answer & 0xFFFF0000
    return action - (1 << 32) if action >> 31 else action


class Restrictions:
    """What a thread may call; threads that descend from one another share it."""

    def __init__(
        self,
        architecture: int,
        filters: tuple[Sequence[Instruction], ...],
        strict: frozenset[int] = frozenset(),
    ) -> None:
        self.architecture = architecture
        """AUDIT_ARCH_* (linux/audit.h)."""
        self.filters = filters
        self.strict = strict
        """The only calls that strict mode allows; empty if it is not in force."""
        self._always: dict[int, int | None] = {}

    @property
    def mode(self) -> int:
        """As prctl(PR_GET_SECCOMP) says."""
        return 1 if self.strict else 2

    def with_filter(self, program: Sequence[Instruction]) -> Restrictions:
        """The same and one filter more; OSError if that is too much."""
        lengths = [len(one) + _PENALTY for one in self.filters]
        if sum(lengths) + len(program) > _MOST_IN_ALL:
            raise OSError(errno.ENOMEM, "too many filters")
        return Restrictions(self.architecture, (*self.filters, program))

    def always(self, number: int) -> int | None:
        """What is said of call *number* whatever its arguments; None if they matter."""
        if self.strict:
            return ALLOW if number in self.strict else KILL_THREAD
        if number not in self._always:
            data = struct.pack("<II", number & _MASK32, self.architecture)
            assert len(data) == _WITHOUT_ARGUMENTS
            self._always[number] = self._ask(data)
        return self._always[number]

    def answer(self, number: int, address: int, arguments: Sequence[int]) -> int:
        """What is said of a call; the latest filter's data counts among equals."""
        known = self.always(number)
        if known is not None:
            return known
        data = struct.pack("<IIQ6Q", number & _MASK32, self.architecture, address, *arguments)
        answer = self._ask(data)
        return KILL_PROCESS if answer is None else answer

    def _ask(self, data: bytes) -> int | None:
        found = ALLOW
        for program in reversed(self.filters):
            answer = run(program, data)
            if answer is None:
                return None
            if _precedence(answer) < _precedence(found):
                found = answer
        return found
