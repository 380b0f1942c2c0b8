"""All routines of the translator, put together."""

from __future__ import annotations

from dataclasses import dataclass

from tandemu.bits import Layout
from tandemu.ir import Function
from tandemu.isa.architecture import State
from tandemu.isa.guest import Guest, System
from tandemu.jit.memory.code_cache import build_lock_code, build_unlock_code
from tandemu.jit.memory.routines import MemoryRoutines
from tandemu.jit.translate.blocks import (
    build_fence_instructions,
    build_find_block,
    build_forget_page,
    build_hash_code,
    build_lookup,
    build_make_block,
    build_mark_code,
)
from tandemu.jit.translate.emission import build_decode
from tandemu.jit.translate.eviction import build_eviction
from tandemu.jit.translate.stencils import StencilProgram
from tandemu.jit.translate.translator import Translation


@dataclass(frozen=True)
class TranslatorRoutines:
    """What the dispatcher, the installer of regions and Python call."""

    find_block: Function
    make_block: Function
    lookup: Function
    make_room: Function
    flush_code: Function
    forget_page: Function
    fence_instructions: Function
    decode: Function
    lock: Function
    unlock: Function


def build_translator(
    guest: Guest,
    state: State,
    system: System,
    layout: Layout,
    program: StencilProgram,
    memory: MemoryRoutines,
    copy: Function | None,
) -> TranslatorRoutines:
    """Build the translator's routines; *copy*: see `blocks.read_code`."""
    lookup = build_lookup(layout)
    eviction = build_eviction(layout)
    lock, unlock = build_lock_code(), build_unlock_code()
    decode = build_decode(system.instructions.decoder.layout, layout)
    translation = Translation(guest, state, system, layout, program, decode, lookup)
    hash_code = build_hash_code()
    translate = (
        translation.build(None, hash_code, None)
        if program.flat
        else translation.build(build_mark_code(layout), None, memory.fetch)
    )
    found_by = layout, guest.fetch, memory.fetch, lookup
    make_block = build_make_block(*found_by, translate, eviction.begin_arena, copy)
    find_block = build_find_block(*found_by, make_block, lock, unlock, copy)
    forget_page = build_forget_page(hash_code)
    fence = build_fence_instructions(layout, eviction.flush_code, forget_page, lock, unlock)
    return TranslatorRoutines(
        find_block,
        make_block,
        lookup,
        eviction.make_room,
        eviction.flush_code,
        forget_page,
        fence,
        decode,
        lock,
        unlock,
    )
