"""The commands in the documents run: each of README.md and docs/ that begins with ``tandemu``.

All of them are read as the command line reads them, so that there is every option that is written.
Those of the documents in `FOLLOWED` are carried out one after another in a folder that has the
files they speak of; a guest is told to power off. What is not carried out stands in `LEFT_OUT`
with the reason.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tandemu.cli.exec_options import parse
from tandemu.cli.parser import make_parser
from tandemu.guests import fetch_packages, pull_image
from tandemu.guests.deb import DebFile
from tandemu.native.cache import default_directory
from tests.cli.test_streams import PRINT_AND_POWER_OFF
from tests.linux.conftest import build  # noqa: F401
from tests.long import STRESS
from tests.test_documents import DOCUMENTS, ROOT

FOLLOWED = (
    *("README.md", "index.md", "running.md", "user-mode.md", "disks.md", "devices.md"),
    *("shared-folders.md", "networking.md", "kvm.md"),
)
PATIENCE_S = 1200 if STRESS else 240
LEFT_OUT = {
    "tandemu run debian-amd64": "needs a KVM that runs a stock kernel: tests/kvm",
    "tandemu run --arch x86_64": "needs a KVM that runs a stock kernel: tests/kvm",
    "tandemu guests pull": "fetches: tests/guests",
    "tandemu guests unpack": "needs what was fetched: tests/guests/test_roots.py",
    "tandemu run --memory 1G --root ~/debian": "needs what was unpacked, and minutes",
    "tandemu run --root debian.img": "needs a disk with a system: tests/machine/test_drives.py",
    "tandemu run --vsock": "goes on in the background: tests/machine/test_guest_devices.py",
    "tandemu run --net tap": "needs an interface: tests/machine/test_networks.py",
    "tandemu run --net socket": "needs another machine: tests/machine/test_networks.py",
    "tandemu run --gdb": "waits for a debugger: tests/machine/test_gdb.py",
    "tandemu run --kernel Image --gdb": "waits for a debugger: tests/machine/test_gdb.py",
    "tandemu exec -L sysroot": "needs a Debian of its own: tests/linux/test_sysroot.py",
    "tandemu exec --binfmt >": "changes the host's kernel: tests/linux/test_command.py",
    "tandemu completion": "writes into the user's home: tests/cli",
}
STATUS = {
    # Without an initial RAM disk the kernel has no root to mount, or a root without /init.
    "tandemu run --root ~/rootfs": 125,
    "tandemu run --firmware fw_dynamic.bin --kernel Image": 125,
}
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


class Line(NamedTuple):
    """A command of a document, without its comment."""

    document: str
    text: str

    @property
    def command(self) -> str:
        """The part of it that is ours, of a pipeline."""
        return self.text[self.text.index("tandemu ") :]

    @property
    def is_left_out(self) -> bool:
        return any(self.command.startswith(begin) for begin in LEFT_OUT)


def lines() -> list[Line]:
    found = []
    for document in DOCUMENTS:
        for block in _BLOCK.finditer(document.read_text(encoding="utf-8")):
            for text in block[1].splitlines():
                if re.match(r"(tandemu |.*\| tandemu )", text):
                    bare = re.sub(r"\s+#(?![^']*'\s*$).*$", "", text).strip()
                    found.append(Line(document.name, bare))
    return found


def test_there_are_commands() -> None:
    assert len(lines()) > 30
    known = [line.command for line in lines()]
    for begin in (*LEFT_OUT, *STATUS):
        assert any(command.startswith(begin) for command in known), f"{begin} stands nowhere"


@pytest.mark.parametrize("line", lines(), ids=lambda line: f"{line.document}: {line.command}"[:60])
def test_a_command_is_one_that_there_is(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in shlex.split(line.command)[1:] if word != "&"]
    for sign in (">", "|"):
        words = words[: words.index(sign)] if sign in words else words
    if words[0] == "exec":
        assert not isinstance(parse(words[1:]), str)
        return
    try:
        make_parser().parse_args(words)
    except SystemExit as end:
        assert end.code in (0, None), capsys.readouterr().err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documents speak of."""
    folder = tmp_path_factory.mktemp("documents")
    image = pull_image("debian-riscv64")
    shutil.copy(image.kernel, folder / "Image")
    shutil.copy(image.initrd, folder / "initrd.gz")
    packages = fetch_packages(["opensbi", "u-boot-qemu"], "riscv64")
    for package, name in (
        ("opensbi", "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"),
        ("u-boot-qemu", "usr/lib/u-boot/qemu-riscv64/u-boot.bin"),
    ):
        (folder / Path(name).name).write_bytes(DebFile(packages[package]).read(name))
    (folder / "program.elf").write_bytes(bytes.fromhex(PRINT_AND_POWER_OFF))
    for name in ("disk.raw", "disk.img", "data.img"):
        (folder / name).write_bytes(bytes(1 << 20))
    for name in ("project", "out", "rootfs"):
        (folder / name).mkdir()
    commands = folder / "bin"
    commands.mkdir()
    script = commands / "tandemu"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tandemu "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
@pytest.mark.parametrize("document", FOLLOWED)
def test_the_commands_of_a_document_run(
    place: Path,
    build,  # noqa: F811
    document: str,
) -> None:
    program = place / "program"
    if not program.exists():
        shutil.copy(build("copy"), program)
    cache = default_directory()
    assert cache is not None
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "XDG_CACHE_HOME": str(Path(cache).parents[1]),
        "HOME": str(place),
    }
    done = set()
    for line in lines():
        if line.document != document or line.is_left_out or line.text in done:
            continue
        done.add(line.text)
        machine = line.command.startswith("tandemu run")
        ended = subprocess.run(
            ["bash", "-c", line.text],
            cwd=place,
            env=environment,
            # The first line stops U-Boot's count.
            input=b"\npoweroff\n" if machine else b"",
            capture_output=True,
            check=False,
            timeout=PATIENCE_S,
        )
        # The program ends with the number of its words.
        words = shlex.split(line.command)
        given = len(words[words.index("./program") :]) if "./program" in words else 0
        wanted = STATUS.get(line.command, given)
        assert ended.returncode == wanted, f"{line.text}: {ended.stdout!r} {ended.stderr!r}"
