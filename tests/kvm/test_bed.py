"""The KVM tests once more, on a real KVM inside the test bed: one result here for each there.

Where the host's own KVM is hardware they run directly, and this is skipped. The bed boots
once for all of them.
"""

from __future__ import annotations

import shutil

import pytest

from tandemu.guests import GuestError
from tandemu.kvm.probe import find_problem
from tandemu.kvm.system import has_hardware
from tests.kvm import bed

MODULES = (
    "tests/accel/test_engines.py",
    *(f"tests/kvm/test_{name}.py" for name in ("guests", "state", "bad_hosts", "machine", "boot")),
)
BED_S = 1200.0
HARDWARE = has_hardware() and not find_problem()
pytestmark = [
    pytest.mark.guest,
    pytest.mark.kvm,
    pytest.mark.timeout(BED_S + 300),
    pytest.mark.skipif(HARDWARE, reason="the host's own KVM is hardware: the tests run directly"),
    pytest.mark.skipif(
        not all(shutil.which(tool) for tool in ("qemu-system-x86_64", "dpkg-deb")),
        reason="no qemu-system-x86_64 or no dpkg-deb",
    ),
]


def names() -> list[str]:
    """The test functions of the modules, as their sources have them."""
    found = []
    for module in MODULES:
        text = (bed.ROOT / module).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.startswith("def test_")]
        found += [f"{module}::{line.removeprefix('def ').split('(')[0]}" for line in lines]
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> bed.Outcome:
    try:
        kernel, initrd = bed.build(tmp_path_factory.mktemp("bed"), " ".join([bed.PYTEST, *MODULES]))
    except (GuestError, OSError) as error:
        pytest.skip(f"the bed cannot be built: {error}")
    return bed.boot(kernel, initrd, BED_S)


@pytest.mark.parametrize("name", names())
def test_on_a_real_kvm(name: str, outcome: bed.Outcome) -> None:
    result = outcome.tests.get(name, "not run")
    if result == "skipped":
        pytest.skip("skipped in the bed")
    assert result == "passed", f"{name} in the bed: {result}\n{outcome.console[-8000:]}"
