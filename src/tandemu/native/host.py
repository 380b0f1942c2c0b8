"""What of the host decides which machine code is generated.

Both descriptions go into the keys of the code cache and are therefore found
without importing llvmlite (50 ms and more) or `importlib.metadata` (75 ms).
"""

from __future__ import annotations

import os
from importlib.util import find_spec

_CPUINFO = "/proc/cpuinfo"
# One processor's paragraph fits; reading all of them is slow on large hosts.
_CPUINFO_BYTES = 16384
_CPUINFO_KEYS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")


def host_description() -> str:
    """Return architecture, processor model and feature list of the host as one line of text.

    Two hosts with equal descriptions run each other's code. Without a readable
    `/proc/cpuinfo` the node's name stands in, so that nothing is shared by mistake.
    """
    system = os.uname()
    try:
        with open(_CPUINFO, "rb", buffering=0) as file:
            text = file.read(_CPUINFO_BYTES).decode("utf-8", "replace")
    except OSError:
        text = ""
    found: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    parts = [f"{key}={found[key]}" for key in _CPUINFO_KEYS if key in found]
    if "flags" not in found:
        parts.append(f"node={system.nodename}")
    return "; ".join([system.sysname, system.machine, *parts])


def llvm_description() -> str:
    """Return which llvmlite would compile, by its metadata folder's name and library's size.

    "absent" if there is none.
    """
    spec = find_spec("llvmlite")
    if spec is None or not spec.submodule_search_locations:
        return "absent"
    package = spec.submodule_search_locations[0]
    try:
        siblings = os.listdir(os.path.dirname(package))
        library = [
            f"{entry.name}:{entry.stat().st_size}"
            for entry in os.scandir(os.path.join(package, "binding"))
            if entry.name.startswith("libllvmlite.")
        ]
    except OSError:
        siblings, library = [], []
    metadata = [name for name in siblings if name.startswith("llvmlite-")]
    return " ".join(["llvmlite", *sorted(metadata), *sorted(library)])
