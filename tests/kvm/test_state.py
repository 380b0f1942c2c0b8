"""The state of a processor by register name: every kind is set, read back, saved and restored."""

from __future__ import annotations

import pytest

from tandemu.accel import PortWrite, Stopped
from tandemu.kvm import KvmError, KvmVm
from tandemu.kvm.abi import Capability
from tests.kvm.guests import CODE, guest, needs_kvm, run

pytestmark = [pytest.mark.kvm, needs_kvm]

VALUES = {
    "rax": 0x0123_4567_89AB_CDEF,
    "r15": 0xFFFF_FFFF_FFFF_FFFF,
    "rsp": 0x7000,
    "rip": 0x1234,
    "pc": 0x4321,
    "rflags": 0x246,
    "cs": 0x10,
    "ds.base": 0x1_0000,
    "fs.base": 0x7FFF_0000_0000,
    "ss.limit": 0xFFFF,
    "gdt.base": 0x1000,
    "gdt.limit": 0x17,
    "idt.base": 0x2000,
    "cr2": 0xDEAD_B000,
    "cr3": 0x8000,
    "cr8": 5,
    "dr0": 0x1111,
    "dr3": 0x3333,
    "star": 0x0023_0010_0000_0000,
    "lstar": 0xFFFF_8000_0000_1000,
    "kernel_gs_base": 0xFFFF_8000_0000_2000,
    "pat": 0x0007_0406_0007_0406,
    "msr.0x174": 0x10,
    "fcw": 0x27F,
    "mxcsr": 0x1FA0,
    "st0": 0x3FFF_8000_0000_0000_0000,
    "xmm0": 1 << 127 | 5,
    "xmm15": 0x1234,
    "lapic.svr": 0x1FF,
    "lapic.tpr": 0x20,
    "event.nmi.masked": 1,
    "mp_state": 3,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_register_is_set_and_read_back(name: str) -> None:
    with guest() as machine:
        if name == "lapic.tpr":
            machine.vcpu.set("cr8", 2)  # the same register, by its other name
        else:
            machine.vcpu.set(name, VALUES[name])
        assert machine.vcpu.get(name) == VALUES[name]


def test_a_name_that_is_none_is_said() -> None:
    with guest() as machine:
        for name in ("rix", "lapic.nothing", "msr.x", "cs.nothing"):
            with pytest.raises(KvmError, match="no register"):
                machine.vcpu.get(name)
        with pytest.raises(KvmError, match="MSR 0xdeadbeef"):
            machine.vcpu.get("msr.0xdeadbeef")


def test_a_guest_goes_on_in_another_vm_where_it_was_saved() -> None:
    # mov eax, 1; out 0x10, eax; inc eax; out 0x11, eax
    code = "b801000000e710ffc0e711"
    with guest() as machine:
        vcpu = machine.long(code)
        vcpu.set("xmm3", 0x77)
        vcpu.set("lstar", 0x1234_5678)
        assert run(vcpu) == PortWrite(0x10, 4, 1)
        state = vcpu.save()
        memory = bytes(machine.ram.view)
    with guest() as machine:
        machine.put(0, memory)
        machine.vcpu.load(state)
        assert machine.vcpu.get("rip") == CODE + 7
        assert machine.vcpu.get("xmm3") == 0x77
        assert machine.vcpu.get("lstar") == 0x1234_5678
        assert run(machine.vcpu) == PortWrite(0x11, 4, 2)
        assert machine.vcpu.save().keys() == state.keys()


def test_all_state_goes_into_another_vm_by_name() -> None:
    code = "b801000000e710ffc0e711"
    with guest() as machine:
        vcpu = machine.long(code)
        vcpu.set_many({"xmm3": 0x77, "lstar": 0x1234_5678, "dr1": 0x4000, "lapic.tpr": 0x20})
        assert run(vcpu) == PortWrite(0x10, 4, 1)
        assert vcpu.settle() is None
        state = {name: vcpu.get(name) for name in vcpu.state_names}
        memory = bytes(machine.ram.view)
    with guest() as machine:
        machine.put(0, memory)
        machine.vcpu.set_many(state)
        changing = {"msr.0x10", "lapic.0x390"}
        other = {name: value for name, value in state.items() if machine.vcpu.get(name) != value}
        assert other.keys() <= changing, other
        assert machine.vcpu.get("xmm3") == 0x77
        assert run(machine.vcpu) == PortWrite(0x11, 4, 2)


def test_a_state_of_another_shape_is_refused() -> None:
    with guest() as machine:
        state = machine.vcpu.save()
        for broken in (
            {},
            {**state, "more": b""},
            {**state, "regs": b"short"},
            {**state, "xsave": b""},
        ):
            with pytest.raises(KvmError, match="saved"):
                machine.vcpu.load(broken)


def test_the_dump_shows_the_registers() -> None:
    with guest() as machine:
        machine.vcpu.set("rbx", 0xABCDEF)
        text = machine.vcpu.dump()
        assert "rbx 0000000000abcdef" in text
        assert "cr0" in text and "gdt" in text


def test_wide_vector_registers_where_the_host_has_them() -> None:
    with guest() as machine:
        if not machine.vm.system.capability(Capability.XCRS):
            pytest.skip("this host has no XSAVE")
        machine.vcpu.set("xcr0", 7)
        assert machine.vcpu.get("xcr0") == 7
        value = 0x1111 << 128 | 0x2222
        machine.vcpu.set("ymm2", value)
        assert machine.vcpu.get("ymm2") == value
        assert machine.vcpu.get("xmm2") == 0x2222


def test_steps_leave_the_registers_as_the_instructions_do() -> None:
    with guest() as machine:
        vcpu = machine.long("ffc0ffc0")
        vcpu.set("rax", 40)
        assert vcpu.step() == Stopped(CODE + 2)
        assert vcpu.step() == Stopped(CODE + 4)
        assert vcpu.get("rax") == 42


def test_an_engine_for_other_guests_is_refused() -> None:
    with pytest.raises(KvmError, match="jit"):
        KvmVm(32)
    with pytest.raises(KvmError, match="jit"):
        KvmVm(64, firmware_calls=True)
