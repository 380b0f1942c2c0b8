"""The structures of KVM's interface for x86-64, as `Layout`s: Linux uapi ``linux/kvm.h``
and ``asm/kvm.h``.

Field names are the kernel's, so that a test compares every offset with the host's headers.
A union stands as an array of bytes or as its most used member. Structures of variable
length end before their entries. Left out: what only other architectures, SEV, TDX or Xen use.
"""

from __future__ import annotations

from tandemu.bits import U8, U16, U32, U64, Layout

# ---- memory, interrupts, clocks: of a VM ---------------------------------------------------

USERSPACE_MEMORY_REGION = Layout(
    "kvm_userspace_memory_region",
    slot=U32,
    flags=U32,
    guest_phys_addr=U64,
    memory_size=U64,
    userspace_addr=U64,
)
DIRTY_LOG = Layout("kvm_dirty_log", slot=U32, padding1=U32, dirty_bitmap=U64)
IRQ_LEVEL = Layout("kvm_irq_level", irq=U32, level=U32)
IRQCHIP = Layout("kvm_irqchip", chip_id=U32, pad=U32, chip=U8[512])
IOAPIC_STATE = Layout(
    "kvm_ioapic_state",
    base_address=U64,
    ioregsel=U32,
    id=U32,
    irr=U32,
    pad=U32,
    redirtbl=U64[24],
)
PIT_CONFIG = Layout("kvm_pit_config", flags=U32, pad=U32[15])
PIT_CHANNEL_STATE = Layout(
    "kvm_pit_channel_state",
    count=U32,
    latched_count=U16,
    count_latched=U8,
    status_latched=U8,
    status=U8,
    read_state=U8,
    write_state=U8,
    write_latch=U8,
    rw_mode=U8,
    mode=U8,
    bcd=U8,
    gate=U8,
    count_load_time=U64,
)
PIT_STATE2 = Layout("kvm_pit_state2", channels=PIT_CHANNEL_STATE[3], flags=U32, reserved=U32[9])
IRQFD = Layout("kvm_irqfd", fd=U32, gsi=U32, flags=U32, resamplefd=U32, pad=U8[16])
IOEVENTFD = Layout("kvm_ioeventfd", datamatch=U64, addr=U64, len=U32, fd=U32, flags=U32, pad=U8[36])
MSI = Layout(
    "kvm_msi",
    address_lo=U32,
    address_hi=U32,
    data=U32,
    flags=U32,
    devid=U32,
    pad=U8[12],
)
IRQ_ROUTING = Layout("kvm_irq_routing", nr=U32, flags=U32)
IRQ_ROUTING_ENTRY = Layout("kvm_irq_routing_entry", gsi=U32, type=U32, flags=U32, pad=U32, u=U64[4])
COALESCED_MMIO_ZONE = Layout("kvm_coalesced_mmio_zone", addr=U64, size=U32, pio=U32)
CLOCK_DATA = Layout(
    "kvm_clock_data",
    clock=U64,
    flags=U32,
    pad0=U32,
    realtime=U64,
    host_tsc=U64,
    pad=U32[4],
)
ENABLE_CAP = Layout("kvm_enable_cap", cap=U32, flags=U32, args=U64[4], pad=U8[64])
CREATE_DEVICE = Layout("kvm_create_device", type=U32, fd=U32, flags=U32)
DEVICE_ATTR = Layout("kvm_device_attr", flags=U32, group=U32, attr=U64, addr=U64)

# ---- a processor ---------------------------------------------------------------------------

REGS = Layout(
    "kvm_regs",
    rax=U64,
    rbx=U64,
    rcx=U64,
    rdx=U64,
    rsi=U64,
    rdi=U64,
    rsp=U64,
    rbp=U64,
    r8=U64,
    r9=U64,
    r10=U64,
    r11=U64,
    r12=U64,
    r13=U64,
    r14=U64,
    r15=U64,
    rip=U64,
    rflags=U64,
)
SEGMENT = Layout(
    "kvm_segment",
    base=U64,
    limit=U32,
    selector=U16,
    type=U8,
    present=U8,
    dpl=U8,
    db=U8,
    s=U8,
    l=U8,
    g=U8,
    avl=U8,
    unusable=U8,
    padding=U8,
)
DTABLE = Layout("kvm_dtable", base=U64, limit=U16, padding=U16[3])
SREGS = Layout(
    "kvm_sregs",
    cs=SEGMENT,
    ds=SEGMENT,
    es=SEGMENT,
    fs=SEGMENT,
    gs=SEGMENT,
    ss=SEGMENT,
    tr=SEGMENT,
    ldt=SEGMENT,
    gdt=DTABLE,
    idt=DTABLE,
    cr0=U64,
    cr2=U64,
    cr3=U64,
    cr4=U64,
    cr8=U64,
    efer=U64,
    apic_base=U64,
    interrupt_bitmap=U64[4],
)
FPU = Layout(
    "kvm_fpu",
    fpr=U8[128],
    fcw=U16,
    fsw=U16,
    ftwx=U8,
    pad1=U8,
    last_opcode=U16,
    last_ip=U64,
    last_dp=U64,
    xmm=U8[256],
    mxcsr=U32,
    pad2=U32,
)
XSAVE = Layout("kvm_xsave", region=U32[1024])
XCR = Layout("kvm_xcr", xcr=U32, reserved=U32, value=U64)
XCRS = Layout("kvm_xcrs", nr_xcrs=U32, flags=U32, xcrs=XCR[16], padding=U64[16])
LAPIC_STATE = Layout("kvm_lapic_state", regs=U8[1024])
MP_STATE = Layout("kvm_mp_state", mp_state=U32)
DEBUGREGS = Layout("kvm_debugregs", db=U64[4], dr6=U64, dr7=U64, flags=U64, reserved=U64[9])
VCPU_EVENTS = Layout(
    "kvm_vcpu_events",
    exception=Layout(
        "kvm_vcpu_events_exception",
        injected=U8,
        nr=U8,
        has_error_code=U8,
        pending=U8,
        error_code=U32,
    ),
    interrupt=Layout("kvm_vcpu_events_interrupt", injected=U8, nr=U8, soft=U8, shadow=U8),
    nmi=Layout("kvm_vcpu_events_nmi", injected=U8, pending=U8, masked=U8, pad=U8),
    sipi_vector=U32,
    flags=U32,
    smi=Layout("kvm_vcpu_events_smi", smm=U8, pending=U8, smm_inside_nmi=U8, latched_init=U8),
    triple_fault=U8,
    reserved=U8[26],
    exception_has_payload=U8,
    exception_payload=U64,
)
GUEST_DEBUG = Layout("kvm_guest_debug", control=U32, pad=U32, arch=U64[8])
TRANSLATION = Layout(
    "kvm_translation",
    linear_address=U64,
    physical_address=U64,
    valid=U8,
    writeable=U8,
    usermode=U8,
    pad=U8[5],
)
INTERRUPT = Layout("kvm_interrupt", irq=U32)
MSRS = Layout("kvm_msrs", nmsrs=U32, pad=U32)
MSR_ENTRY = Layout("kvm_msr_entry", index=U32, reserved=U32, data=U64)
MSR_LIST = Layout("kvm_msr_list", nmsrs=U32)
CPUID2 = Layout("kvm_cpuid2", nent=U32, padding=U32)
CPUID_ENTRY2 = Layout(
    "kvm_cpuid_entry2",
    function=U32,
    index=U32,
    flags=U32,
    eax=U32,
    ebx=U32,
    ecx=U32,
    edx=U32,
    padding=U32[3],
)

# ---- the shared page of a vCPU -------------------------------------------------------------

RUN = Layout(
    "kvm_run",
    request_interrupt_window=U8,
    immediate_exit=U8,
    padding1=U8[6],
    exit_reason=U32,
    ready_for_interrupt_injection=U8,
    if_flag=U8,
    flags=U16,
    cr8=U64,
    apic_base=U64,
    exit=U8[256],
)
"""*exit* is the union of what follows."""

EXIT_IO = Layout("io", direction=U8, size=U8, port=U16, count=U32, data_offset=U64)
EXIT_MMIO = Layout("mmio", phys_addr=U64, data=U8[8], len=U32, is_write=U8)
EXIT_FAIL_ENTRY = Layout("fail_entry", hardware_entry_failure_reason=U64, cpu=U32)
EXIT_INTERNAL = Layout("internal", suberror=U32, ndata=U32, data=U64[16])
EXIT_HARDWARE = Layout("hw", hardware_exit_reason=U64)
EXIT_DEBUG = Layout("debug", exception=U32, pad=U32, pc=U64, dr6=U64, dr7=U64)
EXIT_SYSTEM_EVENT = Layout("system_event", type=U32, ndata=U32, data=U64[16])

COALESCED_MMIO_RING = Layout("kvm_coalesced_mmio_ring", first=U32, last=U32)
"""A page of its own behind it, of the whole VM; entries follow to the page's end."""
COALESCED_MMIO = Layout("kvm_coalesced_mmio", phys_addr=U64, len=U32, pio=U32, data=U8[8])

STRUCTURES: tuple[Layout, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Layout)
)
"""All of them, for the test against the kernel's headers."""
