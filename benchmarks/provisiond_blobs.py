"""Blobs to many clients: what the node server takes of a processor beside nginx with sendfile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness import ROUNDS, Figure
from provisiond.lab.simulate_server import Settings, open_server, read_usage

CLIENTS = 16
BLOB_BYTES = 128 * 1024 * 1024
SLOW_BYTES_PER_SECOND = 4 * 1024 * 1024
READ_BYTES = 1024 * 1024
RATIO = 1.5

NGINX = """
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/nginx.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {work}/t1;
    proxy_temp_path {work}/t2;
    fastcgi_temp_path {work}/t3;
    uwsgi_temp_path {work}/t4;
    scgi_temp_path {work}/t5;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def measure(work: Path) -> list[Figure]:
    """Let both serve the same file of one store, in turns; the page cache has it."""
    settings = Settings(nodes=1, payload_bytes=BLOB_BYTES, directory=work)
    with open_server(settings) as server:
        server.start()
        server.add_capsule()
        blobs = server.state.store / "blobs"
        largest = max((blobs / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        path = f"sha256/{largest.name}"
        ours = f"{server.boot_url}/blobs/{path}"
        per_byte: dict[str, list[float]] = {"provisiond": [], "nginx": []}
        with _nginx(work, blobs) as found:
            contenders = {"provisiond": (ours, server.pid)}
            if found is not None:
                contenders["nginx"] = (f"{found[0]}/{path}", found[1])
            for _ in range(ROUNDS):
                for name, (url, pid) in contenders.items():
                    per_byte[name].append(_race(url, pid, CLIENTS))
        figures = [
            Figure(
                group=f"blobs, {CLIENTS} clients, server CPU",
                name=name,
                facts={
                    "nanosecondsPerKb": round(1e12 * statistics.median(found), 1),
                    "gbPerCpuSecond": round(1e-9 / statistics.median(found), 2),
                },
            )
            for name, found in per_byte.items()
            if found
        ]
        if per_byte["nginx"]:
            ratio = statistics.median(per_byte["provisiond"]) / statistics.median(per_byte["nginx"])
            figures.append(_goal("server CPU per byte, times nginx", ratio, RATIO))
        slow = _fetch_all(ours, [_slow] * CLIENTS + [_fast] * CLIENTS, expected_bytes=BLOB_BYTES)
    unfinished = [said for said in slow if said != BLOB_BYTES]
    figures.append(_goal(f"{CLIENTS} slow, {CLIENTS} fast: unfinished", len(unfinished), 0))
    return figures


def _goal(name: str, measured: float, goal: float) -> Figure:
    return Figure(
        group="goals",
        name=name,
        facts={
            "measured": round(measured, 2),
            "goal": f"≤ {goal:g}",
            "reached": "yes" if measured <= goal else "NO",
        },
    )


def _race(url: str, pid: int, clients: int) -> float:
    """Return the seconds of a processor that *pid* takes for each byte."""
    before = read_usage(pid).cpu_seconds
    got = _fetch_all(url, [_fast] * clients, expected_bytes=BLOB_BYTES)
    return (read_usage(pid).cpu_seconds - before) / sum(got)


def _fetch_all(
    url: str, readers: Sequence[Callable[[socket.socket], int]], *, expected_bytes: int
) -> list[int]:
    """Let each of *readers* fetch *url* at the same time; return how many bytes each got."""
    got = [0] * len(readers)

    def fetch(number: int) -> None:
        parts = urlsplit(url)
        with socket.create_connection((str(parts.hostname), parts.port or 80), timeout=60) as end:
            end.sendall(
                f"GET {parts.path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += end.recv(1)
            assert head.startswith(b"HTTP/1.1 200"), head
            got[number] = readers[number](end)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(len(readers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def _fast(end: socket.socket) -> int:
    buffer = bytearray(READ_BYTES)
    total_bytes = 0
    while count := end.recv_into(buffer):
        total_bytes += count
    return total_bytes


def _slow(end: socket.socket) -> int:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    buffer = bytearray(64 * 1024)
    total_bytes, begun = 0, time.monotonic()
    while count := end.recv_into(buffer):
        total_bytes += count
        ahead = total_bytes / SLOW_BYTES_PER_SECOND - (time.monotonic() - begun)
        if ahead > 0:
            time.sleep(ahead)
    return total_bytes


@contextlib.contextmanager
def _nginx(work: Path, root: Path) -> Iterator[tuple[str, int] | None]:
    """Give the block the base URL and the process of an nginx that serves *root*; none without."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        print("   nginx: not installed, so there is nothing to compare with (apt install nginx)")
        yield None
        return
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    config = work / "nginx.conf"
    text = NGINX.format(work=work, port=port, root=root)
    config.write_text(f"user root;\n{text}" if os.geteuid() == 0 else text, encoding="utf-8")
    process = subprocess.Popen([program, "-c", str(config), "-e", str(work / "nginx.log")])
    try:
        yield f"http://127.0.0.1:{port}", _worker_of(process.pid, port)
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(20)


def _worker_of(pid: int, port: int) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
            if text.split():
                return int(text.split()[0])
        time.sleep(0.05)
    raise TimeoutError("nginx does not answer")
