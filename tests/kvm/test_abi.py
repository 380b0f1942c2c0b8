"""Numbers and structures against the kernel headers of this machine, by asking its compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandemu.bits import Layout
from tandemu.kvm import abi, structures

HEADER = Path("/usr/include/linux/kvm.h")
UNION_MEMBERS = {"io", "mmio", "fail_entry", "internal", "hw", "system_event"}
"""Structures without a name of their own: members of ``struct kvm_run``'s union."""
ODD_NAMES = {
    "kvm_irqchip": {"chip": "chip.dummy"},
    "kvm_run": {"padding1": "padding1", "exit": "io"},
    "kvm_irq_routing_entry": {"u": "u.irqchip"},
    "kvm_guest_debug": {"arch": "arch.debugreg"},
    "kvm_vcpu_events": {"triple_fault": "triple_fault.pending"},
    "internal": {"data": "data"},
    "system_event": {"ndata": "ndata", "data": "data"},
}
NESTED = {"kvm_vcpu_events_exception", "kvm_vcpu_events_interrupt"}


def named_structures() -> Iterator[Layout]:
    return (one for one in structures.STRUCTURES if one.name.startswith("kvm_"))


def lines() -> Iterator[tuple[str, str, int]]:
    """What is compared: its name, the C expression, our number."""
    for call in abi.IOCTLS:
        yield call.name, f"KVM_{call.name}", call.code
    for capability in abi.Capability:
        yield capability.name, f"KVM_CAP_{capability.name}", capability
    for reason in abi.ExitReason:
        yield reason.name, f"KVM_EXIT_{reason.name}", reason
    for layout in named_structures():
        if layout.name != "kvm_run":  # its union may grow
            yield layout.name, f"sizeof(struct {layout.name})", layout.size
        names = ODD_NAMES.get(layout.name, {})
        for field in layout.fields:
            target = names.get(field, field)
            expression = f"offsetof(struct {layout.name}, {target})"
            yield f"{layout.name}.{field}", expression, layout.offset(field)
    for layout in structures.STRUCTURES:
        if layout.name in (*UNION_MEMBERS, "debug"):
            names = {"debug": "debug.arch"}
            path = names.get(layout.name, layout.name)
            for field in layout.fields:
                expression = (
                    f"offsetof(struct kvm_run, {path}.{field}) - offsetof(struct kvm_run, io)"
                )
                yield f"{layout.name}.{field}", expression, layout.offset(field)
    for name in (
        "API_VERSION",
        "MEM_LOG_DIRTY_PAGES",
        "MEM_READONLY",
        "GUESTDBG_ENABLE",
        "GUESTDBG_SINGLESTEP",
        "GUESTDBG_USE_SW_BP",
        "MP_STATE_RUNNABLE",
        "MP_STATE_UNINITIALIZED",
        "MP_STATE_HALTED",
        "PIT_SPEAKER_DUMMY",
    ):
        yield name, f"KVM_{name}", getattr(abi, name)
    yield "CPUID_SIGNIFICANT_INDEX", "KVM_CPUID_FLAG_SIGNIFCANT_INDEX", abi.CPUID_SIGNIFICANT_INDEX
    yield "IRQFD_DEASSIGN", "KVM_IRQFD_FLAG_DEASSIGN", abi.IRQFD_DEASSIGN
    for flag in ("DATAMATCH", "PIO", "DEASSIGN"):
        ours = getattr(abi, f"IOEVENTFD_{flag}")
        yield f"IOEVENTFD_{flag}", f"KVM_IOEVENTFD_FLAG_{flag}", ours
    yield "IO_IN", "KVM_EXIT_IO_IN", abi.IO_IN
    yield "IO_OUT", "KVM_EXIT_IO_OUT", abi.IO_OUT


@pytest.mark.skipif(
    shutil.which("cc") is None or not HEADER.exists(), reason="no C compiler or no kernel headers"
)
def test_everything_is_as_the_kernel_headers_have_it(tmp_path: Path) -> None:
    rows = list(lines())
    # What older headers do not know yet is not compared.
    body = "\n".join(
        (f"#ifdef {expression}\n" if expression.startswith("KVM_CAP") else "")
        + f'    printf("%lu\\n", (unsigned long)({expression}));'
        + ('\n#else\n    puts("?");\n#endif' if expression.startswith("KVM_CAP") else "")
        for _, expression, _ in rows
    )
    source = tmp_path / "abi.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\n"
        f"int main(void) {{\n{body}\n    return 0;\n}}\n"
    )
    program = tmp_path / "abi"
    subprocess.run(["cc", "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    wrong = [
        f"{name}: the header says {theirs}, we say {ours}"
        for (name, _, ours), theirs in zip(rows, output, strict=True)
        if theirs not in ("?", str(int(ours)))
    ]
    assert not wrong, "\n".join(wrong)


def test_numbers_are_unique_for_each_kind_of_file() -> None:
    seen = {(call.on, call.code) for call in abi.IOCTLS}
    assert len(seen) == len(abi.IOCTLS)
