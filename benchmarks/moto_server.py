"""An S3 server on this machine, for benchmarks: moto's, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

START_SECONDS = 60.0


@contextmanager
def s3_server() -> Iterator[str]:
    """Its address while the block runs. Keys that it takes are put into this process's environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait_for(endpoint)
        yield endpoint
    finally:
        server.terminate()
        server.wait()


def make_bucket(endpoint: str, bucket: str) -> None:
    """An empty bucket of that name."""
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()


def _wait_for(endpoint: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(endpoint).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
