"""What stencils and routines share of the TLB: where an entry is, which pages are large."""

from __future__ import annotations

from typing import Any

from tandemu.ir import I64, Builder, Constant, Value
from tandemu.jit.shared.layout import LARGE_PAGE_BITS, TLB_ENTRIES, TLB_ENTRY
from tandemu.memory.layout import PAGE_SHIFT

_ENTRY_SHIFT = TLB_ENTRY.size.bit_length() - 1


def tlb_entry(ir: Builder, tlb: Value, address: Value) -> Value:
    """Address of the entry for guest-virtual *address* in the TLB at *tlb*."""
    index = (address >> (PAGE_SHIFT - _ENTRY_SHIFT)) & ((TLB_ENTRIES - 1) << _ENTRY_SHIFT)
    return tlb.offset(index)


def large_page_bit(address: Value, size: Value) -> tuple[Value, Value]:
    """Word and bit of the filter for the page of 2 ** *size* bytes that holds *address*."""
    number = (address >> size) + (size << 5)
    number = (number ^ (number >> 9)) & (LARGE_PAGE_BITS - 1)
    return number >> 6, number & 63


def note_large_page(ir: Builder, cpu: Any, address: Value) -> None:
    """After a page walk whose answer is kept: remember a leaf larger than a page.

    A fence of any of its addresses is one of all its pages, each kept for itself.
    """
    with ir.If(cpu.walk_leaf != PAGE_SHIFT, likely=False):
        word, bit = large_page_bit(address, cpu.walk_leaf)
        cpu.large_pages[word] = cpu.large_pages[word] | (Constant(I64, 1) << bit)
