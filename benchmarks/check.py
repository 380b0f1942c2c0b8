"""Compares results with the targets: ``python -m benchmarks.check results.json``.

Exit status 0 when every target that has results is met, 1 when one is not, 2 when a file
cannot be read. Targets whose cases were not measured are shown as unknown.
"""

from __future__ import annotations

import fnmatch
import math
import statistics
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.case import ROOT, TANDEMU, Outcome, Results
from benchmarks.report import ResultsError, from_json, geometric_mean

TARGETS = ROOT / "benchmarks" / "targets.toml"


@dataclass(frozen=True, slots=True)
class Target:
    """One row of targets.toml, which explains the fields."""

    name: str
    case: str
    of: str = TANDEMU
    metric: str = ""
    minus: str = ""
    over: str = ""
    over_case: str = ""
    at_most: float = math.inf
    at_least: float = -math.inf
    worst: bool = False
    later: bool = False

    def value(self, results: Results) -> float:
        """What *results* say, or NaN where they say nothing."""

        def seconds(path: str, contender: str) -> float:
            outcome = results.get(path, {}).get(contender, Outcome())
            return math.nan if outcome.failure else outcome.minimum

        def metric(path: str, contender: str) -> float:
            measured = results.get(path, {}).get(contender, Outcome()).metrics.get(self.metric)
            return statistics.median(measured) if measured else math.nan

        values = []
        for path in fnmatch.filter(results, self.case):
            measured = metric if self.metric else seconds
            value = measured(path, self.of)
            if self.minus:
                value -= seconds(self.minus, self.of)
            if self.over:
                value /= measured(self.over_case or path, self.over)
            values.append(value)
        if len(values) == 1 or (self.worst and values):
            return max(values)
        return geometric_mean(values) if all(value > 0 for value in values) else math.nan

    def verdict(self, results: Results) -> str:
        """One word; a case that was measured and failed is a target missed."""
        if self.at_least <= self.value(results) <= self.at_most:
            return "met"
        if not fnmatch.filter(results, self.case):
            return "unknown"
        return "later" if self.later else "MISSED"


def read_targets(path: Path = TARGETS) -> list[Target]:
    """The rows of targets.toml."""
    with path.open("rb") as file:
        return [Target(**row) for row in tomllib.load(file)["target"]]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m benchmarks.check RESULTS.json", file=sys.stderr)
        return 2
    try:
        results = from_json(Path(arguments[0]).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ResultsError) as error:
        print(f"cannot read {arguments[0]}: {error}", file=sys.stderr)
        return 2
    missed = 0
    for target in read_targets():
        verdict = target.verdict(results)
        missed += verdict == "MISSED"
        at_most = math.isfinite(target.at_most)
        bound = f"at most {target.at_most:g}" if at_most else f"at least {target.at_least:g}"
        print(f"{verdict:<8} {target.value(results):>8.3f}  {bound:<14} {target.name}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
