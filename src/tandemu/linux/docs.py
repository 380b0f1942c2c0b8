"""Print the table of system calls for docs/user-mode.md: ``python -m tandemu.linux.docs``.

With a file as argument, the part of it between the two marks is replaced.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tandemu.linux.calls import MODULES
from tandemu.linux.riscv64 import Riscv64
from tandemu.linux.table import Row

BEGIN, END = "<!-- calls: begin -->", "<!-- calls: end -->"


def _status(row: Row) -> str:
    if row.refusal:
        return f"refused: {row.refusal}"
    state = f"partial: {row.missing} missing" if row.missing else "done"
    return f"{state}; native" if row.is_native else state


def table() -> str:
    """The table in Markdown: one section for each module, one line for each call."""
    numbers = Riscv64.numbers
    known: set[str] = set()
    parts: list[str] = []
    counts = {"done": 0, "partial": 0, "refused": 0}
    for module in MODULES:
        title = (module.__doc__ or "").split("\n", 1)[0].rstrip(".")
        lines = [f"### {title}", "", "| call | riscv64 | state |", "|---|---|---|"]
        for row in sorted(module.calls.rows, key=lambda row: row.name):
            if row.name not in numbers:
                continue
            known.add(row.name)
            status = _status(row)
            counts[re.split("[:;]", status, maxsplit=1)[0]] += 1
            lines.append(f"| `{row.name}` | {numbers[row.name]} | {status} |")
        parts.append("\n".join(lines))
    absent = sorted(set(numbers) - known)
    summary = (
        f"{counts['done']} done, {counts['partial']} partial, {counts['refused']} refused;"
        f" {len(absent)} unknown, which fail with ENOSYS"
    )
    rest = ""
    if absent:
        rest = "\n\n### Unknown\n\n" + ", ".join(f"`{name}`" for name in absent)
    return summary + ".\n\n" + "\n\n".join(parts) + rest + "\n"


def replace(text: str) -> str:
    """*text* with the table between its marks made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.write_text(replace(path.read_text()))
    else:
        print(table())
