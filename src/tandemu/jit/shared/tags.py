"""What tells the blocks at one guest address in several contexts apart: their tags.

In generated code and in Python alike: the operations are those that values and numbers share.
A start from a warm cache needs the numbers alone, so `ir` is not loaded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandemu.bits import mask, sign_extend
from tandemu.jit.shared.layout import CONTEXT_SHIFT

if TYPE_CHECKING:
    from tandemu.ir import Value


def block_tag(context: int, pc: int) -> int:
    """The tag of the block at *pc* in the context of that number.

    >>> hex(block_tag(1, 0x8000)), hex(block_tag(1, 0xFFFF_8000_0000_0000))
    ('0x1000000008000', '0xfffe800000000000')
    """
    return pc ^ context << CONTEXT_SHIFT


def emit_block_tag(context: Value, pc: Value) -> Value:
    """The same in generated code."""
    return pc ^ (context << CONTEXT_SHIFT)


def tag_address(tag: int) -> int:
    """The guest address that a block's tag stands for.

    >>> hex(tag_address(0xFFFE_8000_0000_0000))
    '0xffff800000000000'
    """
    return sign_extend(tag & mask(CONTEXT_SHIFT), CONTEXT_SHIFT) & mask(64)


def tag_context(tag: int) -> int:
    """The number of its context."""
    return (tag ^ tag_address(tag)) >> CONTEXT_SHIFT


def emit_tag_address(tag: Value) -> Value:
    """`tag_address` in generated code."""
    spare = 64 - CONTEXT_SHIFT
    return (tag << spare).sar(spare)


def emit_tag_context(tag: Value) -> Value:
    """`tag_context` in generated code."""
    return (tag ^ emit_tag_address(tag)) >> CONTEXT_SHIFT
