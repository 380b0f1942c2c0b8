"""The command: measure, print, and keep the results."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import (
    applications,
    boot,
    compute,
    disk,
    host,
    hot,
    io,
    kvm,
    programs,
    report,
    smp,
    start,
    translate,
)
from benchmarks.case import LEFT_OUT, Case, Measured, Missing
from benchmarks.measure import measure

GROUPS: dict[str, Callable[[Path], Iterator[Case | Measured] | Iterator[Case]]] = {
    "start": start.cases,
    "boot": boot.cases,
    "compute": compute.cases,
    "hot": hot.cases,
    "exec": programs.cases,
    "calls": programs.call_cases,
    "programs": applications.cases,
    "memory": applications.memory_cases,
    "translate": translate.cases,
    "smp": smp.cases,
    "disk": disk.cases,
    "io": io.cases,
    "kvm": kvm.cases,
}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def chosen_cases(groups: list[str], folder: Path, missing: list[str]) -> Iterator[Case | Measured]:
    """Yield the cases of *groups*; what cannot be built is said, and noted in *missing*."""
    for group in groups:
        try:
            yield from GROUPS[group](folder)
        except Missing as error:
            say(f"{group}: left out: {error}")
            missing.append(group)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Tandemu against QEMU, interleaved."
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(GROUPS),
        help="one group instead of all; may be repeated",
    )
    parser.add_argument(
        "--case", default="", metavar="TEXT", help="only cases whose name holds TEXT"
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="counted runs (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times here")
    parser.add_argument(
        "--document", action="store_true", help=f"rewrite the section in {report.DOCUMENT.name}"
    )
    return parser


def main() -> int:
    options = arguments().parse_args()
    if options.repeat < 1:
        arguments().error(f"--repeat must be at least 1, not {options.repeat}")
    if left_out := [name for name in LEFT_OUT if name in os.environ]:
        say(f"runs do not get {', '.join(left_out)}, which this environment sets")
    missing: list[str] = []
    described = host.describe()
    with tempfile.TemporaryDirectory(prefix="tandemu-benchmarks-") as folder:
        cases = chosen_cases(options.only or list(GROUPS), Path(folder), missing)
        wanted = (case for case in cases if options.case in case.path)
        results = measure(wanted, repeat=options.repeat, say=say)
    text = report.full_text(described, results)
    print(text)
    if options.json:
        options.json.write_text(report.to_json(described, results), encoding="utf-8")
    if options.document:
        report.write_document(text)
    failed = any(outcome.failure for one in results.values() for outcome in one.values())
    return 1 if failed or missing or not results else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        sys.exit(130)
