"""Which TLB is in use, and forgetting what the TLBs and the caches of code addresses hold."""

from __future__ import annotations

from tandemu.bits import Layout
from tandemu.ir import I1, I64, PTR, Builder, Constant, Function, Value
from tandemu.isa.architecture import State
from tandemu.isa.guest import System
from tandemu.jit.memory.jumps import empty_jump_caches, jump_cache
from tandemu.jit.memory.tlb import large_page_bit, tlb_entry
from tandemu.jit.shared.layout import (
    FETCH_ENTRIES,
    FETCH_ENTRY,
    LARGE_PAGE_BITS,
    TLB_ENTRIES,
    TLB_ENTRY,
    TLB_MODES,
)
from tandemu.memory.layout import PAGE_SHIFT, PAGE_SIZE

_TLB_SIZE = TLB_ENTRIES * TLB_ENTRY.size


def build_select_tlb(layout: Layout, system: System) -> Function:
    """select_tlb(cpu) -> TLB for data accesses now; sets `tlb`, `data_privilege`, `context`."""
    b = Builder("select_tlb", [("cpu", PTR)], result=PTR)
    cpu = b.struct(layout, b.cpu)
    index, privilege = system.regime(b, cpu)
    tlb = cpu.pointer("tlbs").offset(index * _TLB_SIZE)
    cpu.tlb = tlb.from_pointer()
    cpu.data_privilege = privilege
    context = system.context(b, cpu)
    cpu.context = context
    cpu.jump_cache = jump_cache(layout, context)
    b.Return(tlb)
    return b.finish()


def build_flush_translations(layout: Layout, state: State) -> Function:
    """flush_translations(cpu, all): forget translations; those of TLB 0 only if *all*."""
    b = Builder("flush_translations", [("cpu", PTR), ("all", I64)])
    cpu = b.struct(layout, b.cpu)
    cpu.tlb_flushes = cpu.tlb_flushes + 1
    kept = b.select(b.all != 0, Constant(I64, 0), Constant(I64, _TLB_SIZE))
    b.fill(cpu.pointer("tlbs").offset(kept), 0xFF, Constant(I64, _TLB_SIZE * TLB_MODES) - kept)
    b.fill(cpu.pointer("fetches"), 0xFF, FETCH_ENTRIES * FETCH_ENTRY.size)
    empty_jump_caches(b, layout, _paged(state))
    with b.If((b.all != 0) & Constant(I1, bool(state.unpaged))):
        empty_jump_caches(b, layout, range(len(_paged(state)), state.contexts))
    b.fill(cpu.pointer("jump_pages"), 0, 16 * 8)
    b.fill(cpu.pointer("large_pages"), 0, LARGE_PAGE_BITS // 8)
    b.Return()
    return b.finish()


def build_flush_page(layout: Layout, state: State, flush: Function) -> Function:
    """flush_page(cpu, address): forget the translations made from one leaf entry.

    *flush* forgets all.
    """
    b = Builder("flush_page", [("cpu", PTR), ("address", I64)])
    cpu = b.struct(layout, b.cpu)
    cpu.page_flushes = cpu.page_flushes + 1
    page = b.address & -PAGE_SIZE
    for size in state.large_pages:
        word, bit = large_page_bit(b.address, Constant(I64, size))
        with b.If(((cpu.large_pages[word] >> bit) & 1) != 0, likely=False):
            b.call(flush, b.cpu, 0)
            b.Return()
    for mode in range(1, TLB_MODES):
        tlb = cpu.pointer("tlbs").offset(mode * _TLB_SIZE)
        entry = b.struct(TLB_ENTRY, tlb_entry(b, tlb, page))
        entry.read = (1 << 64) - 1
        entry.write = (1 << 64) - 1
    cpu.fetches[(page >> PAGE_SHIFT) & (FETCH_ENTRIES - 1)].tag = (1 << 64) - 1
    word, bit = jump_page(page)
    with b.If(((cpu.jump_pages[word] >> bit) & 1) != 0):
        empty_jump_caches(b, layout, _paged(state))
        b.fill(cpu.pointer("jump_pages"), 0, 16 * 8)
    b.Return()
    return b.finish()


def _paged(state: State) -> range:
    """The contexts whose addresses are translated: the first ones."""
    paged = range(state.contexts - len(state.unpaged))
    assert not state.unpaged & set(paged), "unpaged contexts come last"
    return paged


def jump_page(page: Value) -> tuple[Value, Value]:
    """Where the bit stands that says the jump cache may hold targets on *page*."""
    number = page >> PAGE_SHIFT
    number = number ^ (number >> 10)
    return (number >> 6) & 15, number & 63
