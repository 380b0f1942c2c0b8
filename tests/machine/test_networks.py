"""Network cards of machines: their options, and a Linux that reaches the host and is reached."""

from __future__ import annotations

import contextlib
import http.server
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandemu import Machine
from tandemu.machine import MachineError
from tandemu.machine.networks import parse_network
from tests.long import STRESS

PROMPT = "~ # "
PATIENCE_S = 900 if STRESS else 120
LOOP = bytes.fromhex("6f000000")
CONTENT = bytes(range(256)) * 40_000


def test_options() -> None:
    option = parse_network("user,mtu=1500,rate=1M,burst=64K,mac=52:54:00:AA:00:01,link=down")
    assert (option.mtu, option.rate_bytes_per_s, option.burst_bytes) == (1500, 1 << 20, 65536)
    assert option.mac == "52:54:00:aa:00:01" and not option.link_up
    assert parse_network("user,allow=a:1,deny=*,allow=b").rules == (
        *(("allow", "a:1"), ("deny", "*"), ("allow", "b")),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bridge", "must be user"),
        ("user,colour=red", "none of forward"),
        ("user,mtu", "mtu=VALUE"),
        ("user,mtu=1,mtu=2", "twice"),
        ("user,mtu=10", "must be 1280"),
        ("user,mac=01:00:00:00:00:01", "not of a group"),
        ("user,mac=x", "six bytes"),
        ("user,host=yes", "on or off"),
        ("user,subnet=10.0.2.1/24", "IPv4 network"),
        ("user,subnet=10.0.0.0/30", "IPv4 network"),
        ("user,burst=1", "give both"),
        ("user,hostname=-", "letters"),
        ("none,mtu=1500", "no options"),
        ("user=x", "must be user"),
        ("tap", "name of an interface"),
        ("tap=" + "x" * 16, "name of an interface"),
        ("tap=t,forward=1-1", "none of mac"),
        ("socket,local=a", "remote=PATH"),
    ],
)
def test_options_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(MachineError, match=said):
        Machine(kernel=LOOP, firmware="none", memory="16M", net=text)


def test_networks_that_cannot_be(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for text, said in (
            (f"user,forward={port}-22", "Take another port"),
            ("user,forward=x", "must be"),
            ("user,allow=a b", "no address and no name"),
            (f"user,capture={tmp_path}/none/file", "cannot be written"),
            ("user,forward=1.2.3.4:80-80", "cannot be had"),
            (f"socket,local={tmp_path}/none/a,remote=b", "no socket can be made"),
        ):
            machine = Machine(kernel=LOOP, firmware="none", memory="16M", net=text)
            with pytest.raises(MachineError, match=said):
                machine.start()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def web_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
@pytest.mark.parametrize("mtu", [1500, 65520])
def test_linux_on_a_user_network(tmp_path: Path, web_port: int, mtu: int) -> None:
    capture = tmp_path / "capture.pcapng"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    net = f"user,host=on,mtu={mtu},capture={capture},forward={port}-80,hostname=box"
    with Machine.of_guest("debian-disk-riscv64", net=net, timeout=4 * PATIENCE_S) as vm:
        vm.start()
        console = vm.console

        def run(command: str, expected: str) -> None:
            console.send(f"{command}\n")
            console.expect(expected, PATIENCE_S)
            console.expect(PROMPT, PATIENCE_S)

        console.expect(PROMPT, PATIENCE_S)
        run("ip -4 address show dev eth0", f"mtu {mtu}")
        run("ping -c 2 10.0.2.2", "2 packets received")
        run(
            "until ping -6 -c 1 -W 1 fd00:746d::2 >/dev/null 2>&1; do :; done; echo it-is-up",
            "\r\nit-is-up",
        )
        size = len(CONTENT)
        run(f"wget -q -O - http://10.0.2.2:{web_port}/ | tee /tmp/file | wc -c", f"\r\n{size}\r\n")
        run("wget -T 9 -O - http://127.0.0.2:1/", "refused")
        run("wget -T 9 -O - http://169.254.169.254/", "refused")
        run("mkdir /www && mv /tmp/file /www && httpd -p 80 -h /www", "")
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            client.sendall(b"GET /file HTTP/1.0\r\n\r\n")
            answer = client.makefile("rb").read()
        assert answer.partition(b"\r\n\r\n")[2] == CONTENT
        card = vm.cards["net0"]
        assert card.forwards == (f"tcp:127.0.0.1:{port}-:80",)
        card.remove_forward(f"{port}-80")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        card.add_forward(f"{port}-80")
        card.limit(10 << 20)
        card.link_up = False
        run("sleep 1; cat /sys/class/net/eth0/carrier", "\r\n0\r\n")
        card.link_up = True
        run("sleep 1; cat /sys/class/net/eth0/carrier", "\r\n1\r\n")
        run("ping -c 1 10.0.2.2", "1 packets received")
        card.capture(None)
        counted = card.statistics()
        assert counted["connections"] >= 2 and not counted["packets_dropped"]
        console.send("poweroff\n")
        assert vm.wait(PATIENCE_S).exit_status == 0
    if shutil.which("tshark"):
        command = ["tshark", "-r", capture, "-o", "tcp.check_checksum:false"]
        malformed = [*command, "-Y", "_ws.malformed || ip.checksum.status == 0"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "DHCP" in told and "HTTP" in told
        bad = subprocess.run(malformed, capture_output=True, text=True, check=True).stdout
        assert not bad


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
def test_two_machines_on_a_cable(tmp_path: Path) -> None:
    ends = [str(tmp_path / name) for name in "ab"]
    with contextlib.ExitStack() as open_:
        machines = []
        for local, remote in (ends, reversed(ends)):
            net = f"socket,local={local},remote={remote},mtu=9000"
            machine = Machine.of_guest("debian-disk-riscv64", net=net, timeout=4 * PATIENCE_S)
            machines.append(open_.enter_context(machine))
            machine.start()
        for number, machine in enumerate(machines):
            machine.console.expect(PROMPT, PATIENCE_S)
            commands = f"ip address add 10.7.7.{number + 1}/24 dev eth0; ip link set eth0 mtu 9000"
            machine.console.send(f"{commands}; echo is-$?\n")
            machine.console.expect("is-0", PATIENCE_S)
        server, client = machines
        server.console.send("head -c 2000000 /dev/urandom >/f; httpd -p 80 -h /; md5sum /f\n")
        wanted = server.console.expect(re.compile(r"[0-9a-f]{32}"), PATIENCE_S)[0]
        client.console.send("ping -c 2 -s 8000 10.7.7.1; wget -q -O - http://10.7.7.1/f | md5sum\n")
        client.console.expect("2 packets received", PATIENCE_S)
        client.console.expect(wanted, PATIENCE_S)
