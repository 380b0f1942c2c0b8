"""The jump caches: what a guest address leads to, one for each context.

An empty entry has a tag that no address equals of which the entry could be.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I64, Builder, Constant, Value
from tandemu.isa.architecture import State
from tandemu.jit.shared.layout import (
    JUMP_CACHE_SIZE,
    JUMP_ENTRIES,
    JUMP_ENTRY,
)
from tandemu.jit.shared.tags import emit_tag_address, emit_tag_context


def jump_offset(state: State, pc: Value) -> Value:
    """Offset in a jump cache of the entry for *pc*."""
    shift = JUMP_ENTRY.size.bit_length() - state.alignment.bit_length()
    return (pc << shift) & ((JUMP_ENTRIES - 1) * JUMP_ENTRY.size)


def jump_cache(layout: Layout, context: Value | int) -> Value | int:
    """Offset in the CPU structure of the jump cache of *context*."""
    return context * JUMP_CACHE_SIZE + layout.offset("jumps")


def jump_entry(ir: Builder, state: State, cache: Value | int, pc: Value) -> Value:
    """Address of the entry for *pc* in the jump cache at offset *cache* of the CPU structure."""
    return ir.cpu.offset(cache).offset(jump_offset(state, pc))


def empty_jump_caches(b: Builder, layout: Layout, contexts: range) -> None:
    """Empty the caches of *contexts*."""
    start = b.cpu.offset(layout.offset("jumps") + contexts.start * JUMP_CACHE_SIZE)
    b.fill(start, 0xFF, len(contexts) * JUMP_CACHE_SIZE)
    # The highest address has the last entry, and may be an instruction's.
    for number in range(1, len(contexts) + 1):
        b.store(start.offset(number * JUMP_CACHE_SIZE - JUMP_ENTRY.size), Constant(I64, 0))


def forget_jump(b: Builder, layout: Layout, state: State, machine: Any, tag: Value) -> None:
    """Have every vCPU's jump cache forget the block that has *tag*. Under the code cache's lock.

    The vCPUs go on meanwhile. An entry that its owner is just making stays, which is no harm:
    the block is still what it was.
    """
    address = emit_tag_address(tag)
    cache: Any = jump_cache(layout, emit_tag_context(tag))
    number = b.variable(I64, 0)
    with b.While(lambda: number.value.ult(machine.vcpu_count)):
        vcpu = machine.vcpus[number.value]
        with b.If(vcpu != 0):
            entry = vcpu.to_pointer().offset(cache).offset(jump_offset(state, address))
            # Another entry's.
            b.compare_exchange(entry, address, address ^ state.alignment)
        number.value = number.value + 1
