"""Agent expressions: conditions of breakpoints, evaluated where the guest is.

Source: "Debugging with GDB", appendix "The GDB Agent Expression Mechanism", section "Bytecode
Descriptions". Values are 64 bits. Floating point, trace state variables and strings are left out,
as GDB leaves them. An expression is not trusted: its stack and its steps are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tandemu.bits import mask
from tandemu.debug.errors import DebugError

_DEEPEST = 64
_MOST_STEPS = 10_000
_WIDE = mask(64)

ReadRegister = Callable[[int], int]
ReadMemory = Callable[[int, int], bytes]

_END, _IF_GOTO, _GOTO, _REGISTER = 0x27, 0x20, 0x21, 0x26
_DUPLICATE, _POP, _SWAP, _PICK, _ROTATE = 0x28, 0x29, 0x2B, 0x32, 0x33
_EXTEND, _ZERO_EXTEND, _NOT, _INVERT = 0x16, 0x2A, 0x0E, 0x12
_REFERENCES = {0x17: 1, 0x18: 2, 0x19: 4, 0x1A: 8}
_CONSTANTS = {0x22: 1, 0x23: 2, 0x24: 4, 0x25: 8}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shifted(value: int, by: int, how: str) -> int:
    if by > 63:
        return _WIDE if how == "signed" and value >> 63 else 0
    if how == "left":
        return value << by
    return (_signed(value) if how == "signed" else value) >> by


def _divided(a: int, b: int, *, signed: bool, rest: bool) -> int:
    if not b:
        raise DebugError("the condition of a breakpoint divides by zero")
    if signed:
        a, b = _signed(a), _signed(b)
    quotient = abs(a) // abs(b)
    if (a < 0) != (b < 0):
        quotient = -quotient
    return a - quotient * b if rest else quotient


_BINARY: dict[int, Callable[[int, int], int]] = {
    0x02: lambda a, b: a + b,
    0x03: lambda a, b: a - b,
    0x04: lambda a, b: a * b,
    0x05: partial(_divided, signed=True, rest=False),
    0x06: partial(_divided, signed=False, rest=False),
    0x07: partial(_divided, signed=True, rest=True),
    0x08: partial(_divided, signed=False, rest=True),
    0x09: partial(_shifted, how="left"),
    0x0A: partial(_shifted, how="signed"),
    0x0B: partial(_shifted, how="unsigned"),
    0x0F: lambda a, b: a & b,
    0x10: lambda a, b: a | b,
    0x11: lambda a, b: a ^ b,
    0x13: lambda a, b: int(a == b),
    0x14: lambda a, b: int(_signed(a) < _signed(b)),
    0x15: lambda a, b: int(a < b),
}


def evaluate(code: bytes, register: ReadRegister, memory: ReadMemory) -> int:
    """The value that *code* leaves on top of its stack.

    *register* reads one by the debugger's number, *memory* some bytes. `DebugError` if the
    expression is none, or asks for what is not there.
    """
    try:
        return _run(code, register, memory)
    except IndexError as error:
        raise DebugError("the condition of a breakpoint is cut short") from error


def _run(code: bytes, register: ReadRegister, memory: ReadMemory) -> int:
    stack: list[int] = []
    place = 0
    for _ in range(_MOST_STEPS):
        operation = code[place]
        place += 1
        if operation == _END:
            return stack[-1]
        if operation in _BINARY:
            b, a = stack.pop(), stack.pop()
            stack.append(_BINARY[operation](a, b) & _WIDE)
        elif operation in _CONSTANTS:
            size = _CONSTANTS[operation]
            stack.append(_operand(code, place, size))
            place += size
        elif operation in _REFERENCES:
            size = _REFERENCES[operation]
            data = memory(stack.pop(), size)
            if len(data) != size:
                raise DebugError("the condition of a breakpoint reads memory that is not there")
            stack.append(int.from_bytes(data, "little"))
        elif operation == _REGISTER:
            stack.append(register(_operand(code, place, 2)) & _WIDE)
            place += 2
        elif operation in (_EXTEND, _ZERO_EXTEND):
            stack.append(_extended(stack.pop(), code[place], operation == _EXTEND))
            place += 1
        elif operation in (_IF_GOTO, _GOTO):
            taken = operation == _GOTO or stack.pop() != 0
            place = _operand(code, place, 2) if taken else place + 2
        else:
            place = _rearrange(stack, operation, code, place)
        if len(stack) > _DEEPEST:
            raise DebugError("the condition of a breakpoint needs more stack than there is")
    raise DebugError("the condition of a breakpoint does not end")


def _operand(code: bytes, place: int, size: int) -> int:
    if place + size > len(code):
        raise IndexError
    return int.from_bytes(code[place : place + size], "big")


def _extended(value: int, bits: int, signed: bool) -> int:
    if not 0 < bits <= 64:
        raise DebugError(f"the condition of a breakpoint extends a value of {bits} bits")
    value &= mask(bits)
    return (value | ~mask(bits)) & _WIDE if signed and value >> (bits - 1) else value


def _rearrange(stack: list[int], operation: int, code: bytes, place: int) -> int:
    """What concerns the stack alone; where the code goes on."""
    if operation == _NOT:
        stack.append(int(not stack.pop()))
    elif operation == _INVERT:
        stack.append(~stack.pop() & _WIDE)
    elif operation == _DUPLICATE:
        stack.append(stack[-1])
    elif operation == _POP:
        stack.pop()
    elif operation == _SWAP:
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif operation == _PICK:
        stack.append(stack[-1 - code[place]])
        return place + 1
    elif operation == _ROTATE:
        stack[-3:] = [stack[-1], stack[-3], stack[-2]]
    else:
        raise DebugError(
            f"the condition of a breakpoint has operation {operation:#x}, unknown here"
        )
    return place
