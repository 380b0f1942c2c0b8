"""The state of a RISC-V hart: its fields, their bits, and what reset leaves in them.

RISC-V Privileged ISA (version 1.13), chapters "Machine-Level ISA" and
"Supervisor-Level ISA". Every CSR is kept in 64 bits at either XLEN; at XLEN 32
the upper half of a CSR that has one stands in the same field.

Plain numbers: nothing here needs the embedded language, for a start from a warm
cache does not either.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import U8, U32, U64, Array, Layout, Scalar, mask

USER, SUPERVISOR, MACHINE = 0, 1, 3

SUPERVISOR_CODE, USER_CODE, MACHINE_CODE = range(3)
"""The contexts of code (`isa.architecture.State.contexts`)."""

PMP_ENTRIES = 16
MESSAGE_WORDS = 4
MESSAGE_IDENTITIES = 64 * MESSAGE_WORDS - 1
"""Of a hart's interrupt file: how many messages it tells apart."""
NO_RESERVATION = mask(64)

FENCE_ASID = 1 << 1
"""In `fence_kind`: only translations of `fence_asid` that are not global."""

# Fields of mstatus ("Machine Status Registers").
SIE, MIE, SPIE, MPIE, SPP = (1 << number for number in (1, 3, 5, 7, 8))
MPP, FS = 3 << 11, 3 << 13
MPP_LOW, FS_LOW, SPP_LOW = 11, 13, 8
MPRV, SUM, MXR, TVM, TW, TSR = (1 << number for number in range(17, 23))
UXL, SXL = 3 << 32, 3 << 34

# Bits of mip and mie.
SSIP, MSIP, STIP, MTIP, SEIP, MEIP = (1 << number for number in (1, 3, 5, 7, 9, 11))
SUPERVISOR_INTERRUPTS = SSIP | STIP | SEIP
ALL_INTERRUPTS = SUPERVISOR_INTERRUPTS | MSIP | MTIP | MEIP

SOFTWARE_BITS = SSIP | STIP
"""What software sets in mip itself, beside SEIP of `mip_seip`. STIP is the timer's where
menvcfg.STCE says so."""
WIRES = SEIP | MEIP | MSIP | MTIP
"""What comes from outside of the hart into mip."""

# Fields of menvcfg and senvcfg.
FIOM, CBIE, CBCFE, CBZE = 1 << 0, 3 << 4, 1 << 6, 1 << 7
ADUE, STCE = 1 << 61, 1 << 63

# Exceptions ("Machine Cause Register").
(
    INSTRUCTION_MISALIGNED,
    INSTRUCTION_ACCESS_FAULT,
    ILLEGAL_INSTRUCTION,
    BREAKPOINT,
    LOAD_MISALIGNED,
    LOAD_ACCESS_FAULT,
    STORE_MISALIGNED,
    STORE_ACCESS_FAULT,
    USER_CALL,
    SUPERVISOR_CALL,
) = range(10)
MACHINE_CALL, INSTRUCTION_PAGE_FAULT, LOAD_PAGE_FAULT, STORE_PAGE_FAULT = 11, 12, 13, 15

DELEGABLE_EXCEPTIONS = 0xB3FF
"""All of the above but a call from machine mode."""

_WORDS = (
    "pc",
    "privilege",
    # Machine mode. SEIP of mip is the wire; what software wrote is in mip_seip.
    *("mstatus", "mtvec", "mepc", "mcause", "mtval", "mscratch", "mie", "mip", "mip_seip"),
    *("medeleg", "mideleg", "mcounteren", "mcountinhibit", "menvcfg", "mhartid", "mtimecmp"),
    # Supervisor mode.
    *("stvec", "sepc", "scause", "stval", "sscratch", "satp", "scounteren", "senvcfg", "stimecmp"),
    # Counter = base + what the engine counted; the base alone while it is inhibited.
    *("mcycle_base", "minstret_base"),
    # Floating point. float_slow: not zero unless FS is Dirty and frm a mode of the host.
    *("fflags", "frm", "float_slow"),
    # pmp_open: everything is allowed; pmp_active: some entry is not off.
    *("pmp_open", "pmp_active"),
    *("reservation_address", "reservation_value"),
    # An instruction's answer to the engine.
    *("effects", "fence_address", "fence_asid", "fence_kind", "csr_value"),
    *("walk_physical", "walk_size", "walk_leaf", "walk_permissions", "walk_global"),
    # ecall from supervisor mode is answered by the engine, not by machine mode.
    "firmware_calls",
    # The interrupt file, and whether there is one (AIA).
    *("message_file", "siselect", "messages_delivery", "messages_threshold"),
)


SOFTWARE_INTERRUPTS, INTERRUPT_WIRES = "mip.software", "mip.wires"
"""The two halves of mip: a write to mip itself changes one and cannot tell them apart."""
WAITING = "waiting"
"""Whether the hart stands in a WFI."""
RESERVATION = ("reservation.address", "reservation.value")
"""Of LR and SC: the virtual address, all ones if there is none, and what was read there."""
MESSAGE_FILE = "messages.present"
"""Whether the hart has an interrupt file. Of one that has, in the order to set them in: the
identities that are enabled and pending, 64 to a word, then what decides of their delivery."""
MESSAGES = (
    MESSAGE_FILE,
    "messages.select",
    *(f"messages.enabled{number}" for number in range(MESSAGE_WORDS)),
    *(f"messages.pending{number}" for number in range(MESSAGE_WORDS)),
    *("messages.threshold", "messages.delivery"),
)
PARTS = (*MESSAGES, SOFTWARE_INTERRUPTS, INTERRUPT_WIRES, WAITING, *RESERVATION)
"""State that no CSR shows alone."""

_STATE_CSRS = (
    *("medeleg", "mideleg", "mie", "mtvec", "mcounteren", "menvcfg"),
    *("mcountinhibit", "mscratch", "mepc", "mcause", "mtval"),
    *(f"pmpaddr{index}" for index in range(PMP_ENTRIES)),
    *("pmpcfg0", "pmpcfg2"),
    *("stvec", "scounteren", "senvcfg", "sscratch", "sepc", "scause", "stval", "satp"),
    *("fflags", "frm", "mcycle", "minstret"),
)
_STATE_CSRS_32 = ("menvcfgh", "pmpcfg1", "pmpcfg3", "mcycleh", "minstreth")
"""What a hart of 32 bits has besides."""


DUMPED = (
    *("pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{number}" for number in range(8)),
    *(f"s{number}" for number in range(2, 12)),
    *("t3", "t4", "t5", "t6", "mstatus", "mepc", "mcause", "mtval"),
    *("sepc", "scause", "stval", "satp"),
)
"""What is shown of a hart that broke down."""


def state_names(xlen: int) -> tuple[str, ...]:
    """The registers that make up all architectural state of a hart, in the order to set them in.

    Leaving out views of others (sstatus), what is always the same, and what the clock says.
    """
    csrs = _STATE_CSRS if xlen == 64 else (*_STATE_CSRS, *_STATE_CSRS_32)
    return (
        *("pc", "privilege"),
        *(f"x{number}" for number in range(1, 32)),
        *(f"f{number}" for number in range(32)),
        *csrs,
        # Behind fflags and frm, a write to which marks the floating-point unit dirty.
        *("mstatus", "mtimecmp", "stimecmp"),
        *PARTS,
    )


def hart_fields(xlen: int) -> dict[str, Scalar | Array | Layout]:
    """Return the fields of a hart's state, by name, for a `Layout`.

    ``x[32]`` takes what is written to x0.
    """
    return {
        "x": (U64 if xlen == 64 else U32)[33],
        "f": U64[32],
        **{name: U64 for name in _WORDS},
        "pmpaddr": U64[PMP_ENTRIES],
        "pmpcfg": U8[PMP_ENTRIES],
        "messages_pending": U64[MESSAGE_WORDS],
        "messages_enabled": U64[MESSAGE_WORDS],
    }


def reset(view: Any, xlen: int, hart_id: int, *, pc: int = 0, firmware_calls: bool = False) -> None:
    """Put the live structure *view* into the state after reset.

    With *firmware_calls* the hart starts in supervisor mode, in the state that
    machine-mode firmware hands over (RISC-V SBI, "Hart State Management").
    """
    for name in _WORDS:
        setattr(view, name, 0)
    for array, count in (
        *(("x", 33), ("f", 32), ("pmpaddr", PMP_ENTRIES), ("pmpcfg", PMP_ENTRIES)),
        *(("messages_pending", MESSAGE_WORDS), ("messages_enabled", MESSAGE_WORDS)),
    ):
        elements = getattr(view, array)
        for index in range(count):
            elements[index] = 0
    view.pc = pc
    view.privilege = MACHINE
    view.mhartid = hart_id
    if xlen == 64:
        view.mstatus = 2 << 32 | 2 << 34
    view.stimecmp = view.mtimecmp = mask(64)
    view.menvcfg = ADUE
    view.float_slow = 1
    view.reservation_address = NO_RESERVATION
    if firmware_calls:
        view.firmware_calls = 1
        view.privilege = SUPERVISOR
        view.pmp_open = 1
        view.medeleg = DELEGABLE_EXCEPTIONS & ~(1 << SUPERVISOR_CALL)
        view.mideleg = SUPERVISOR_INTERRUPTS
        view.mcounteren = mask(32)
        # Programs may read cycle, time and instret.
        view.scounteren = 7
        view.menvcfg = STCE | ADUE | CBIE | CBCFE | CBZE
        view.x[10] = hart_id
