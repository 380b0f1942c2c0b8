"""The hardware engine: Linux KVM for x86-64, behind the `accel` protocol."""

from tandemu.kvm.errors import KvmError
from tandemu.kvm.probe import Findings, probe
from tandemu.kvm.system import System
from tandemu.kvm.vcpu import KvmVcpu
from tandemu.kvm.vm import KvmVm

__all__ = ["Findings", "KvmError", "KvmVcpu", "KvmVm", "System", "probe"]
