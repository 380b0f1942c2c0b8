"""A process that is ended at any moment leaves an image that holds all that its guest synced."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tandemu.guests import pull_image
from tandemu.host.disk import open_image
from tandemu.host.disk.making import create_image
from tandemu.host.disk.qcow2.create import Qcow2Options
from tests.long import STRESS

CRASHES = 30 if STRESS else 1
BLOCK_BYTES = 1 << 16
SYNCED = re.compile(rb"SYNCED (\d+)\r?\n")
WRITE = (
    "n=0; while :; do yes $n | head -c 65536 | dd of=/dev/vda bs=64k seek=$n conv=notrunc,fsync"
    ' 2>/dev/null && echo "SYNCED $n"; n=$((n+1)); done\n'
)
PATIENCE_S = 300

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(CRASHES * PATIENCE_S),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img"),
]


def content(number: int) -> bytes:
    """What the guest writes into a block."""
    line = f"{number}\n".encode()
    return (line * (BLOCK_BYTES // len(line) + 1))[:BLOCK_BYTES]


def run_and_kill(image: Path, last: int) -> int:
    """Run a guest that writes block after block; end it in the middle. The last synced block."""
    command = [sys.executable, "-m", "tandemu", "run", "debian-disk-riscv64"]
    process = subprocess.Popen(
        [*command, "--drive", str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    output = b""
    typed = False
    try:
        while piece := os.read(process.stdout.fileno(), 4096):
            output += piece
            if not typed and b"~ # " in output:
                process.stdin.write(WRITE.encode())
                process.stdin.flush()
                typed = True
            synced = SYNCED.findall(output)
            if synced and int(synced[-1]) >= last:
                break
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        output += process.stdout.read()
        process.stdin.close()
        process.stdout.close()
    synced = SYNCED.findall(output)
    assert synced, output[-2000:]
    return int(synced[-1])


@pytest.mark.parametrize("number", range(CRASHES))
def test_what_was_synced_survives_the_end_of_the_process(tmp_path: Path, number: int) -> None:
    pull_image("debian-disk-riscv64")
    choice = random.Random(number)
    image = tmp_path / "disk.qcow2"
    # Small clusters, so that tables of both kinds are written and refcounts move on often.
    create_image(
        str(image), "qcow2", 64 << 20, Qcow2Options(cluster_bytes=choice.choice((512, 4096)))
    )
    last = run_and_kill(image, choice.randint(5, 60 if STRESS else 20))
    answer = subprocess.run(
        ["qemu-img", "check", image], capture_output=True, text=True, check=False
    )
    assert "No errors were found" in answer.stdout, answer.stdout + answer.stderr
    with open_image(str(image), read_only=True) as disk:
        for block in range(last + 1):
            assert disk.read(block * BLOCK_BYTES, BLOCK_BYTES) == content(block), block
