"""Making room in a code cache: the oldest of its arenas is evicted, in good time.

When an arena begins to be filled, the one after it, the oldest, is evicted: its blocks are
taken out of the table, whoever comes to them is sent on, and no jump of code that stays leads
there any more. By the time that it is needed, all vCPUs have passed a safe point. Should one
not have, whoever needs the room waits at a safe point itself (`blocks.NO_ROOM`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tandemu.bits import Layout
from tandemu.ir import I8, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.jit.memory.code_cache import (
    JUMP_SIZE,
    any_vcpu_before,
    code_cache_of,
    patch_displacement,
    patch_jump,
)
from tandemu.jit.shared.layout import (
    ARENAS,
    CODE_CACHE,
    HASH_BUCKETS,
    HEAD_SITE,
    INVALID,
    LINK_SITE,
    OUTSIDE,
    REGION_LINK_SITE,
    SAMPLE,
    SAMPLES,
    SITE,
)
from tandemu.jit.translate.blocks import (
    COLD_RESERVE,
    JUMP_OPCODE,
    SITE_RESERVE,
    block_record,
    make_stale,
    take_from_bucket,
    take_from_page,
)

PARTS = ("hot", "cold", "site", "region", "block")
_FIRST_BLOCK = 1
"""Record 0 means "none"."""


class EvictionRoutines(NamedTuple):
    """What the translator, the installer of regions and Python call."""

    begin_arena: Function
    make_room: Function
    flush_code: Function


def _start(cache: Any, part: str, arena: Value) -> Value:
    """Where *arena* has its share of a part."""
    place: Value = getattr(cache, f"{part}_start") + arena * getattr(cache, f"{part}_size")
    return place


def _set_arena(b: Builder, cache: Any, arena: Value) -> None:
    """Fill *arena* from now on."""
    cache.arena = arena
    for part in PARTS:
        start = _start(cache, part, arena)
        setattr(cache, f"{part}_next", start)
        setattr(cache, f"{part}_end", start + getattr(cache, f"{part}_size"))


def _note_ends(cache: Any) -> None:
    """Note how far the arena that is being filled has got."""
    arena = cache.arenas[cache.arena]
    arena.blocks_end, arena.sites_end = cache.block_next, cache.site_next


def _each_block(b: Builder, cache: Any, arena: Value, use: Callable[[Any, Value], None]) -> None:
    """Run *use* with every block in *arena* that is not stale, and its number."""
    index = b.variable(I64, _start(cache, "block", arena))
    end = cache.arenas[arena].blocks_end
    with b.While(lambda: index.value.ult(end)):
        block = block_record(b, cache, index.value)
        with b.If(block.tag != INVALID):
            use(block, index.value.trunc(I32))
        index.value = index.value + 1


def _each_arena(b: Builder, use: Callable[[Value], None]) -> None:
    number = b.variable(I64, 0)
    with b.While(lambda: number.value.ult(ARENAS)):
        use(number.value)
        number.value = number.value + 1


def _forget_arenas(b: Builder, cache: Any) -> None:
    """Nothing is in any arena."""

    def forget(number: Value) -> None:
        arena = cache.arenas[number]
        arena.epoch = 0
        arena.blocks_end = _start(cache, "block", number)
        arena.sites_end = _start(cache, "site", number)

    _each_arena(b, forget)
    _set_arena(b, cache, Constant(I64, 0))


def build_flush_code(layout: Layout) -> Function:
    """flush_code(cache): forget all translated code. Under the lock.

    If no vCPU is in it, the cache is as new.
    """
    b = Builder("flush_code", [("cache", PTR)])
    cache = b.struct(CODE_CACHE, b.cache)
    cache.flushes = cache.flushes + 1
    # Jump caches are emptied for it, before their vCPUs enter code again.
    b.atomic("add", cache.pointer("epoch"), Constant(I64, 1))
    b.fill(cache.buckets.to_pointer(), 0, HASH_BUCKETS * 4)
    b.fill(cache.pages.to_pointer(), 0, HASH_BUCKETS * 4)
    b.fill(cache.pointer("samples"), 0, SAMPLES * SAMPLE.size)
    b.fence()
    # Who enters from here on finds nothing.
    with b.If(any_vcpu_before(b, layout, cache.machine, Constant(I64, OUTSIDE))):
        _note_ends(cache)
        _each_arena(
            b,
            lambda number: _each_block(
                b, cache, number, lambda block, _: make_stale(b, cache, block)
            ),
        )
    with b.Else():
        _forget_arenas(b, cache)
    b.Return()
    return b.finish()


def _build_evict() -> Function:
    """evict(cache, number): have no code lead into an arena, and none begin there."""
    b = Builder("evict_arena", [("cache", PTR), ("number", I64)], exported=False)
    cache = b.struct(CODE_CACHE, b.cache)
    arena = cache.arenas[b.number]
    with b.If(arena.sites_end == _start(cache, "site", b.number)):
        # It was never filled.
        b.Return()
    cache.evictions = cache.evictions + 1

    def forget(block: Any, index: Value) -> None:
        take_from_bucket(b, cache, block, index)
        take_from_page(b, cache, block, index)
        make_stale(b, cache, block)

    _each_block(b, cache, b.number, forget)
    hot, region = (_start(cache, part, b.number) for part in ("hot", "region"))
    hot_size, region_size = cache.hot_size, cache.region_size

    def inside(target: Value) -> Value:
        return (target - hot).ult(hot_size) | (target - region).ult(region_size)

    def clean(number: Value) -> None:
        with b.If(number != b.number):

            def with_region_there(block: Any, index: Value) -> None:
                with b.If((block.region.zext(I64) - region).ult(region_size)):
                    forget(block, index)

            _each_block(b, cache, number, with_region_there)
            site = b.variable(I64, _start(cache, "site", number))
            end = cache.arenas[number].sites_end
            with b.While(lambda: site.value.ult(end)):
                _unlink(b, b.struct(SITE, site.value.to_pointer()), inside)
                site.value = site.value + SITE.size

    _each_arena(b, clean)
    arena.epoch = b.atomic("add", cache.pointer("epoch"), Constant(I64, 1)) + 1
    b.Return()
    return b.finish()


def _unlink(b: Builder, site: Any, inside: Callable[[Value], Value]) -> None:
    """If what a site patches leads there, have it lead to its stub again."""
    place, stub = site.code.zext(I64), site.next.zext(I64)
    kind = site.kind
    with b.If((kind == LINK_SITE) | (kind == REGION_LINK_SITE)):
        target = place + 4 + b.load(place.to_pointer(), I32).sext(I64)
        with b.If(inside(target)):
            patch_displacement(b, place, stub)
    with b.If((kind == HEAD_SITE) & (site.code != 0)):
        is_jump = b.load(place.to_pointer(), I8) == Constant(I8, JUMP_OPCODE)
        with b.If(is_jump):
            target = place + JUMP_SIZE + b.load((place + 1).to_pointer(), I32).sext(I64)
            with b.If(inside(target)):
                patch_jump(b, place, stub)


def _build_begin_arena(layout: Layout, evict: Function) -> Function:
    """begin_arena(cpu) -> 1; 0: a vCPU may still be in the next arena. Under the lock."""
    b = Builder("begin_arena", [("cpu", PTR)], result=I64, exported=False)
    cache = code_cache_of(b, b.struct(layout, b.cpu))
    address = cache.pointer()
    following = (cache.arena + 1) & (ARENAS - 1)
    with b.If(any_vcpu_before(b, layout, cache.machine, cache.arenas[following].epoch)):
        b.Return(0)
    _note_ends(cache)
    _set_arena(b, cache, following)
    _note_ends(cache)
    b.call(evict, address, (following + 1) & (ARENAS - 1))
    b.Return(1)
    return b.finish()


def _build_make_room(layout: Layout, begin_arena: Function) -> Function:
    """make_room(cpu, region, sites) -> 1 if so many bytes of both are free now. Under the lock."""
    b = Builder("make_room", [("cpu", PTR), ("region", I64), ("sites", I64)], result=I64)
    cache = code_cache_of(b, b.struct(layout, b.cpu))
    sites = b.sites + SITE_RESERVE

    def full() -> Value:
        value: Value = (
            (cache.region_end - cache.region_next).ult(b.region)
            | (cache.site_end - cache.site_next).ult(sites)
            | (cache.cold_end - cache.cold_next).ult(COLD_RESERVE)
        )
        return value

    with b.If(cache.region_size.ult(b.region) | cache.site_size.ult(sites)):
        b.Return(0)
    with b.If(full()):
        with b.If(b.call(begin_arena, b.cpu) == 0):
            b.Return(0)
        with b.If(full()):
            b.Return(0)
    b.Return(1)
    return b.finish()


def build_eviction(layout: Layout) -> EvictionRoutines:
    """Build all of it."""
    begin_arena = _build_begin_arena(layout, _build_evict())
    return EvictionRoutines(
        begin_arena, _build_make_room(layout, begin_arena), build_flush_code(layout)
    )
