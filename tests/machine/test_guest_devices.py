"""The smaller devices under Linux: sockets, random bytes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tandemu import Machine
from tandemu.device.virtio.vsock import listen
from tandemu.machine import MachineError
from tests.long import STRESS

PROMPT = "~ # "
PATIENCE_S = 900 if STRESS else 120
PROGRAMS = Path(__file__).parent / "programs"
COMPILER = "riscv64-linux-gnu-gcc"
LOOP = bytes.fromhex("6f000000")


def test_devices_that_cannot_be(tmp_path: Path) -> None:
    for options, said in (
        ({"devices": ["toaster"]}, "no device is called 'toaster'"),
        ({"devices": ["rng", "rng"]}, "twice"),
        ({"vsock": "x" * 97}, "too long"),
        ({"ports": ["name"]}, "NAME=SOCKET"),
        ({"ports": ["=a"]}, "1 to 64"),
        ({"ports": ["a=b", "a=c"]}, "two ports"),
    ):
        with pytest.raises(MachineError, match=said):
            Machine(kernel=LOOP, firmware="none", memory="16M", **options)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "none" / "socket"):
        machine = Machine(kernel=LOOP, firmware="none", memory="16M", vsock=path)
        with pytest.raises(MachineError, match="no socket can be made"):
            machine.start()


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}")
def test_linux_with_every_device(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    program = PROGRAMS / "vsock_echo.c"
    subprocess.run([COMPILER, "-static", "-O1", "-o", folder / "echo", program], check=True)
    path = tmp_path / "vsock"
    content = b"what the host says\n" * 20_000
    with (
        listen(f"{path}_80") as server,
        Machine.of_guest(
            "debian-disk-riscv64",
            shares=[folder],
            vsock=path,
            devices=["rng", "balloon", "console"],
            ports=[f"org.example={tmp_path}/port"],
            timeout=PATIENCE_S,
        ) as vm,
    ):
        vm.start()
        vm.console.expect(PROMPT, PATIENCE_S)
        vm.console.send("cat /sys/class/misc/hw_random/rng_current\n")
        vm.console.expect("virtio_rng.0", PATIENCE_S)
        vm.console.send("head -c 1000 /dev/hwrng | wc -c\n")
        vm.console.expect("\r\n1000\r\n", PATIENCE_S)
        vm.resize(101, 37)
        vm.console.send("stty size < /dev/hvc0; echo to the terminal > /dev/hvc0\n")
        vm.console.expect("37 101", PATIENCE_S)
        vm.console.expect("to the terminal", PATIENCE_S)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(f"{tmp_path}/port")
            vm.console.send("cat /dev/vport*p1 & sleep 1; echo out > /dev/vport*p1\n")
            client.sendall(b"into the guest\n")
            vm.console.expect("into the guest", PATIENCE_S)
        vm.balloon.target_bytes = 100 << 20
        while vm.balloon.returned_bytes < 100 << 20:
            vm.console.send("\n")
            vm.console.expect(PROMPT, PATIENCE_S)
        vm.balloon.target_bytes = 0
        vm.console.send("mkdir /m; mount -t virtiofs share /m; /m/echo\n")
        vm.console.expect("LISTENING", PATIENCE_S)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(path))
            client.sendall(b"CONNECT 52\n")
            stream = client.makefile("rb")
            assert stream.readline().startswith(b"OK ")
            sender = threading.Thread(target=client.sendall, args=(content,))
            sender.start()
            assert stream.read(len(content)) == content.upper()
            sender.join()
            client.shutdown(socket.SHUT_WR)
            vm.console.expect(f"ECHOED {len(content)}", PATIENCE_S)
            server.setblocking(True)
            server.settimeout(PATIENCE_S)
            caller, _ = server.accept()
            caller.settimeout(PATIENCE_S)
            assert caller.makefile("rb").read() == b"hello from the guest"
            caller.close()
        vm.console.send("poweroff\n")
        assert vm.wait().exit_status == 0
        counted = vm.statistics()
        assert counted["share0_requests"] and counted["vsock_requests"] and counted["rng_requests"]
        assert counted["balloon_bytes_returned"] >= 90 << 20
    assert not path.exists()
