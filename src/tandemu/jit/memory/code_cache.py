"""The code cache that vCPUs share, below generated code: its lock, and who may still be in it.

Translated code is found and run without the lock, and changed under it. What is evicted stays
where it is, and right, until every vCPU has passed a *safe point*: the end of a slice, or a
place outside of translated code, where it holds no address of any. A vCPU notes there which
*epoch* of the cache it has seen. ARCHITECTURE.md has the table of the words that are shared.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import Layout, mask
from tandemu.ir import I1, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.jit.memory.jumps import empty_jump_caches
from tandemu.jit.shared.layout import CODE_CACHE, MACHINE, OUTSIDE

# Linux on x86-64.
_FUTEX, _FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 202, 128, 129
_FREE, _HELD, _AWAITED = range(3)
_SPINS = 200
"""Looks at the lock before the host is asked to wait: a block is translated in a microsecond."""

_JUMP_OPCODE = 0xE9
JUMP_SIZE = 5
_JUMP_BITS = 8 * JUMP_SIZE


def code_cache_of(b: Builder, cpu: Any) -> Any:
    """The `CODE_CACHE` of a vCPU."""
    return b.struct(CODE_CACHE, cpu.code_cache.to_pointer())


def patch_jump(b: Builder, place: Value, target: Value) -> None:
    """Make the code at *place*, a multiple of 8, a jump to *target*, while others run it.

    What stands there is an instruction of at least as many bytes as the jump, so that nobody
    is in between, and one aligned store changes it.
    """
    kept = b.load(place.to_pointer(), I64) & (mask(64) ^ mask(_JUMP_BITS))
    displacement = (target - place - JUMP_SIZE).trunc(I32).zext(I64)
    b.store(place.to_pointer(), kept | _JUMP_OPCODE | (displacement << 8), atomic=True)


def patch_displacement(b: Builder, field: Value, target: Value) -> None:
    """Have the jump whose displacement is at *field* lead to *target*, while others run it.

    The field lies within eight aligned bytes (`emission.Emission.align_field`).
    """
    b.store(field.to_pointer(), (target - field - 4).trunc(I32), atomic=True)


def build_lock_code() -> Function:
    """lock_code(cache): wait until nobody else changes the code cache. Any thread."""
    b = Builder("lock_code", [("cache", PTR)])
    word = b.struct(CODE_CACHE, b.cache).pointer("lock")
    free, held = Constant(I32, _FREE), Constant(I32, _HELD)
    spins = b.variable(I64, 0)
    with b.While(lambda: spins.value.ult(_SPINS)):
        with b.If(b.load(word, I32, atomic=True) == _FREE, likely=True):
            with b.If(b.compare_exchange(word, free, held) == _FREE, likely=True):
                b.Return()
        spins.value = spins.value + 1
    with b.While(lambda: b.atomic("xchg", word, Constant(I32, _AWAITED)) != _FREE):
        b.system_call(_FUTEX, word.from_pointer(), _FUTEX_WAIT_PRIVATE, _AWAITED, 0)
    b.Return()
    return b.finish()


def build_unlock_code() -> Function:
    """unlock_code(cache): let others change the code cache. Who has locked it, or its child."""
    b = Builder("unlock_code", [("cache", PTR)])
    word = b.struct(CODE_CACHE, b.cache).pointer("lock")
    with b.If(b.atomic("xchg", word, Constant(I32, _FREE)) == _AWAITED, likely=False):
        b.system_call(_FUTEX, word.from_pointer(), _FUTEX_WAKE_PRIVATE, 1)
    b.Return()
    return b.finish()


def build_enter_code(layout: Layout, contexts: range) -> Function:
    """enter_code(cpu): pass a safe point, and be in translated code from now on.

    *contexts*: those that have jump caches.
    """
    b = Builder("enter_code", [("cpu", PTR)], exported=False)
    cpu = b.struct(layout, b.cpu)
    cache = code_cache_of(b, cpu)

    def current() -> Value:
        return b.load(cache.pointer("epoch"), I64, atomic=True)

    epoch = b.variable(I64, current())
    b.store(cpu.pointer("epoch"), epoch.value, atomic=True)
    # Whoever evicts changes the cache's first and looks at ours then: one of us sees the other.
    with b.While(lambda: current() != epoch.value):
        epoch.value = current()
        b.store(cpu.pointer("epoch"), epoch.value, atomic=True)
    with b.If(cpu.seen_epoch != epoch.value, likely=False):
        cpu.seen_epoch = epoch.value
        empty_jump_caches(b, layout, contexts)
    b.Return()
    return b.finish()


def leave_code(b: Builder, cpu: Any) -> None:
    """From now on the vCPU holds no address of translated code."""
    b.store(cpu.pointer("epoch"), Constant(I64, OUTSIDE))


def any_vcpu_before(b: Builder, layout: Layout, machine: Value, epoch: Value) -> Value:
    """Whether a vCPU may have an address of code that was evicted for *epoch*. Under the lock."""
    shared = b.struct(MACHINE, machine.to_pointer())
    found, number = b.variable(I1, 0), b.variable(I64, 0)
    with b.While(lambda: number.value.ult(shared.vcpu_count) & ~found.value):
        address = shared.vcpus[number.value]
        # A thread that has ended leaves an empty place.
        with b.If(address != 0):
            other = b.struct(layout, address.to_pointer())
            seen = b.load(other.pointer("epoch"), I64, atomic=True)
            found.value = seen.ult(epoch)
        number.value = number.value + 1
    return found.value
