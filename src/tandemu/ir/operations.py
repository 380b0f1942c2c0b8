"""The operations of the embedded language, one row each.

A row says what an operation takes and gives (`signature`), what it means in
plain Python (`meaning`), how it is written in LLVM (`llvm`), and whether it is
pure. The builder folds constants with the meaning, the evaluator runs it, the
code generator expands the LLVM text: nothing about an operation is said twice.

Values are unsigned Python integers of the type's width; a float is its bit
pattern; a pointer is a host address. In `llvm`, ``{0}`` … are the operands,
``{t}`` is the first operand's type, ``{r}`` the result's; a row that needs more
than one instruction separates them with newlines and names temporaries ``{a}``,
``{b}`` …; its last line is the result. ``{mark}`` is the name that the last attribute gives
the machine instruction (`llvm.MARKS`).

Rows for floating point are in `float_operations`, those that touch memory here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from tandemu.bits import mask, sign_extend
from tandemu.ir.types import I1, I8, I64, PTR, IrError, Type

Signature = Callable[[tuple[Type, ...], tuple[Any, ...]], Type | None]
Meaning = Callable[..., int | None]


class Operation(NamedTuple):
    """One row of the table."""

    name: str
    signature: Signature
    meaning: Meaning
    llvm: str
    pure: bool = True
    declarations: tuple[str, ...] = ()
    """Intrinsics the LLVM text calls: ``declare …`` lines, with the same placeholders."""
    relaxed: str = ""
    """The LLVM text in a function that is `program.Function.relaxed`, if it is another there."""


TABLE: dict[str, Operation] = {}


def operation(
    name: str,
    signature: Signature,
    llvm: str,
    meaning: Meaning,
    *,
    pure: bool = True,
    declarations: tuple[str, ...] = (),
    relaxed: str = "",
) -> None:
    """Add a row. A name twice is an error."""
    if name in TABLE:
        raise IrError(f"operation {name} is defined twice")
    TABLE[name] = Operation(name, signature, meaning, llvm, pure, declarations, relaxed)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise IrError(message)


def same(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    """All operands and the result have one integer type."""
    _require(
        all(t == types[0] and t.is_integer for t in types),
        f"operands must be integers of one type, not {', '.join(map(str, types))}",
    )
    return types[0]


def comparison(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    """Two operands of one integer or pointer type give one bit."""
    _require(
        len(types) == 2 and types[0] == types[1] and not types[0].is_float,
        f"compared operands must have one type, not {', '.join(map(str, types))}",
    )
    return I1


def _resize(wider: bool) -> Signature:
    def signature(types: tuple[Type, ...], attributes: tuple[Any, ...]) -> Type:
        (target,) = attributes
        fits = target.bits > types[0].bits if wider else target.bits < types[0].bits
        _require(
            types[0].is_integer and target.is_integer and fits,
            f"cannot {'widen' if wider else 'narrow'} {types[0]} to {target}",
        )
        return target  # type: ignore[no-any-return]

    return signature


# A meaning is called as meaning(types, attributes, *operands); most need few of them.
def _wrap(function: Callable[[int, int, int], int]) -> Meaning:
    def meaning(types: tuple[Type, ...], _: Any, a: int, b: int) -> int:
        bits = types[0].bits
        return function(a, b, bits) & mask(bits)

    return meaning


def _trunc_div(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return -quotient if (a < 0) != (b < 0) else quotient


_BINARY: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "add": ("add", lambda a, b, n: a + b),
    "sub": ("sub", lambda a, b, n: a - b),
    "mul": ("mul", lambda a, b, n: a * b),
    "and": ("and", lambda a, b, n: a & b),
    "or": ("or", lambda a, b, n: a | b),
    "xor": ("xor", lambda a, b, n: a ^ b),
    # A shift amount is below the width; the builder's callers mask it.
    "shl": ("shl", lambda a, b, n: a << (b % n)),
    "shr": ("lshr", lambda a, b, n: a >> (b % n)),
    "sar": ("ashr", lambda a, b, n: sign_extend(a, n) >> (b % n)),
    # Undefined for a zero divisor, and signed ones for the most negative by -1.
    "udiv": ("udiv", lambda a, b, n: a // b),
    "urem": ("urem", lambda a, b, n: a % b),
    "sdiv": ("sdiv", lambda a, b, n: _trunc_div(sign_extend(a, n), sign_extend(b, n))),
    "srem": (
        "srem",
        lambda a, b, n: (
            sign_extend(a, n) - sign_extend(b, n) * _trunc_div(sign_extend(a, n), sign_extend(b, n))
        ),
    ),
}
for _name, (_llvm, _function) in _BINARY.items():
    operation(_name, same, _llvm + " {t} {0}, {1}", _wrap(_function))

_COMPARE: dict[str, Callable[[int, int, int], bool]] = {
    "eq": lambda a, b, n: a == b,
    "ne": lambda a, b, n: a != b,
    "ult": lambda a, b, n: a < b,
    "ule": lambda a, b, n: a <= b,
    "slt": lambda a, b, n: sign_extend(a, n) < sign_extend(b, n),
    "sle": lambda a, b, n: sign_extend(a, n) <= sign_extend(b, n),
}


def _compare(function: Callable[[int, int, int], bool]) -> Meaning:
    return lambda types, _, a, b: int(function(a, b, types[0].bits))


for _name, _test in _COMPARE.items():
    operation(_name, comparison, f"icmp {_name} {{t}} {{0}}, {{1}}", _compare(_test))

operation("zext", _resize(True), "zext {t} {0} to {r}", lambda t, _, a: a)
operation(
    "sext",
    _resize(True),
    "sext {t} {0} to {r}",
    lambda t, to, a: sign_extend(a, t[0].bits) & mask(to[0].bits),
)
operation("trunc", _resize(False), "trunc {t} {0} to {r}", lambda t, to, a: a & mask(to[0].bits))


def _overflows(function: Callable[[int, int], int]) -> Meaning:
    def meaning(types: tuple[Type, ...], _: Any, a: int, b: int) -> int:
        bits = types[0].bits
        exact = function(sign_extend(a, bits), sign_extend(b, bits))
        return int(exact != sign_extend(exact & mask(bits), bits))

    return meaning


# Whether a signed sum or difference is another number than its bits say.
for _name, _llvm, _exact in (
    ("add_overflows", "sadd", lambda a, b: a + b),
    ("sub_overflows", "ssub", lambda a, b: a - b),
):
    operation(
        _name,
        comparison,
        f"{{a}} = call {{{{ {{t}}, i1 }}}} @llvm.{_llvm}.with.overflow.{{t}}"
        "({t} {0}, {t} {1})\n"
        "extractvalue {{ {t}, i1 }} {a}, 1",
        _overflows(_exact),
        declarations=(
            f"declare {{{{ {{t}}, i1 }}}} @llvm.{_llvm}.with.overflow.{{t}}({{t}}, {{t}})",
        ),
    )


def _bitcast(types: tuple[Type, ...], attributes: tuple[Any, ...]) -> Type:
    (target,) = attributes
    _require(
        target.bits == types[0].bits and PTR not in (target, types[0]),
        f"cannot read the bits of {types[0]} as {target}",
    )
    return target  # type: ignore[no-any-return]


operation("bitcast", _bitcast, "bitcast {t} {0} to {r}", lambda t, to, a: a)


def _select(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    _require(
        types[0] == I1 and types[1] == types[2],
        f"select needs a 1-bit condition and one type, not {', '.join(map(str, types))}",
    )
    return types[1]


operation(
    "select",
    _select,
    "select i1 {0}, {r} {1}, {r} {2}",
    lambda t, _, c, a, b: a if c else b,
)


def _swap_bytes(types: tuple[Type, ...], _: Any, a: int) -> int:
    size = types[0].bits // 8
    return int.from_bytes(a.to_bytes(size, "little"), "big")


def _leading(types: tuple[Type, ...], _: Any, a: int) -> int:
    return types[0].bits - a.bit_length()


def _trailing(types: tuple[Type, ...], _: Any, a: int) -> int:
    return (a & -a).bit_length() - 1 if a else types[0].bits


def _rotate_left(types: tuple[Type, ...], _: Any, a: int, n: int) -> int:
    bits = types[0].bits
    n %= bits
    return ((a << n) | (a >> (bits - n))) & mask(bits)


def _intrinsic(name: str, operands: str, zero_flag: bool = False) -> tuple[str, tuple[str, ...]]:
    count = operands.count("{t}")
    flag = ", i1 false" if zero_flag else ""
    declared = ", ".join(["{t}"] * count) + (", i1" if zero_flag else "")
    return (
        f"call {{t}} @llvm.{name}.{{t}}({operands}{flag})",
        (f"declare {{t}} @llvm.{name}.{{t}}({declared})",),
    )


for _name, _intrinsic_name, _operands, _flag, _meaning in (
    ("count_leading_zeros", "ctlz", "{t} {0}", True, _leading),
    ("count_trailing_zeros", "cttz", "{t} {0}", True, _trailing),
    ("population_count", "ctpop", "{t} {0}", False, lambda t, _, a: a.bit_count()),
    ("byte_swap", "bswap", "{t} {0}", False, _swap_bytes),
    ("rotate_left", "fshl", "{t} {0}, {t} {0}, {t} {1}", False, _rotate_left),
    (
        "rotate_right",
        "fshr",
        "{t} {0}, {t} {0}, {t} {1}",
        False,
        lambda t, _, a, n: _rotate_left(t, _, a, -n),
    ),
):
    _text, _declared = _intrinsic(_name if False else _intrinsic_name, _operands, _flag)
    operation(_name, same, _text, _meaning, declarations=_declared)


def _funnel(types: tuple[Type, ...], _: Any, high: int, low: int, amount: int) -> int:
    bits = types[0].bits
    return (high << bits | low) >> amount % bits & mask(bits)


# The lower half of two values, the first above the second, shifted right together.
operation(
    "funnel_right",
    same,
    "call {t} @llvm.fshr.{t}({t} {0}, {t} {1}, {t} {2})",
    _funnel,
    declarations=("declare {t} @llvm.fshr.{t}({t}, {t}, {t})",),
)


# Pointers and memory ---------------------------------------------------------------------


def _offset(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    _require(
        types[0] == PTR and types[1].is_integer and types[1].bits == 64,
        f"an offset adds i64 to ptr, not {types[1]} to {types[0]}",
    )
    return PTR


operation(
    "offset",
    _offset,
    "getelementptr i8, ptr {0}, i64 {1}",
    lambda t, _, a, b: (a + b) & mask(64),
)
operation("to_pointer", lambda t, _: PTR, "inttoptr {t} {0} to ptr", lambda t, _, a: a)


def _from_pointer(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    _require(types == (PTR,), f"not a pointer: {types[0]}")
    return Type("i", 64)


operation("from_pointer", _from_pointer, "ptrtoint ptr {0} to i64", lambda t, _, a: a)


def _host_read(address: int, size: int) -> int:
    return int.from_bytes(ctypes.string_at(address, size), "little")


def _host_write(address: int, size: int, value: int) -> None:
    ctypes.memmove(address, value.to_bytes(size, "little"), size)


def _load_type(types: tuple[Type, ...], attributes: tuple[Any, ...]) -> Type:
    _require(types == (PTR,), f"a load needs a ptr, not {types[0]}")
    return attributes[0]  # type: ignore[no-any-return]


def _store_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> None:
    _require(types[0] == PTR, f"a store needs a ptr, not {types[0]}")


def _load(types: tuple[Type, ...], attributes: tuple[Any, ...], address: int) -> int:
    return _host_read(address, attributes[0].size)


def _store(types: tuple[Type, ...], _: Any, address: int, value: int) -> None:
    _host_write(address, types[1].size, value)


operation("load", _load_type, "load {r}, ptr {0}, align 1", _load, pure=False)
operation("store", _store_type, "store {t1} {1}, ptr {0}, align 1", _store, pure=False)
# In one piece; LLVM draws no conclusions from what is where afterwards.
operation(
    "unordered_store",
    _store_type,
    "store atomic {t1} {1}, ptr {0} unordered, align {size}",
    _store,
    pure=False,
)
# In its place among others of the kind. The last attribute is a number by which the object
# file names the machine instruction, or None.
operation("access_load", _load_type, "load volatile {r}, ptr {0}, align 1{mark}", _load, pure=False)
operation(
    "access_store",
    _store_type,
    "store volatile {t1} {1}, ptr {0}, align 1{mark}",
    _store,
    pure=False,
)
# Shared with other host threads: one access, in order with the other atomic ones.
operation(
    "atomic_load",
    _load_type,
    "load atomic {r}, ptr {0} seq_cst, align {size}{mark}",
    _load,
    pure=False,
)
operation(
    "atomic_store",
    _store_type,
    "store atomic {t1} {1}, ptr {0} seq_cst, align {size}",
    _store,
    pure=False,
)

_RMW: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "add": ("add", lambda a, b, n: a + b),
    "xchg": ("xchg", lambda a, b, n: b),
    "and": ("and", lambda a, b, n: a & b),
    "or": ("or", lambda a, b, n: a | b),
    "xor": ("xor", lambda a, b, n: a ^ b),
    "min": ("min", lambda a, b, n: min(a, b, key=lambda v: sign_extend(v, n))),
    "max": ("max", lambda a, b, n: max(a, b, key=lambda v: sign_extend(v, n))),
    "umin": ("umin", lambda a, b, n: min(a, b)),
    "umax": ("umax", lambda a, b, n: max(a, b)),
}
ATOMIC_KINDS = tuple(_RMW)


def _rmw_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    _require(types[0] == PTR and types[1].is_integer, "an atomic operation needs ptr, integer")
    return types[1]


def _rmw(function: Callable[[int, int, int], int]) -> Meaning:
    def meaning(types: tuple[Type, ...], _: Any, address: int, value: int) -> int:
        old = _host_read(address, types[1].size)
        new = function(old, value, types[1].bits) & mask(types[1].bits)
        _host_write(address, types[1].size, new)
        return old

    return meaning


for _name, (_llvm, _function) in _RMW.items():
    operation(
        "atomic_" + _name,
        _rmw_type,
        f"atomicrmw {_llvm} ptr {{0}}, {{t1}} {{1}} seq_cst{{mark}}",
        _rmw(_function),
        pure=False,
    )


def _exchange_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    _require(types[0] == PTR and types[1] == types[2], "compare_exchange needs ptr, T, T")
    return types[1]


def _compare_exchange(
    types: tuple[Type, ...], _: Any, address: int, expected: int, new: int
) -> int:
    old = _host_read(address, types[1].size)
    if old == expected:
        _host_write(address, types[1].size, new)
    return old


operation(
    "compare_exchange",
    _exchange_type,
    "{a} = cmpxchg ptr {0}, {t1} {1}, {t1} {2} seq_cst seq_cst{mark}\n"
    "extractvalue {{ {t1}, i1 }} {a}, 0",
    _compare_exchange,
    pure=False,
)
# The same value, of which LLVM knows nothing.
operation(
    "opaque",
    same,
    'call {t} asm "", "=r,0"({t} {0})',
    lambda t, _, a: a,
    pure=False,
)
# Where the caller's return address is: the stack pointer as it was on entry.
operation(
    "return_slot",
    lambda t, _: PTR,
    "call ptr @llvm.addressofreturnaddress.p0()",
    lambda t, _: 0,
    pure=False,
    declarations=("declare ptr @llvm.addressofreturnaddress.p0()",),
)
# The one register that a function of the tail convention preserves for its caller.
operation(
    "frame_register",
    lambda t, _: PTR,
    'call ptr asm sideeffect "movq %rbp, $0", "=r"()',
    lambda t, _: 0,
    pure=False,
)
operation("fence", lambda t, _: None, "fence seq_cst", lambda t, _: None, pure=False)


SYSTEM_CALL_ARGUMENTS = 6


def _system_call_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    wanted = (I64,) * (1 + SYSTEM_CALL_ARGUMENTS)
    _require(types == wanted, "a system call needs its number and six arguments, all i64")
    return I64


def _system_call(types: tuple[Type, ...], _: Any, *operands: int) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    result: int = library.syscall(*map(ctypes.c_long, operands))
    return (result if result != -1 else -ctypes.get_errno()) & mask(64)


# Linux on x86-64: the number and the arguments; a result, or a negative error number.
operation(
    "system_call",
    _system_call_type,
    'call i64 asm sideeffect "syscall", "={{rax}},{{rax}},{{rdi}},{{rsi}},{{rdx}},{{r10}},{{r8}},'
    '{{r9}},~{{rcx}},~{{r11}},~{{memory}}"'
    "(i64 {0}, i64 {1}, i64 {2}, i64 {3}, i64 {4}, i64 {5}, i64 {6})",
    _system_call,
    pure=False,
)


def _interruptible_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    wanted = (PTR, PTR, *(I64,) * (1 + SYSTEM_CALL_ARGUMENTS))
    _require(types == wanted, "it needs two pointers, the number and six arguments, all i64")
    return I64


def _interruptible_call(types: tuple[Type, ...], _: Any, *operands: int) -> int:
    _, flag, *call = operands
    if ctypes.c_uint64.from_address(flag).value:
        return NOT_BEGUN & mask(64)
    return _system_call(types, _, *call)


NOT_BEGUN = -513
"""Result of a system call that was not begun, since somebody wants the thread's attention."""
INTERRUPTIBLE_END, INTERRUPTIBLE_SIZE = 4, 24
"""Where the sequence below was not begun yet: so many bytes before the place it notes. From the
first number down to the second: at the first stands the system call instruction itself."""

# A system call that is made only if the word at the second pointer is zero. Where it goes on if
# not is noted at the first: a handler of signals that sets the word sends whoever is in between
# there, too, so that no signal that came before the call leaves it waiting.
operation(
    "interruptible_call",
    _interruptible_type,
    'call i64 asm sideeffect "leaq 2f(%rip), %rcx\\0Amovq %rcx, ($1)\\0Acmpq $$0, ($2)\\0A'
    'jne 2f\\0Asyscall\\0Ajmp 3f\\0A2: movq $$-513, %rax\\0A3:", '
    '"={{rax}},r,r,{{rax}},{{rdi}},{{rsi}},{{rdx}},{{r10}},{{r8}},'
    '{{r9}},~{{rcx}},~{{r11}},~{{memory}},~{{flags}}"'
    "(ptr {0}, ptr {1}, i64 {2}, i64 {3}, i64 {4}, i64 {5}, i64 {6}, i64 {7}, i64 {8})",
    _interruptible_call,
    pure=False,
)


def _guarded_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    _require(types == (PTR, PTR, PTR, I64), "a guarded copy needs ptr, ptr, ptr, i64")
    return I64


def _guarded_copy(types: tuple[Type, ...], _: Any, *operands: int) -> int:
    ctypes.memmove(*operands[1:])
    return 0


GUARDED_SIZE = 2
"""The instruction of a guarded copy that may be refused: so many bytes before the place noted."""

# Copies bytes; the result is how many were left when the host refused an access. The place
# behind the copying instruction is noted at the first pointer: the handler goes on there.
operation(
    "guarded_copy",
    _guarded_type,
    '{a} = call {{ i64, i64, i64 }} asm sideeffect "leaq 1f(%rip), %rax\\0Amovq %rax, ($3)\\0A'
    'rep movsb\\0A1:", "={{rcx}},={{rdi}},={{rsi}},r,{{rdi}},{{rsi}},{{rcx}},~{{rax}},~{{memory}},'
    '~{{flags}}"(ptr {0}, ptr {1}, ptr {2}, i64 {3})\n'
    "extractvalue {{ i64, i64, i64 }} {a}, 0",
    _guarded_copy,
    pure=False,
)
operation(
    "thread_pointer",
    lambda t, _: PTR,
    'call ptr asm sideeffect "movq %gs:0, $0", "=r"()',
    lambda t, _: 0,
    pure=False,
)


def _fill_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> None:
    _require(types[0] == PTR and types[1] == I8, "fill needs ptr, i8, i64")


operation(
    "fill",
    _fill_type,
    "call void @llvm.memset.p0.i64(ptr {0}, i8 {1}, i64 {2}, i1 false)",
    lambda t, _, address, byte, size: ctypes.memset(address, byte, size) and None,
    pure=False,
    declarations=("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",),
)
operation(
    "copy",
    lambda t, _: None,
    "call void @llvm.memcpy.p0.p0.i64(ptr {0}, ptr {1}, i64 {2}, i1 false)",
    lambda t, _, to, source, size: ctypes.memmove(to, source, size) and None,
    pure=False,
    declarations=("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",),
)
