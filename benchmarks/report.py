"""Results as a table, as JSON, and as the section of docs/performance.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.case import NATIVE, QEMU, ROOT, TANDEMU, Outcome, Results

DOCUMENT = ROOT / "docs" / "performance.md"
_BEGIN = "<!-- results: python -m benchmarks --document -->"
_END = "<!-- /results -->"
_FORMAT = 1


class ResultsError(RuntimeError):
    """A file is not what ``python -m benchmarks --json`` writes; the message says why."""


def geometric_mean(values: list[float]) -> float:
    """The geometric mean of positive *values*, or NaN of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def _seconds(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.failure:
        return "failed"
    return f"{outcome.minimum:.3f} / {outcome.median:.3f}"


def _ratio(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _row(path: str, outcomes: Mapping[str, Outcome]) -> list[str]:
    own, rival, native = (outcomes.get(name, Outcome()) for name in (TANDEMU, QEMU, NATIVE))
    return [
        path,
        *(_seconds(outcomes.get(name)) for name in (TANDEMU, QEMU, NATIVE)),
        _ratio(own.minimum / rival.minimum),
        _ratio(own.median / rival.median),
        _ratio(own.minimum / native.minimum),
    ]


def _means(results: Results) -> list[list[str]]:
    """One row for each family of kernels: its geometric mean."""
    rows = []
    families = ("compute/int-", "compute/float-", "exec/int-", "exec/float-", "programs/")
    for family in (*families, "hot/user-", "hot/system-"):
        chosen = [outcomes for path, outcomes in results.items() if path.startswith(family)]
        ratios = [
            (one[TANDEMU].minimum / one[QEMU].minimum, one[TANDEMU].median / one[QEMU].median)
            for one in chosen
            if TANDEMU in one and QEMU in one and one[TANDEMU].seconds and one[QEMU].seconds
        ]
        if ratios and len(ratios) == len(chosen):
            least, middle = (geometric_mean(list(column)) for column in zip(*ratios, strict=True))
            native = [one[TANDEMU].minimum / one.get(NATIVE, Outcome()).minimum for one in chosen]
            row = [f"{family}*: geometric mean", "", "", "", _ratio(least), _ratio(middle)]
            row.append(_ratio(geometric_mean(native)))
            rows.append(row)
    return rows


def table(results: Results) -> str:
    """A Markdown table, aligned for the terminal."""
    head = [
        *("case", "Tandemu s", "QEMU s", "native s"),
        *("Tandemu / QEMU", "of medians", "Tandemu / native"),
    ]
    rows = [_row(path, outcomes) for path, outcomes in results.items()] + _means(results)
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        aligned = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(aligned)} |"

    rule = [f"{'-' * (width - 1)}{':' if column else '-'}" for column, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def metrics(results: Results) -> str:
    """Times of further contenders, what guests and samplers measured: one line each."""
    lines = [
        f"- {path}, {contender}: {outcome.minimum:.3f} s"
        for path, outcomes in results.items()
        for contender, outcome in outcomes.items()
        if contender not in (TANDEMU, QEMU, NATIVE) and outcome.seconds
    ]
    lines += [
        f"- {path}, {contender}: {name} {sorted(values)[len(values) // 2]:.3f}"
        for path, outcomes in results.items()
        for contender, outcome in outcomes.items()
        for name, values in outcome.metrics.items()
    ]
    return "\n".join(lines)


def full_text(host: Mapping[str, str], results: Results) -> str:
    """All of it: the host, the table, the metrics, the failures."""
    failures = [
        f"- {path}, {contender}: {outcome.failure}"
        for path, outcomes in results.items()
        for contender, outcome in outcomes.items()
        if outcome.failure
    ]
    blocks = [
        "\n".join(f"- {name}: {value}" for name, value in host.items()),
        "Seconds are minimum / median of whole processes.",
        table(results),
        metrics(results),
        "Failed:\n\n" + "\n".join(failures) if failures else "",
    ]
    return "\n\n".join(filter(None, blocks))


def to_json(host: Mapping[str, str], results: Results) -> str:
    """What `from_json` reads."""
    cases = {
        path: {contender: asdict(outcome) for contender, outcome in outcomes.items()}
        for path, outcomes in results.items()
    }
    return json.dumps({"format": _FORMAT, "host": dict(host), "cases": cases}, indent=1) + "\n"


def from_json(text: str) -> Results:
    """Read results; `ResultsError` where the text is something else."""
    try:
        content: Any = json.loads(text)
        if content["format"] != _FORMAT:
            raise ResultsError(f"format {content['format']!r} is not {_FORMAT}: measure again")
        return {
            path: {contender: Outcome(**outcome) for contender, outcome in outcomes.items()}
            for path, outcomes in content["cases"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"these are not results of `python -m benchmarks`: {error}") from error


def write_document(text: str, document: Path = DOCUMENT) -> None:
    """Put *text* between the markers of *document*."""
    before, found, rest = document.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not found or not end:
        raise ResultsError(f"{document} has lost its markers {_BEGIN} and {_END}; put them back")
    document.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")
