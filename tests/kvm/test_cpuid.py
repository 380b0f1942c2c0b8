"""CPU models and topology, and what is said where there is no KVM: without a guest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandemu.kvm import KvmError, System, cpuid, probe
from tandemu.kvm.system import CpuidEntry, has_hardware
from tandemu.machine import OptionError
from tandemu.machine.engines import choose_engine, kvm_problem

EVERYTHING = (
    CpuidEntry(0, 0, 0, 0x1F, 0, 0, 0),
    CpuidEntry(1, 0, 0, 0x000A_0671, 0x0001_0800, 0x7FFF_FFFF, 0xBFEB_FBFF),
    CpuidEntry(4, 0, 1, 0x0000_0121, 0, 0, 0),
    CpuidEntry(4, 3, 1, 0x0000_0163, 0, 0, 0),
    CpuidEntry(7, 0, 1, 2, 0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF),
    CpuidEntry(0xB, 0, 1, 0, 0, 0, 0),
    CpuidEntry(0xD, 0, 1, 0x2E7, 0xA80, 0xA80, 0),
    CpuidEntry(0xD, 2, 1, 256, 576, 0, 0),
    CpuidEntry(0xD, 5, 1, 64, 1088, 0, 0),
    CpuidEntry(0x8000_0001, 0, 0, 0, 0, 0xFFFF_FFFF, 0xFFFF_FFFF),
    CpuidEntry(0x8000_0008, 0, 0, 0x3027, 0xFFFF_FFFF, 0, 0),
)


def test_the_host_model_shows_everything() -> None:
    assert cpuid.apply_model(EVERYTHING, "host") == EVERYTHING


@pytest.mark.parametrize("model", list(cpuid.LEVELS))
def test_a_level_shows_its_own_features_and_no_other_level_s(model: str) -> None:
    shown = cpuid.apply_model(EVERYTHING, model)
    for name in cpuid.LEVELS[model]:
        assert cpuid.has(shown, name), name
    for other, level in cpuid.LEVELS.items():
        if other > model:
            for name in level - cpuid.LEVELS[model]:
                assert not cpuid.has(shown, name), name
    assert cpuid.has(shown, "nx"), "what the kernel needs stays"


def test_xsave_components_go_with_the_level() -> None:
    def components(model: str) -> list[int]:
        shown = cpuid.apply_model(EVERYTHING, model)
        return [entry.index for entry in shown if entry.function == 0xD]

    assert components("x86-64-v2") == []
    assert components("x86-64-v3") == [0, 2]
    assert components("x86-64-v4") == [0, 2, 5]


def test_a_model_the_host_lacks_names_what_is_missing_and_what_to_choose() -> None:
    poor = tuple(entry for entry in EVERYTHING if entry.function != 7)
    with pytest.raises(KvmError, match=r"avx2, bmi1, bmi2.*choose host or x86-64-v2"):
        cpuid.apply_model(poor, "x86-64-v3")
    with pytest.raises(KvmError, match="must be one of host"):
        cpuid.apply_model(EVERYTHING, "pentium")


def test_each_processor_sees_its_own_number_and_all_of_them() -> None:
    for index in range(4):
        shown = cpuid.for_vcpu(EVERYTHING, index, 4, tsc_deadline=True)
        (basic,) = [one for one in shown if one.function == 1]
        assert basic.ebx >> 24 == index
        assert basic.ebx >> 16 & 0xFF == 4
        assert basic.ecx >> 31, "a hypervisor"
        topology = [one for one in shown if one.function == 0xB]
        assert all(one.edx == index for one in topology)
        assert [one.ebx for one in topology] == [1, 4, 0]
        assert [one.eax for one in topology] == [0, 2, 0]


# ---- no KVM --------------------------------------------------------------------------------


def test_no_node_is_told_with_the_mend(tmp_path: Path) -> None:
    found = probe(tmp_path / "kvm")
    assert not found.works
    assert "modprobe" in found.problem and "--accel jit" in found.problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_no_permission_is_told_with_the_mend(tmp_path: Path) -> None:
    node = tmp_path / "kvm"
    node.touch(0)
    assert "group" in probe(node).problem


def test_a_node_that_is_no_kvm_is_told() -> None:
    with pytest.raises(KvmError, match="no KVM at all"):
        System(Path("/dev/null"))


def test_another_host_architecture_is_told() -> None:
    assert "x86-64 hosts only" in probe(machine="aarch64").problem


def test_hardware_is_told_by_the_processor_s_flags(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags : fpu svm lm\n")
    assert has_hardware(file)
    file.write_text("processor : 0\nflags : fpu lm\n")
    assert not has_hardware(file)
    assert not has_hardware(tmp_path / "none")


# ---- choosing ------------------------------------------------------------------------------


def test_auto_takes_the_engine_that_has_the_guest() -> None:
    assert choose_engine("auto", "riscv64") == "jit"
    if not kvm_problem():
        assert choose_engine("auto", "x86_64") == "kvm"


def test_an_engine_without_the_guest_is_refused_with_the_one_that_has_it() -> None:
    with pytest.raises(OptionError, match="--accel jit"):
        choose_engine("kvm", "riscv64")
    with pytest.raises(OptionError, match="--accel kvm"):
        choose_engine("jit", "x86_64")


def test_auto_without_kvm_says_which_of_both_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandemu.machine.engines.kvm_problem", lambda: "it is not there; load it")
    with pytest.raises(OptionError, match=r"kvm: it is not there.*jit has no x86_64 guests"):
        choose_engine("auto", "x86_64")
