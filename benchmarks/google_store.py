"""A store on this machine that speaks as much of the XML interface of Google Cloud Storage as its clients use here.

    with GoogleStore("bucket") as store:
        storage = open_storage("gs://bucket/run", StorageConfig(endpoint=store.endpoint))

It asks for no keys and keeps objects in memory. Written after Google's reference of that interface, since the emulator
that pip installs has other parts of it: what Google's own servers do beyond it, nobody here has seen.

Source: https://cloud.google.com/storage/docs/xml-api/reference-methods
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 50
"""Entries of one answer to a listing; Google's has up to a thousand."""


@dataclass(frozen=True)
class StoredObject:
    """One object."""

    data: bytes
    generation: int
    metadata: dict[str, str]
    """Its `x-goog-meta-` headers."""
    modified: datetime

    @property
    def headers(self) -> dict[str, str]:
        """What an answer says of it."""
        return {
            **self.metadata,
            "ETag": f'"{self.etag}"',
            "Last-Modified": format_datetime(self.modified, usegmt=True),
            "x-goog-generation": str(self.generation),
        }

    @property
    def etag(self) -> str:
        """Of its content."""
        return hashlib.md5(self.data).hexdigest()


class GoogleStore:
    """A server while the block runs.

    Args:
        bucket: the one that is there.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.objects: dict[str, StoredObject] = {}
        self.lock = threading.Lock()
        self.last_generation = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> GoogleStore:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: GoogleStore

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key, wanted = self._key(), self.headers.get("x-goog-if-generation-match")
        with self.store.lock:
            before = self.store.objects.get(key)
            if wanted is not None and int(wanted) != (before.generation if before else 0):
                return self._error(412, "PreconditionFailed")
            self.store.last_generation += 1
            metadata = {name: value for name, value in self.headers.items() if name.lower().startswith("x-goog-meta-")}
            now = datetime.now(timezone.utc)
            written = StoredObject(data, self.store.last_generation, metadata, now)
            self.store.objects[key] = written
        self._answer(200, headers=written.headers)

    def do_GET(self) -> None:
        if not self._key():
            return self._answer(200, self._listing().encode())
        found = self.store.objects.get(self._key())
        if found is None:
            return self._error(404, "NoSuchKey")
        wanted = self.headers.get("Range")
        if wanted is None:
            return self._answer(200, found.data, found.headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(found.data) - int(last))
        end = min(int(last) + 1 if first and last else len(found.data), len(found.data))
        told = f"bytes {start}-{end - 1}/{len(found.data)}"
        self._answer(206, found.data[start:end], {**found.headers, "Content-Range": told})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        with self.store.lock:
            gone = self.store.objects.pop(self._key(), None)
        if gone is None:
            return self._error(404, "NoSuchKey")
        self._answer(204)

    def _key(self) -> str:
        bucket, _, key = unquote(urlsplit(self.path).path)[1:].partition("/")
        return key if bucket == self.store.bucket else f"{bucket}: there is no such bucket"

    def _listing(self) -> str:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        after = asked.get("continuation-token") or asked.get("start-after", "")
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        found: dict[str, StoredObject | None] = {}
        for key, stored in sorted(self.store.objects.items()):
            if key.startswith(prefix) and key > after:
                name, slash, _ = key[len(prefix) :].partition(delimiter or "\0")
                found[prefix + name + slash] = None if slash else stored
        page = list(found)[:PAGE]
        return "".join(self._listing_words([(name, found[name]) for name in page], more=len(found) > PAGE))

    def _listing_words(self, page: list[tuple[str, StoredObject | None]], *, more: bool) -> Iterator[str]:
        yield f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"
        for name, stored in page:
            if stored is None:
                yield f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            else:
                yield f"<Contents><Key>{escape(name)}</Key><Generation>{stored.generation}</Generation>"
                yield f"<LastModified>{stored.modified.isoformat().replace('+00:00', 'Z')}</LastModified>"
                yield f"<ETag>&quot;{stored.etag}&quot;</ETag><Size>{len(stored.data)}</Size></Contents>"
        if more:
            yield f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>"
        yield "</ListBucketResult>"

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>".encode())

    def _answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *values: Any) -> None:
        pass
