"""The operations on vectors, one row each: lanes of 8 to 64 bits, 64 to 512 bits in all.

A vector is all its bits, lane 0 the lowest; each operation says by its first attribute how wide
the lanes are that it sees. Results of comparisons are lanes of ones or zeros. Shift amounts are
below the lane's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tandemu.bits import mask, sign_extend
from tandemu.ir.operations import operation
from tandemu.ir.types import I1, I, IrError, Type, V
from tandemu.ir.values import Constant, Value, emit

LANES = (8, 16, 32, 64)


def lanes_of(value: int, bits: int, lane: int) -> list[int]:
    """The lanes of a vector of *bits* bits, the lowest first."""
    return [value >> low & mask(lane) for low in range(0, bits, lane)]


def joined(lanes: Sequence[int], lane: int) -> int:
    """The vector that has *lanes*."""
    return sum((one & mask(lane)) << number * lane for number, one in enumerate(lanes))


def _vectors(count: int) -> Callable[[tuple[Type, ...], tuple[Any, ...]], Type]:
    """*count* vectors of one type give another of it."""

    def signature(types: tuple[Type, ...], attributes: tuple[Any, ...]) -> Type:
        if len(types) != count or any(not t.is_vector or t != types[0] for t in types):
            raise IrError(
                f"must have {count} vectors of one type, not {', '.join(map(str, types))}"
            )
        if attributes[0] not in LANES:
            raise IrError(f"lanes of {attributes[0]} bits: must be 8, 16, 32 or 64")
        return types[0]

    return signature


def _cast(text: str, count: int) -> str:
    """LLVM text of an operation on lanes, its operands ``{0}`` … being ``{a}`` … there."""
    names = "abc"[:count]
    lines = [f"{{{name}}} = bitcast {{t}} {{{n}}} to {{L}}" for n, name in enumerate(names)]
    return "\n".join([*lines, f"{{h}} = {text}", "bitcast {L} {h} to {t}"])


def _each(function: Callable[..., int]) -> Callable[..., int]:
    """The meaning of what is done lane by lane: (lane width, lane of each operand) -> lane."""

    def meaning(types: tuple[Type, ...], attributes: tuple[Any, ...], *operands: int) -> int:
        lane, bits = int(attributes[0]), types[0].bits
        rows = zip(*(lanes_of(one, bits, lane) for one in operands), strict=True)
        return joined([function(lane, *row) for row in rows], lane)

    return meaning


def _saturated(n: int, value: int, signed: bool) -> int:
    low, high = (-(1 << n - 1), mask(n - 1)) if signed else (0, mask(n))
    return max(low, min(high, value))


_S = sign_extend
_PLAIN: dict[str, tuple[str, Callable[..., int]]] = {
    "vadd": ("add", lambda n, a, b: a + b),
    "vsub": ("sub", lambda n, a, b: a - b),
    "vmul": ("mul", lambda n, a, b: a * b),
    "vand": ("and", lambda n, a, b: a & b),
    "vor": ("or", lambda n, a, b: a | b),
    "vxor": ("xor", lambda n, a, b: a ^ b),
    "vshl": ("shl", lambda n, a, b: a << b % n),
    "vshr": ("lshr", lambda n, a, b: a >> b % n),
    "vsar": ("ashr", lambda n, a, b: _S(a, n) >> b % n),
}
for _name, (_llvm, _function) in _PLAIN.items():
    operation(_name, _vectors(2), _cast(f"{_llvm} {{L}} {{a}}, {{b}}", 2), _each(_function))

_INTRINSICS: dict[str, tuple[str, int, str, Callable[..., int]]] = {
    "vsmin": ("smin", 2, "", lambda n, a, b: min(_S(a, n), _S(b, n))),
    "vsmax": ("smax", 2, "", lambda n, a, b: max(_S(a, n), _S(b, n))),
    "vumin": ("umin", 2, "", lambda n, a, b: min(a, b)),
    "vumax": ("umax", 2, "", lambda n, a, b: max(a, b)),
    "vsadd_sat": ("sadd.sat", 2, "", lambda n, a, b: _saturated(n, _S(a, n) + _S(b, n), True)),
    "vssub_sat": ("ssub.sat", 2, "", lambda n, a, b: _saturated(n, _S(a, n) - _S(b, n), True)),
    "vuadd_sat": ("uadd.sat", 2, "", lambda n, a, b: _saturated(n, a + b, False)),
    "vusub_sat": ("usub.sat", 2, "", lambda n, a, b: _saturated(n, a - b, False)),
    "vpopulation": ("ctpop", 1, "", lambda n, a: a.bit_count()),
    "vleading": ("ctlz", 1, ", i1 false", lambda n, a: n - a.bit_length()),
    "vabs": ("abs", 1, ", i1 false", lambda n, a: abs(_S(a, n))),
    "vreverse_bits": ("bitreverse", 1, "", lambda n, a: int(f"{a:0{n}b}"[::-1], 2)),
}
for _name, (_llvm, _count, _flag, _function) in _INTRINSICS.items():
    _given = ", ".join(f"{{L}} {{{name}}}" for name in "ab"[:_count])
    operation(
        _name,
        _vectors(_count),
        _cast(f"call {{L}} @llvm.{_llvm}.{{mL}}({_given}{_flag})", _count),
        _each(_function),
        declarations=(
            f"declare {{L}} @llvm.{_llvm}.{{mL}}({', '.join(['{L}'] * _count)}"
            f"{', i1' if _flag else ''})",
        ),
    )

_COMPARED: dict[str, tuple[str, Callable[..., bool]]] = {
    "vequal": ("eq", lambda n, a, b: a == b),
    "vsgt": ("sgt", lambda n, a, b: _S(a, n) > _S(b, n)),
    "vsge": ("sge", lambda n, a, b: _S(a, n) >= _S(b, n)),
    "vugt": ("ugt", lambda n, a, b: a > b),
    "vuge": ("uge", lambda n, a, b: a >= b),
}


def _truth(test: Callable[..., bool]) -> Callable[..., int]:
    return lambda n, a, b: mask(n) if test(n, a, b) else 0


for _name, (_llvm, _test) in _COMPARED.items():
    operation(
        _name,
        _vectors(2),
        "{a} = bitcast {t} {0} to {L}\n{b} = bitcast {t} {1} to {L}\n"
        f"{{c}} = icmp {_llvm} {{L}} {{a}}, {{b}}\n"
        "{h} = sext {C} {c} to {L}\nbitcast {L} {h} to {t}",
        _each(_truth(_test)),
    )


# The bits of the second operand where the first has ones, of the third elsewhere.
operation(
    "vselect",
    _vectors(3),
    "{a} = xor {t} {1}, {2}\n{b} = and {t} {a}, {0}\nxor {t} {b}, {2}",
    lambda types, _, m, a, b: (a ^ b) & m ^ b,
)


# Lanes and words -----------------------------------------------------------------------------


def _lane_type(types: tuple[Type, ...], attributes: tuple[Any, ...]) -> Type:
    lane, number = attributes
    if not types[0].is_vector or not 0 <= number < types[0].bits // lane:
        raise IrError(f"{types[0]} has no lane {number} of {lane} bits")
    return I(lane)


operation(
    "lane",
    _lane_type,
    "{a} = bitcast {t} {0} to {L}\nextractelement {L} {a}, i32 {p1}",
    lambda types, attributes, a: int(a >> attributes[0] * attributes[1] & mask(attributes[0])),
)


def _set_lane_type(types: tuple[Type, ...], attributes: tuple[Any, ...]) -> Type:
    if _lane_type(types, attributes) != types[1]:
        raise IrError(f"a lane of {attributes[0]} bits cannot be {types[1]}")
    return types[0]


def _set_lane(types: tuple[Type, ...], attributes: tuple[Any, ...], a: int, value: int) -> int:
    low = attributes[0] * attributes[1]
    return int(a & ~(mask(attributes[0]) << low) | value << low)


operation(
    "set_lane",
    _set_lane_type,
    "{a} = bitcast {t} {0} to {L}\n{h} = insertelement {L} {a}, {t1} {1}, i32 {p1}\n"
    "bitcast {L} {h} to {t}",
    _set_lane,
)


def _splat_type(types: tuple[Type, ...], attributes: tuple[Any, ...]) -> Type:
    lane, bits = attributes
    if types[0] != I(lane):
        raise IrError(f"lanes of {lane} bits cannot be {types[0]}")
    return V(bits)


# All lanes alike.
operation(
    "vsplat",
    _splat_type,
    "{a} = insertelement {L} poison, {t} {0}, i32 0\n"
    "{h} = shufflevector {L} {a}, {L} poison, <{count} x i32> zeroinitializer\n"
    "bitcast {L} {h} to {r}",
    lambda types, attributes, a: joined([a] * (attributes[1] // attributes[0]), attributes[0]),
)


def _shuffle(types: tuple[Type, ...], attributes: tuple[Any, ...], a: int, b: int) -> int:
    lane, places = attributes
    lanes = [*lanes_of(a, types[0].bits, lane), *lanes_of(b, types[0].bits, lane)]
    return joined([lanes[place] for place in places], lane)


# Lanes of both, by their number: those of the second follow the first's.
operation(
    "vshuffle",
    _vectors(2),
    "{a} = bitcast {t} {0} to {L}\n{b} = bitcast {t} {1} to {L}\n"
    "{h} = shufflevector {L} {a}, {L} {b}, <{count} x i32> <{p1}>\nbitcast {L} {h} to {t}",
    _shuffle,
)


def _widen(signed: bool) -> Callable[..., int]:
    def meaning(types: tuple[Type, ...], attributes: tuple[Any, ...], a: int) -> int:
        lane = attributes[0]
        half = lanes_of(a, types[0].bits, lane)[: types[0].bits // lane // 2]
        return joined([sign_extend(one, lane) if signed else one for one in half], 2 * lane)

    return meaning


# The lanes of the lower half, twice as wide.
for _name, _llvm in (("vzext", "zext"), ("vsext", "sext")):
    operation(
        _name,
        _vectors(1),
        "{a} = bitcast {t} {0} to {L}\n"
        "{b} = shufflevector {L} {a}, {L} poison, <{half} x i32> <{first_half}>\n"
        f"{{h}} = {_llvm} <{{half}} x {{l}}> {{b}} to {{D}}\nbitcast {{D}} {{h}} to {{t}}",
        _widen(_name == "vsext"),
    )


def _narrow(types: tuple[Type, ...], attributes: tuple[Any, ...], a: int, b: int) -> int:
    lane = attributes[0]
    lanes = [*lanes_of(a, types[0].bits, lane), *lanes_of(b, types[0].bits, lane)]
    return joined(lanes, lane // 2)


# The lower halves of the lanes of both, the first's the lowest.
operation(
    "vnarrow",
    _vectors(2),
    "{a} = bitcast {t} {0} to {H}\n{b} = bitcast {t} {1} to {H}\n"
    "{h} = shufflevector {H} {a}, {H} {b}, <{double} x i32> <{even}>\nbitcast {H} {h} to {t}",
    _narrow,
)


def _any_type(types: tuple[Type, ...], _: tuple[Any, ...]) -> Type:
    if len(types) != 1 or not types[0].is_vector:
        raise IrError("must have one vector")
    return I1


operation(
    "vany",
    _any_type,
    "{a} = bitcast {t} {0} to i{bits}\nicmp ne i{bits} {a}, 0",
    lambda types, _, a: int(a != 0),
)


def splat(value: Value, bits: int) -> Value:
    """A vector of *bits* bits whose lanes are all *value*."""
    return emit("vsplat", value, attributes=(value.type.bits, bits))


def vector_of(*words: Value) -> Value:
    """The vector of these words of 64 bits, the lowest first."""
    vector: Value = Constant(V(64 * len(words)), 0)
    for number, word in enumerate(words):
        vector = vector.with_lane(number, word)
    return vector


def lanewise(name: str, lane: int, *operands: Value) -> Value:
    """Operation *name* on lanes of *lane* bits."""
    return emit(name, *operands, attributes=(lane,))
