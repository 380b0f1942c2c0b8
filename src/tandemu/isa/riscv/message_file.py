"""The interrupt file of a hart: messages that have come in, and the registers of Ssaia.

RISC-V Advanced Interrupt Architecture 1.0, chapter 2 (CSRs of a hart) and chapter 3 (incoming
MSI controller). One supervisor-level file of 255 identities. Other harts' threads and devices set
pending bits (`build_take_message`); all else is the hart's own, so only its thread lowers SEIP of
mip, and looks again afterwards. The bytes of major interrupts' priorities are read-only zeros.

A hart has these registers only where its board says so (`message_file`); elsewhere they do not
exist. Left out: the machine-level file with Smaia, guest files, direct delivery by an APLIC.
"""

from __future__ import annotations

from tandemu.bits import mask
from tandemu.ir import I64, Function, Value
from tandemu.isa.effects import INTERRUPTS
from tandemu.isa.riscv.csr_behaviour import Access, read_mip
from tandemu.isa.riscv.hart import Environment, add_effects, any_set, word
from tandemu.isa.riscv.state import MESSAGE_IDENTITIES, MESSAGE_WORDS, SEIP, SSIP, STIP

DELIVERY, THRESHOLD, PENDING, ENABLED = 0x70, 0x72, 0x80, 0xC0
"""Registers of the file, by number in siselect; the last two are the first of 64 each."""
_PRIORITIES, _PRIORITIES_END = 0x30, 0x40
_LAST = 0x100
_SELECTABLE = mask(9)
_PRIORITY_ORDER = (SEIP, SSIP, STIP)
_SIMPLE_PRIORITY = 1
"""IPRIO where all priorities are read-only zeros (section 5.4.3)."""


def build_top_identity(environment: Environment) -> Function:
    """Build (cpu) -> the least identity that is pending, enabled and below the threshold, or 0."""
    b, hart = environment.begin("top_identity")
    top: Value = word(0)
    for number in reversed(range(MESSAGE_WORDS)):
        pending = b.load(hart.messages_pending.pointer(number), I64, atomic=True)
        active = pending & hart.messages_enabled[number]
        first = active.count_trailing_zeros() + 64 * number
        top = b.select(active != 0, first, top)
    threshold = hart.messages_threshold
    held_back = (threshold != 0) & top.uge(threshold)
    b.Return(b.select(held_back, word(0), top))
    return b.finish()


def build_update_external(environment: Environment, top_identity: Function) -> Function:
    """Build (cpu): bring SEIP in line with the file. The hart's own thread, or it is at rest."""
    b, hart = environment.begin("update_external", result=None)
    wires = hart.pointer("mip")
    # Lowered first: whoever sets a pending bit meanwhile raises it himself, or is seen below.
    b.atomic("and", wires, word(~SEIP))
    with b.If((hart.messages_delivery != 0) & (b.call(top_identity, b.cpu) != 0)):
        b.atomic("or", wires, word(SEIP))
    add_effects(hart, INTERRUPTS)
    b.Return()
    return b.finish()


def build_take_message(environment: Environment) -> Function:
    """Build (cpu, identity): a message has come; one the file does not have is lost. Any thread."""
    b, hart = environment.begin("take_message", "identity", result=None)
    identity = b.identity
    with b.If((identity == 0) | identity.ugt(MESSAGE_IDENTITIES)):
        b.Return()
    number, bit = identity >> 6, word(1) << (identity & 63)
    b.atomic("or", hart.messages_pending.pointer(number), bit)
    threshold = hart.messages_threshold
    passes = (threshold == 0) | identity.ult(threshold)
    enabled = any_set(hart.messages_enabled[number], bit)
    with b.If((hart.messages_delivery != 0) & enabled & passes):
        b.atomic("or", hart.pointer("mip"), word(SEIP))
    b.Return()
    return b.finish()


# Registers ------------------------------------------------------------------------------


def present(a: Access) -> Value:
    """Whether the hart has an interrupt file."""
    file: Value = a.hart.message_file
    return file != 0


def write_siselect(a: Access, value: Value, touched: Value) -> None:
    a.hart.siselect = value & _SELECTABLE


def indirect_gate(a: Access) -> Value:
    """sireg is there if siselect is the number of a register; the odd ones are halves at 32 bits.

    Sections 2.1 and 3.8.
    """
    selected = a.hart.siselect
    priorities = (selected - _PRIORITIES).ult(_PRIORITIES_END - _PRIORITIES)
    file = (selected - DELIVERY).ult(_LAST - DELIVERY)
    exists: Value = priorities | file
    if a.xlen == 64:
        whole = (selected.bit(0) == 0) | (file & selected.ult(PENDING))
        exists = exists & whole
    return exists & present(a)


def _array_place(a: Access) -> tuple[Value, Value, Value]:
    """Of a register of an array: the word it is in, its shift in that, whether it exists."""
    index = a.hart.siselect & 63
    number = index >> 1
    shift = (index & 1) * 32 if a.xlen == 32 else word(0)
    exists = number.ult(MESSAGE_WORDS)
    return a.b.select(exists, number, word(0)), shift, exists


def read_sireg(a: Access) -> Value:
    b, hart = a.b, a.hart
    selected = hart.siselect
    number, shift, exists = _array_place(a)
    pending = b.load(hart.messages_pending.pointer(number), I64, atomic=True)
    bits = b.select(selected.ult(ENABLED), pending, hart.messages_enabled[number]) >> shift
    result = b.select(selected.uge(PENDING) & exists, bits, word(0))
    result = b.select(selected == DELIVERY, hart.messages_delivery, result)
    result = b.select(selected == THRESHOLD, hart.messages_threshold, result)
    return result & mask(a.xlen)


def write_sireg(a: Access, value: Value, touched: Value) -> None:
    b, hart = a.b, a.hart
    selected = hart.siselect
    with b.If(selected == DELIVERY):
        hart.messages_delivery = b.select(value == 1, word(1), word(0))
    with b.If(selected == THRESHOLD):
        hart.messages_threshold = value & MESSAGE_IDENTITIES
    number, shift, exists = _array_place(a)
    with b.If(selected.uge(PENDING) & exists):
        # Identity 0 does not exist.
        writable = b.select(number == 0, word(mask(64) - 1), word(mask(64)))
        bits = (touched << shift) & writable
        new = (value << shift) & bits
        with b.If(selected.ult(ENABLED)):
            pointer = hart.messages_pending.pointer(number)
            b.atomic("and", pointer, new | ~bits)
            b.atomic("or", pointer, new)
        with b.Else():
            hart.messages_enabled[number] = (hart.messages_enabled[number] & ~bits) | new
    b.call(a.update_external, b.cpu)


def read_stopei(a: Access) -> Value:
    top = a.b.call(a.top_identity, a.b.cpu)
    return top << 16 | top


def write_stopei(a: Access, value: Value, touched: Value) -> None:
    """Whatever is written claims what the same access has read (section 3.10)."""
    b, hart = a.b, a.hart
    identity = hart.csr_value & MESSAGE_IDENTITIES
    with b.If(identity != 0):
        pointer = hart.messages_pending.pointer(identity >> 6)
        b.atomic("and", pointer, ~(word(1) << (identity & 63)))
    b.call(a.update_external, b.cpu)


def read_stopi(a: Access) -> Value:
    """The pending and enabled interrupt of supervisor level that comes first (section 5.4.3)."""
    b, hart = a.b, a.hart
    due = read_mip(a) & hart.mie & hart.mideleg
    result: Value = word(0)
    for bit in reversed(_PRIORITY_ORDER):
        found = word((bit.bit_length() - 1) << 16 | _SIMPLE_PRIORITY)
        result = b.select(any_set(due, bit), found, result)
    return result
