"""An object store that misbehaves: a proxy that answers some requests with faults, for tests and chaos runs.

    with FaultyProxy("http://127.0.0.1:5000", RandomFaults({"slow_down": 0.1, "cut": 0.1}, seed=3)) as proxy:
        ...  # talk to proxy.endpoint; proxy.injected counts what was done

Or beside a server that runs already:  python -m benchmarks.faults http://127.0.0.1:5000 --port 5001 --share 0.2
"""

from __future__ import annotations

import argparse
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = {
    "error": "500 Internal Error, the request not carried out",
    "slow_down": "503 SlowDown, as S3 throttles",
    "reset": "the connection is reset, the request not carried out",
    "lost": "the request is carried out, then the connection is reset: the answer is lost",
    "late_error": "the request is carried out, then the answer is 500",
    "cut": "half of the answer's body, then the connection ends",
    "stall": "half of the answer's body, then nothing for as long as `stall_seconds`",
    "slow": "the body in ten pieces with pauses between",
}

Choose = Callable[[str, str], "str | None"]
"""Of a request's method and path (with query): which fault, or None."""


class RandomFaults:
    """Faults drawn for each request.

    Args:
        shares: of requests that get each kind of fault.
        seed: of the draws.
        in_a_row: most faults one request (by method and path) gets before it is let through, so that a client that
            tries again comes through.
    """

    def __init__(self, shares: Mapping[str, float], *, seed: int, in_a_row: int = 2) -> None:
        if unknown := set(shares) - set(FAULTS):
            raise ValueError(f"unknown faults {sorted(unknown)}; choose {', '.join(FAULTS)}")
        self._shares, self._in_a_row = dict(shares), in_a_row
        self._random = random.Random(seed)
        self._row: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> str | None:
        with self._lock:
            draw = self._random.random()
            if self._row[method, path] < self._in_a_row:
                for kind, share in self._shares.items():
                    draw -= share
                    if draw < 0:
                        self._row[method, path] += 1
                        return kind
            self._row[method, path] = 0
            return None


class FaultyProxy:
    """A proxy in front of an HTTP object store on this machine.

    Args:
        target: the store's address, `http://HOST:PORT`.
        choose: which fault a request gets.
        stall_seconds: how long a stalled answer stands still.
        port: to listen on; 0 takes a free one.
    """

    def __init__(self, target: str, choose: Choose, *, stall_seconds: float = 60.0, port: int = 0) -> None:
        self.target = urlsplit(target).netloc
        self.choose, self.stall_seconds = choose, stall_seconds
        self.injected: Counter[str] = Counter()
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.choose(self.command, self.path)
        if fault is not None:
            self.proxy.injected[fault] += 1
        if fault == "error":
            return self._answer(500, b"<Error><Code>InternalError</Code></Error>")
        if fault == "slow_down":
            return self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        if fault == "reset":
            return self._reset()
        status, headers, content = self._forward(body)
        if fault == "late_error":
            return self._answer(500, b"<Error><Code>InternalError</Code></Error>")
        if fault == "lost":
            return self._reset()
        self._send(status, headers, content, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str | None) -> None:
        self.send_response_only(status)
        sized = self.command == "HEAD"
        for name, value in headers:
            if name.lower() in ("connection", "transfer-encoding") or (name.lower() == "content-length" and not sized):
                continue
            self.send_header(name, value)
        if not sized:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if sized:
            return
        half = len(content) // 2
        if fault in ("cut", "stall"):
            self.wfile.write(content[:half])
            self.wfile.flush()
            if fault == "stall":
                self.proxy.ended.wait(self.proxy.stall_seconds)
            self.close_connection = True
        elif fault == "slow":
            step = max(1, -(-len(content) // 10))
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                self.wfile.flush()
                time.sleep(0.02)
        else:
            self.wfile.write(content)

    def _answer(self, status: int, content: bytes) -> None:
        self._send(status, [("Content-Type", "application/xml")], content, None)

    def _reset(self) -> None:
        # A linger of no seconds makes closing send a reset instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client is gone: it was killed, or had enough
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):  # closed by `_reset`, or by the client
            super().finish()

    def log_message(self, *values: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="the store's address")
    parser.add_argument("--port", type=int, default=0, help="to listen on (default: a free one)")
    parser.add_argument("--share", type=float, default=0.2, help="of requests with a fault (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = [kind for kind in FAULTS if kind != "stall"]
    shares = dict.fromkeys(kinds, options.share / len(kinds))
    with FaultyProxy(options.target, RandomFaults(shares, seed=options.seed), port=options.port) as proxy:
        print(proxy.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
