"""Digests of the generated engines: whether a change alters the code that runs guests.

``python tools/engine_digest.py [ENGINE...]`` prints one line for each engine and each part of it.
Two revisions whose lines are equal generate the same code: a change that only moves or renames
must keep them. Nothing is read from the cache or written to it.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator

from tandemu.isa.catalogue import find_isa
from tandemu.jit.engine.generate import Program, generate
from tandemu.jit.engine.load import ENGINE_KIND
from tandemu.jit.engine.user_program import UserProgram
from tandemu.native import container

ENGINES: dict[str, Callable[[], Program]] = {
    "riscv64": lambda: Program(find_isa("riscv64")),
    "riscv32": lambda: Program(find_isa("riscv32")),
    "riscv64-program": lambda: UserProgram(find_isa("riscv64")),
}


def digests(name: str) -> Iterator[str]:
    """A line for each part of the engine called *name*."""
    _, parts = container.unpack(ENGINE_KIND, generate(ENGINES[name]()))
    for part, data in sorted(parts.items()):
        yield f"{name} {part} {len(data)} {hashlib.sha256(data).hexdigest()[:16]}"


def main() -> None:
    parser = argparse.ArgumentParser(description="digests of the generated engines")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=", ".join(ENGINES))
    for name in parser.parse_args().engines or ENGINES:
        if name not in ENGINES:
            parser.error(f"no engine is called {name!r}; there are {', '.join(ENGINES)}")
        for line in digests(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
