"""The table of translated blocks of a vCPU: finding, forgetting and keeping them true.

A block is known by (virtual address and mode, physical address). Its page is
marked as one that holds code, so that the first write to it is seen; FENCE.I
then forgets the blocks of the pages written. A program's pages are not marked: its
blocks have a hash of their code, to be compared when it says that it wrote some. When
the code cache is full, all of it is forgotten at once.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I1, I8, I16, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.isa.architecture import State
from tandemu.isa.guest import Fetch
from tandemu.jit.memory.jumps import empty_jump_caches, forget_jump
from tandemu.jit.memory.routines import guest_memory_of, machine_of
from tandemu.jit.shared.layout import (
    BLOCK,
    BLOCK_INSTRUCTIONS,
    BLOCK_LIMIT,
    FETCH_ENTRY,
    HASH_BUCKETS,
    INVALID,
    REQUEST_ROOM,
    SAMPLE,
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

LARGEST_STENCIL = 512
"""More than any has; `generate` checks it."""
_MULTIPLIER = 0x9E37_79B9_7F4A_7C15
_HOT_RESERVE = (BLOCK_INSTRUCTIONS + 4) * LARGEST_STENCIL
_COLD_RESERVE = 16 << 10
_SITE_RESERVE = 4 * BLOCK_INSTRUCTIONS * SITE.size


def block_hash(physical: Value) -> Value:
    """The bucket of a block that starts at *physical*."""
    return ((physical >> 1) ^ (physical >> 17)) & (HASH_BUCKETS - 1)


def page_bucket(physical: Value) -> Value:
    """The bucket of the list of blocks on the page of *physical*."""
    return (physical >> PAGE_SHIFT) & (HASH_BUCKETS - 1)


def build_flush_code(layout: Layout, state: State) -> Function:
    """flush_code(cpu): forget every translation of this vCPU."""
    b = Builder("flush_code", [("cpu", PTR)])
    cpu = b.struct(layout, b.cpu)
    cpu.flushes = cpu.flushes + 1
    cpu.hot_next = cpu.hot_start
    cpu.cold_next = cpu.cold_start
    cpu.site_next = cpu.site_start
    # Block 0 means "none".
    cpu.block_count = 1
    b.fill(cpu.buckets.to_pointer(), 0, HASH_BUCKETS * 4)
    b.fill(cpu.pages.to_pointer(), 0, HASH_BUCKETS * 4)
    empty_jump_caches(b, layout, state, range(state.contexts))
    b.fill(cpu.pointer("samples"), 0, SAMPLES * SAMPLE.size)
    b.Return()
    return b.finish()


def put_jump(b: Builder, place: Value, target: Value) -> None:
    """Make what stands at *place* a jump to *target*."""
    b.store(place.to_pointer(), Constant(I8, JUMP_OPCODE))
    b.store((place + 1).to_pointer(), (target - place - JUMP_SIZE).trunc(I32))


def block_record(b: Builder, cpu: Any, index: Value) -> Any:
    pointer = (cpu.blocks + index.zext(I64) * BLOCK.size).to_pointer()
    return b.struct(BLOCK, pointer)


def build_lookup(layout: Layout) -> Function:
    """lookup(cpu, tag, physical, second) -> host address of the block's code, or 0.

    `found_region` is then where to go with the pinned registers at hand. *second* is the
    second half of an instruction that crosses a page, INVALID for a block that has none.
    """
    parameters = [("cpu", PTR), ("tag", I64), ("physical", I64), ("second", I64)]
    b = Builder("lookup", parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    bucket = (cpu.buckets + (block_hash(b.physical) << 2)).to_pointer()
    index = b.variable(I32, b.load(bucket, I32))
    with b.While(lambda: index.value != 0):
        block = block_record(b, cpu, index.value)
        same = (block.tag == b.tag) & (block.physical == b.physical) & (block.second == b.second)
        with b.If(same):
            code = block.code.zext(I64)
            cpu.found_region = b.select(block.region == 0, code, block.region.zext(I64))
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


def build_find_block(
    layout: Layout,
    parcels: Fetch,
    fetch: Function,
    lookup: Function,
    translate: Function,
    flush_code: Function,
) -> Function:
    """find_block(cpu, pc) -> host address of its code; 0: fetching it traps."""
    b = Builder("find_block", [("cpu", PTR), ("pc", I64)], result=I64)
    cpu = b.struct(layout, b.cpu)
    page = b.call(fetch, b.cpu, b.pc)
    with b.If(page.from_pointer() == 0, likely=False):
        b.Return(0)
    entry = b.struct(FETCH_ENTRY, page)
    within = b.pc & (PAGE_SIZE - 1)
    physical = entry.physical + within
    host = entry.host + within
    second = b.variable(I64, INVALID)
    with b.If(parcels.near_end(within), likely=False):
        with b.If(parcels.crosses(b, cpu, host, within)):
            following = b.call(fetch, b.cpu, parcels.beyond(b.pc))
            with b.If(following.from_pointer() == 0):
                b.Return(0)
            # Such a block is known by what the other page holds, which is looked at
            # each time: nothing tells when that page is written or mapped elsewhere.
            other = b.struct(FETCH_ENTRY, following)
            second.value = parcels.rest(b, other.host)
    tag = emit_block_tag(cpu.context, b.pc)
    code = b.call(lookup, b.cpu, tag, physical, second.value)
    with b.If(code != 0):
        b.Return(code)
    full = (
        (cpu.hot_end - cpu.hot_next).ult(_HOT_RESERVE)
        | (cpu.cold_end - cpu.cold_next).ult(_COLD_RESERVE)
        | (cpu.site_end - cpu.site_next).ult(_SITE_RESERVE)
        | (cpu.block_count == BLOCK_LIMIT)
    )
    with b.If(full, likely=False):
        b.call(flush_code, b.cpu)
        b.atomic("or", cpu.pointer("request"), Constant(I64, REQUEST_ROOM))
    b.Return(b.call(translate, b.cpu, b.pc, physical, host, second.value))
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


def build_forget_page(layout: Layout, state: State, hash_code: Function) -> Function:
    """forget_page(cpu, physical, content): forget the blocks on one physical page.

    *content* is the host address of a copy of the page: blocks that are as they were made from
    it stay. 0: all are forgotten.

    A block stays where it is, for others jump to it; its head becomes a jump to
    its stub, which finds what is there now and patches the head to go there.
    """
    b = Builder("forget_page", [("cpu", PTR), ("physical", I64), ("content", I64)])
    cpu = b.struct(layout, b.cpu)
    tag = b.variable(I64, INVALID)
    link = b.variable(I64, cpu.pages + (page_bucket(b.physical) << 2))
    index = b.variable(I32, b.load(link.value.to_pointer(), I32))
    with b.While(lambda: index.value != 0):
        block = block_record(b, cpu, index.value)
        leaves = b.variable(I1, (block.physical & -PAGE_SIZE) == b.physical)
        with b.If(leaves.value & (b.content != 0)):
            place = b.content + (block.physical & (PAGE_SIZE - 1))
            leaves.value = b.call(hash_code, place, block.length.zext(I64)) != block.hash
        with b.If(leaves.value):
            tag.value = block.tag
            _forget_block(b, layout, state, cpu, block, index.value)
            b.store(link.value.to_pointer(), block.page_next)
        with b.Else():
            link.value = block.pointer("page_next").from_pointer()
        index.value = block.page_next
    with b.If(tag.value != INVALID):
        # What becomes hot again there is to be noticed.
        number = b.variable(I64, 0)
        with b.While(lambda: number.value != SAMPLES):
            sample = cpu.samples[number.value]
            with b.If(((sample.tag ^ tag.value) & -PAGE_SIZE) == 0):
                sample.tag, sample.count = 0, 0
            number.value = number.value + 1
    b.Return()
    return b.finish()


def _forget_block(
    b: Builder, layout: Layout, state: State, cpu: Any, block: Any, index: Value
) -> None:
    """Forget a block but for its place in the list of its page."""
    bucket = cpu.buckets + (block_hash(block.physical) << 2)
    link = b.variable(I64, bucket)
    with b.While(lambda: b.load(link.value.to_pointer(), I32) != index):
        other = block_record(b, cpu, b.load(link.value.to_pointer(), I32))
        link.value = other.pointer("next").from_pointer()
    b.store(link.value.to_pointer(), block.next)
    code = block.code.zext(I64)
    site = b.struct(SITE, block.site.zext(I64).to_pointer())
    put_jump(b, code, site.next.zext(I64))
    # Who comes by that has taken nothing, and may be in debt: a region can be.
    site.remaining = 0
    region = block.region.zext(I64)
    with b.If(region != 0, likely=False):
        put_jump(b, region, block.region_stub.zext(I64))
        cpu.stale_regions = cpu.stale_regions + 1
    forget_jump(b, layout, state, block.tag)
    block.tag = INVALID
    block.physical = INVALID
    cpu.stale = cpu.stale + 1


def build_fence_instructions(
    layout: Layout, flush_code: Function, forget_page: Function
) -> Function:
    """fence_instructions(cpu): forget the blocks whose pages have been written (FENCE.I)."""
    b = Builder("fence_instructions", [("cpu", PTR)])
    cpu = b.struct(layout, b.cpu)
    memory = guest_memory_of(b, cpu)
    generation = b.load(memory.pointer("code_generation"), I64, atomic=True)
    seen = cpu.seen_generation
    with b.If(generation == seen):
        b.Return()
    cpu.seen_generation = generation
    index = b.variable(I64, seen)
    with b.While(lambda: index.value != generation):
        place = memory.code_log.pointer(index.value & (CODE_LOG - 1))
        entry = b.load(place, I64, atomic=True)
        with b.If((entry & (PAGE_SIZE - 1)) == code_log_stamp(index.value), likely=True):
            b.call(forget_page, b.cpu, entry & -PAGE_SIZE, 0)
            index.value = index.value + 1
        with b.Else():
            # Overwritten already, or counted but not written yet by another vCPU.
            latest = b.load(memory.pointer("code_generation"), I64, atomic=True)
            with b.If((latest - index.value).ugt(CODE_LOG)):
                cpu.seen_generation = latest
                b.call(flush_code, b.cpu)
                b.Return()
    b.Return()
    return b.finish()
