"""What a run took, as text: the time, and an engine's counters by what ran the guest's code."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence

Counters = Mapping[str, int | float]

_FIRST = "instructions"
_EXITS = "exits_"
_LATENCY = "_latency_below_"
"""What stands between a device's name and the limit of a class of its requests."""
_TABLE = (
    *("slices", "region_slices", "translated_us", "optimised_us", "hot_bytes", "cold_bytes"),
    *("site_bytes", "blocks", "regions", "region_instructions", "region_bytes"),
)
"""The counters that become the table of `_tiers`."""


def format_statistics(counters: Counters, begun_s: float) -> str:
    """The figures of this process, which began its work at *begun_s* (`time.monotonic`).

    *counters* are an engine's, by name. Those that tell translated from optimised code become
    a table, those of exits one line, and so those of a device's latencies; the others have a line
    each.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    rows: list[tuple[str, str]] = [
        ("wall time", f"{time.monotonic() - begun_s:.2f} s"),
        ("processor time", f"{usage.ru_utime + usage.ru_stime:.2f} s"),
        ("largest resident memory", f"{usage.ru_maxrss / 1024:.0f} MiB"),
    ]
    has_tiers = all(name in counters for name in _TABLE)
    exits = [
        f"{_shown(value)} {name.removeprefix(_EXITS)}"
        for name, value in counters.items()
        if name.startswith(_EXITS) and value
    ]
    if _FIRST in counters:
        rows.append((_FIRST, _shown(counters[_FIRST])))
    if exits:
        rows.append(("exits", ", ".join(exits)))
    latencies: dict[str, list[str]] = {}
    for name, value in counters.items():
        device, is_latency, limit = name.partition(_LATENCY)
        if is_latency:
            below = f"below {limit.removesuffix('_us')} µs"
            latencies.setdefault(device, []).append(f"{_shown(value)} {below}")
            continue
        is_elsewhere = name == _FIRST or name.startswith(_EXITS) or (has_tiers and name in _TABLE)
        if not is_elsewhere:
            rows.append((name.replace("_", " "), _shown(value)))
    rows += [(f"{device} latency", ", ".join(texts)) for device, texts in latencies.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows]
    return "\n".join([*lines, "", *_tiers(counters)] if has_tiers else lines)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _tiers(counters: Counters) -> list[str]:
    """The table: what each way to run the guest's code did, and has."""
    slices, optimised = counters["slices"], counters["region_slices"]
    regions, stubs = counters["regions"], counters["cold_bytes"] + counters["site_bytes"]

    def row(name: str, slices_there: float, code: str, what: str) -> tuple[str, ...]:
        share = f"{100 * slices_there / slices:.1f} %" if slices else "-"
        return name, share, f"{counters[f'{name}_us'] / 1e6:.2f} s", _shown(counters[code]), what

    return _columns(
        [
            ("code", "instructions", "time", "bytes", ""),
            row(
                "translated",
                slices - optimised,
                "hot_bytes",
                f"{counters['blocks']:,} blocks, and {stubs:,} bytes for their rare cases",
            ),
            row(
                "optimised",
                optimised,
                "region_bytes",
                f"{counters['region_instructions']:,} instructions, regions: {regions:,}",
            ),
        ]
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """*rows* in columns, the numbers between the first and the last at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers, last in rows:
        cells = [f"{one:>{width}}" for one, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *cells, last]).rstrip())
    return lines
