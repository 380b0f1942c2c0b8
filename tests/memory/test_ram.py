"""Guest RAM: zeroed, shared, of huge pages where the host allows them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tandemu.memory import Ram
from tandemu.memory.ram import HUGE_PAGE_BYTES

SETTING = Path("/sys/kernel/mm/transparent_hugepage")


def test_ram_begins_as_zeros_and_keeps_what_is_written() -> None:
    ram = Ram(8192)
    assert bytes(ram.view) == bytes(8192)
    ram.view[5000] = 7
    assert ram.view[5000] == 7
    ram.close()
    ram.close()


@pytest.mark.parametrize("size", [0, -4096, 100])
def test_a_size_that_is_no_pages_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="must be a positive multiple"):
        Ram(size)


@pytest.mark.skipif(not SETTING.exists(), reason="this kernel has no huge pages")
def test_large_ram_asks_for_huge_pages() -> None:
    for size, asks in ((4096, False), (4 * HUGE_PAGE_BYTES, True)):
        ram = Ram(size)
        begin = f"{ram.address:x}-"
        maps = Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace")
        (mapping,) = [part for part in maps.split("VmFlags:") if f"\n{begin}" in part]
        flags = maps.partition(mapping)[2].partition("VmFlags:")[2].partition("\n")[0].split()
        assert ("hg" in flags) is asks
        ram.close()


def test_ram_that_nobody_closes_leaves_no_descriptor() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        Ram(4096)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors
