"""What `--stats` prints."""

from __future__ import annotations

import time

from tandemu.accel.statistics import format_statistics

COUNTERS = {
    "slices": 8, "region_slices": 6, "translated_us": 1_500_000, "optimised_us": 20_000,
    "hot_bytes": 1000, "cold_bytes": 20, "site_bytes": 4, "blocks": 7, "regions": 1,
    "region_instructions": 12, "region_bytes": 345, "tlb_misses": 1234, "instructions": 524_288,
    "exits_read": 0, "exits_write": 2048, "exits_hot": 1,
}  # fmt: skip


def test_an_engine_that_translates() -> None:
    text = format_statistics(COUNTERS, time.monotonic() - 2)
    first, *figures = text.splitlines()
    assert first.startswith("wall time                2.")
    assert figures[2:] == [
        "instructions             524,288",
        "exits                    2,048 write, 1 hot",
        "tlb misses               1,234",
        "",
        "code        instructions    time  bytes",
        "translated        25.0 %  1.50 s  1,000  7 blocks, and 24 bytes for their rare cases",
        "optimised         75.0 %  0.02 s    345  12 instructions, regions: 1",
    ]


def test_latencies_of_a_device_have_a_line() -> None:
    counters = {
        "disk0_requests": 1003,
        "disk0_latency_below_64_us": 1000,
        "disk0_latency_below_4096_us": 3,
        "rng_latency_below_8_us": 1,
    }
    lines = format_statistics(counters, time.monotonic()).splitlines()
    assert lines[3:] == [
        "disk0 requests           1,003",
        "disk0 latency            1,000 below 64 µs, 3 below 4096 µs",
        "rng latency              1 below 8 µs",
    ]


def test_one_that_has_run_nothing() -> None:
    text = format_statistics(dict.fromkeys(COUNTERS, 0), time.monotonic())
    assert "exits" not in text and "-  0.00 s" in text


def test_an_engine_with_other_counters() -> None:
    lines = format_statistics({"exits": 17, "seconds": 0.25}, time.monotonic()).splitlines()
    assert lines[3:] == ["exits                    17", "seconds                  0.250"]
