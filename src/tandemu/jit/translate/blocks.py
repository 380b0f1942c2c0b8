"""The table of translated blocks: finding, making and forgetting them.

A block is known by (virtual address and context, physical address). It is looked up without
the lock of the code cache: a record is complete before a bucket leads to it, and one that is
taken out keeps its place in the chain for whoever stands there.

The page of a machine's block is marked as one that holds code, so that the first write to it is
seen; FENCE.I then forgets the blocks of the pages written. A program's pages are not marked: its
blocks have a hash of their code, to be compared when it says that it wrote some. What makes
room when the cache is full is `eviction`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tandemu.bits import Layout
from tandemu.ir import I1, I8, I16, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.isa.guest import Fetch
from tandemu.jit.memory.code_cache import code_cache_of, patch_jump
from tandemu.jit.memory.routines import guest_memory_of, machine_of
from tandemu.jit.shared.layout import (
    BLOCK,
    BLOCK_INSTRUCTIONS,
    CODE_CACHE,
    FETCH_CHECK,
    FETCH_ENTRY,
    HASH_BUCKETS,
    INVALID,
    SAMPLES,
    SITE,
    TLB_ENTRIES,
    TLB_ENTRY,
    TLB_MODES,
)
from tandemu.jit.shared.tags import emit_block_tag
from tandemu.memory.layout import CODE_LOG, PAGE_CODE, PAGE_SHIFT, PAGE_SIZE, PAGE_WRITTEN
from tandemu.slots.emitters import code_log_stamp, find_slot

JUMP_OPCODE = 0xE9
JUMP_SIZE = 5

NO_CODE, NO_ROOM = 0, 1
"""What `find_block` returns besides host addresses."""

LARGEST_STENCIL = 512
"""More than any has; `generate` checks it."""
_MULTIPLIER = 0x9E37_79B9_7F4A_7C15
HOT_RESERVE = (BLOCK_INSTRUCTIONS + 4) * LARGEST_STENCIL
COLD_RESERVE = 16 << 10
SITE_RESERVE = 4 * BLOCK_INSTRUCTIONS * SITE.size
"""What a block takes at most."""


def block_hash(physical: Value) -> Value:
    """The bucket of a block that starts at *physical*."""
    return ((physical >> 1) ^ (physical >> 17)) & (HASH_BUCKETS - 1)


def page_bucket(physical: Value) -> Value:
    """The bucket of the list of blocks on the page of *physical*."""
    return (physical >> PAGE_SHIFT) & (HASH_BUCKETS - 1)


def put_jump(b: Builder, place: Value, target: Value) -> None:
    """Write a jump to *target* at *place*, where nobody runs yet."""
    b.store(place.to_pointer(), Constant(I8, JUMP_OPCODE))
    b.store((place + 1).to_pointer(), (target - place - JUMP_SIZE).trunc(I32))


def block_record(b: Builder, cache: Any, index: Value) -> Any:
    pointer = (cache.blocks + index.zext(I64) * BLOCK.size).to_pointer()
    return b.struct(BLOCK, pointer)


def build_lookup(layout: Layout) -> Function:
    """lookup(cpu, tag, physical, second) -> host address of the block's code, or 0.

    `found_region` is then where to go with the pinned registers at hand. *second* is the
    second half of an instruction that crosses a page, INVALID for a block that has none.
    """
    parameters = [("cpu", PTR), ("tag", I64), ("physical", I64), ("second", I64)]
    b = Builder("lookup", parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    cache = code_cache_of(b, cpu)
    bucket = (cache.buckets + (block_hash(b.physical) << 2)).to_pointer()
    index = b.variable(I32, b.load(bucket, I32, atomic=True))
    with b.While(lambda: index.value != 0):
        block = block_record(b, cache, index.value)
        same = (block.tag == b.tag) & (block.physical == b.physical) & (block.second == b.second)
        with b.If(same):
            code = block.code.zext(I64)
            region = block.region
            cpu.found_region = b.select(region == 0, code, region.zext(I64))
            b.Return(code)
        index.value = block.next
    b.Return(0)
    return b.finish()


def build_mark_code(layout: Layout) -> Function:
    """mark_code(cpu, physical): make the first write to a page that holds code be seen.

    Sets the page's mark, then takes write entries for the page out of every
    vCPU's TLBs (`memory.build_fill` has the other half of the protocol).
    """
    b = Builder("mark_code", [("cpu", PTR), ("physical", I64)], exported=False)
    cpu = b.struct(layout, b.cpu)
    machine = machine_of(b, cpu)

    def use(slot: Any) -> None:
        offset = b.physical - slot.base
        flags = (slot.pages + (offset >> PAGE_SHIFT)).to_pointer()
        with b.If((b.load(flags, I8) & PAGE_CODE) != 0):
            b.Return()
        old = b.atomic("or", flags, Constant(I8, PAGE_CODE))
        with b.If((old & PAGE_WRITTEN) != 0):
            b.atomic("and", flags, Constant(I8, 0xFF ^ PAGE_WRITTEN))
            host = (slot.host + offset) & -PAGE_SIZE
            vcpu = b.variable(I64, 0)
            with b.While(lambda: vcpu.value.ult(machine.vcpu_count)):
                other = b.struct(layout, machine.vcpus[vcpu.value].to_pointer())
                tlbs = other.pointer("tlbs")
                entry = b.variable(I64, 0)
                with b.While(lambda: entry.value.ult(TLB_ENTRIES * TLB_MODES)):
                    one = b.struct(TLB_ENTRY, tlbs.offset(entry.value * TLB_ENTRY.size))
                    with b.If(one.write + one.addend == host):
                        b.store(one.pointer("write"), Constant(I64, INVALID), atomic=True)
                    entry.value = entry.value + 1
                vcpu.value = vcpu.value + 1
        b.Return()

    find_slot(b, guest_memory_of(b, cpu), b.physical, use)
    b.Return()
    return b.finish()


class _Found(NamedTuple):
    """What is at a pc: its physical and host addresses, the half of an instruction beyond."""

    physical: Value
    host: Value
    second: Value


def _find_code(
    b: Builder, cpu: Any, parcels: Fetch, fetch: Function, copy: Function | None
) -> _Found:
    """Where the code at pc is; the function returns `NO_CODE` if fetching it traps."""
    page = b.call(fetch, b.cpu, b.pc)
    with b.If(page.from_pointer() == 0, likely=False):
        b.Return(NO_CODE)
    entry = b.struct(FETCH_ENTRY, page)
    within = b.pc & (PAGE_SIZE - 1)
    physical = entry.physical + within
    host = entry.host + within
    cpu.found_physical = physical
    second = b.variable(I64, INVALID)
    with b.If(parcels.near_end(within), likely=False):
        last = read_code(b, cpu, copy, host, PAGE_SIZE - within)
        with b.If(parcels.crosses(b, cpu, last, within)):
            following = b.call(fetch, b.cpu, parcels.beyond(b.pc))
            with b.If(following.from_pointer() == 0):
                b.Return(NO_CODE)
            # Such a block is known by what the other page holds, which is looked at
            # each time: nothing tells when that page is written or mapped elsewhere.
            other = b.struct(FETCH_ENTRY, following)
            second.value = parcels.rest(b, read_code(b, cpu, copy, other.host, Constant(I64, 16)))
    return _Found(physical, host, second.value)


def read_code(b: Builder, cpu: Any, copy: Function | None, host: Value, size: Value) -> Value:
    """Where *size* bytes of guest code at *host* can be read; it returns if they are gone.

    Another thread of a program may unmap its code at any time: so it is copied first, by
    *copy*, which the host may refuse; then the page is asked for again. None: it is a machine's.
    """
    if copy is None:
        return host
    place = cpu.pointer("code_copy")
    with b.If(b.call(copy, place, host.to_pointer(), size) != 0, likely=False):
        cpu.trap_cause = FETCH_CHECK
        cpu.trap_value = b.pc
        b.Return(NO_CODE)
    copied: Value = place.from_pointer()
    return copied


def build_make_block(
    layout: Layout,
    parcels: Fetch,
    fetch: Function,
    lookup: Function,
    translate: Function,
    begin_arena: Function,
    copy: Function | None,
) -> Function:
    """make_block(cpu, pc) -> as find_block. Under the lock."""
    b = Builder("make_block", [("cpu", PTR), ("pc", I64)], result=I64, exported=False)
    cpu = b.struct(layout, b.cpu)
    cache = code_cache_of(b, cpu)
    found = _find_code(b, cpu, parcels, fetch, copy)
    tag = emit_block_tag(cpu.context, b.pc)
    code = b.call(lookup, b.cpu, tag, found.physical, found.second)
    with b.If(code != 0):
        b.Return(code)
    full = (
        (cache.hot_end - cache.hot_next).ult(HOT_RESERVE)
        | (cache.cold_end - cache.cold_next).ult(COLD_RESERVE)
        | (cache.site_end - cache.site_next).ult(SITE_RESERVE)
        | (cache.block_next == cache.block_end)
    )
    with b.If(full, likely=False):
        with b.If(b.call(begin_arena, b.cpu) == 0):
            b.Return(NO_ROOM)
    host = found.host
    if copy is not None:
        left = PAGE_SIZE - (b.pc & (PAGE_SIZE - 1))
        size = layout.fields["code_copy"].size
        host = read_code(b, cpu, copy, host, b.select(left.ult(size), left, Constant(I64, size)))
    b.Return(b.call(translate, b.cpu, b.pc, found.physical, host, found.second))
    return b.finish()


def build_find_block(
    layout: Layout,
    parcels: Fetch,
    fetch: Function,
    lookup: Function,
    make_block: Function,
    lock: Function,
    unlock: Function,
    copy: Function | None,
) -> Function:
    """find_block(cpu, pc) -> host address of its code.

    `NO_CODE`: fetching it traps; `NO_ROOM`: others have to leave old code first.
    """
    b = Builder("find_block", [("cpu", PTR), ("pc", I64)], result=I64)
    cpu = b.struct(layout, b.cpu)
    found = _find_code(b, cpu, parcels, fetch, copy)
    tag = emit_block_tag(cpu.context, b.pc)
    code = b.call(lookup, b.cpu, tag, found.physical, found.second)
    with b.If(code != 0, likely=True):
        b.Return(code)
    cache = cpu.code_cache.to_pointer()
    b.call(lock, cache)
    made = b.call(make_block, b.cpu, b.pc)
    b.call(unlock, cache)
    b.Return(made)
    return b.finish()


def build_hash_code() -> Function:
    """hash_code(code, length) -> a number that other bytes have by a rare chance only."""
    b = Builder("hash_code", [("code", I64), ("length", I64)], result=I64, exported=False)
    value, offset = b.variable(I64, b.length), b.variable(I64, 0)
    with b.While(lambda: offset.value.ult(b.length)):
        half = b.load((b.code + offset.value).to_pointer(), I16)
        mixed = (value.value ^ half.zext(I64)) * _MULTIPLIER
        value.value = mixed ^ (mixed >> 32)
        offset.value = offset.value + 2
    b.Return(value.value)
    return b.finish()


def build_forget_page(hash_code: Function) -> Function:
    """forget_page(cache, physical, content): forget the blocks on one page. Under the lock.

    *content* is the host address of a copy of the page: blocks that are as they were made from
    it stay. 0: all are forgotten.

    A block stays where it is, for others jump to it; its head becomes a jump to
    its stub, which finds what is there now and patches the head to go there.
    """
    b = Builder("forget_page", [("cache", PTR), ("physical", I64), ("content", I64)])
    cache = b.struct(CODE_CACHE, b.cache)
    tag = b.variable(I64, INVALID)
    link = b.variable(I64, cache.pages + (page_bucket(b.physical) << 2))
    index = b.variable(I32, b.load(link.value.to_pointer(), I32))
    with b.While(lambda: index.value != 0):
        block = block_record(b, cache, index.value)
        leaves = b.variable(I1, (block.physical & -PAGE_SIZE) == b.physical)
        with b.If(leaves.value & (b.content != 0)):
            place = b.content + (block.physical & (PAGE_SIZE - 1))
            leaves.value = b.call(hash_code, place, block.length.zext(I64)) != block.hash
        with b.If(leaves.value):
            tag.value = block.tag
            take_from_bucket(b, cache, block, index.value)
            b.store(link.value.to_pointer(), block.page_next)
            make_stale(b, cache, block)
        with b.Else():
            link.value = block.pointer("page_next").from_pointer()
        index.value = block.page_next
    with b.If(tag.value != INVALID):
        # What becomes hot again there is to be noticed.
        number = b.variable(I64, 0)
        with b.While(lambda: number.value != SAMPLES):
            sample = cache.samples[number.value]
            with b.If(((sample.tag ^ tag.value) & -PAGE_SIZE) == 0):
                sample.tag, sample.count = 0, 0
            number.value = number.value + 1
    b.Return()
    return b.finish()


def _unlink(
    b: Builder, cache: Any, head: Value, field: str, index: Value, following: Value
) -> None:
    """Take record number *index* out of the chain that begins at *head*."""
    link = b.variable(I64, head)
    with b.While(lambda: b.load(link.value.to_pointer(), I32) != index):
        other = block_record(b, cache, b.load(link.value.to_pointer(), I32))
        link.value = other.pointer(field).from_pointer()
    b.store(link.value.to_pointer(), following)


def take_from_bucket(b: Builder, cache: Any, block: Any, index: Value) -> None:
    """Have look-ups find a block no more. It keeps its *next*, for one that stands at it."""
    head = cache.buckets + (block_hash(block.physical) << 2)
    _unlink(b, cache, head, "next", index, block.next)


def take_from_page(b: Builder, cache: Any, block: Any, index: Value) -> None:
    """Take a block out of the list of its page."""
    head = cache.pages + (page_bucket(block.physical) << 2)
    _unlink(b, cache, head, "page_next", index, block.page_next)


def make_stale(b: Builder, cache: Any, block: Any) -> None:
    """Have whoever comes to a block, or to its region, go to what is there now."""
    site = b.struct(SITE, block.site.zext(I64).to_pointer())
    patch_jump(b, block.code.zext(I64), site.next.zext(I64))
    region = block.region.zext(I64)
    with b.If(region != 0, likely=False):
        patch_jump(b, region, block.region_stub.zext(I64))
        cache.stale_regions = cache.stale_regions + 1
    block.tag = INVALID
    block.physical = INVALID
    cache.stale = cache.stale + 1


def build_fence_instructions(
    layout: Layout, flush_code: Function, forget_page: Function, lock: Function, unlock: Function
) -> Function:
    """fence_instructions(cpu): forget the blocks whose pages have been written (FENCE.I).

    For all vCPUs: what one of them has seen need not be seen by another.
    """
    b = Builder("fence_instructions", [("cpu", PTR)])
    cpu = b.struct(layout, b.cpu)
    cache, address = code_cache_of(b, cpu), cpu.code_cache.to_pointer()
    memory = guest_memory_of(b, cpu)
    generation = b.load(memory.pointer("code_generation"), I64, atomic=True)
    with b.If(b.load(cache.pointer("seen_generation"), I64, atomic=True).uge(generation)):
        b.Return()
    b.call(lock, address)
    index = b.variable(I64, cache.seen_generation)
    with b.While(lambda: index.value.ult(generation)):
        place = memory.code_log.pointer(index.value & (CODE_LOG - 1))
        entry = b.load(place, I64, atomic=True)
        with b.If((entry & (PAGE_SIZE - 1)) == code_log_stamp(index.value), likely=True):
            b.call(forget_page, address, entry & -PAGE_SIZE, 0)
            index.value = index.value + 1
        with b.Else():
            # Overwritten already, or counted but not written yet by another vCPU.
            latest = b.load(memory.pointer("code_generation"), I64, atomic=True)
            with b.If((latest - index.value).ugt(CODE_LOG)):
                index.value = latest
                b.call(flush_code, address)
    # Others look at it without the lock: all of it has been done.
    b.store(cache.pointer("seen_generation"), index.value, atomic=True)
    b.call(unlock, address)
    b.Return()
    return b.finish()
