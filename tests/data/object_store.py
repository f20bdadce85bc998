"""A little object store that speaks enough of S3's and Google's protocols for their real clients.

Its objects are files of a folder. It is a process of its own: a client may hold the interpreter while it waits.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"


class ObjectStore:
    """A store with one bucket that is kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, __file__, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def address(self, kind: str, path: str = "") -> str:
        """The address of a path in the bucket for a client: kind is s3 or gs."""
        endpoint = f"127.0.0.1:{self.port}&scheme=http"
        if kind == "s3":
            return f"s3://{BUCKET}/{path}?endpoint_override={endpoint}&region=us-east-1"
        return f"gs://anonymous@{BUCKET}/{path}?endpoint_override={endpoint}&retry_limit_seconds=1"

    def put(self, name: str, data: bytes) -> None:
        (self.folder / quote(name, "")).write_bytes(data)

    def names(self) -> list[str]:
        return sorted(unquote(path.name) for path in self.folder.iterdir())

    def lose(self, requests: str) -> None:
        """From now on requests ("PUT /bucket/name") that a pattern fits fail; with "" all are answered again.

        Google's client gets no answer and gives up after a second; Amazon's would try longer and is told to go away.
        """
        (self.folder.parent / "lost").write_text(requests)

    def close(self) -> None:
        self.process.communicate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _do(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        lost = (FOLDER.parent / "lost").read_text()
        if lost and re.search(lost, f"{self.command} {unquote(self.path)}"):
            if "/b/" not in url.path:
                self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            else:
                self.close_connection = True
                self.connection.close()
        elif url.path.startswith(("/storage/", "/upload/")):
            self._google(unquote(url.path.partition(f"/b/{BUCKET}/o")[2][1:]), query, body)
        else:
            self._s3(unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/"), query, body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _do

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        plain = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            length = int(size.split(b";")[0], 16)
            plain, data = plain + data[:length], data[length + 2 :] if length else b""
        return plain

    def _answer(self, code: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _content(self, data: bytes) -> None:
        """An object, or the part of it that is asked for."""
        tag = md5(data).hexdigest()
        headers = {"ETag": f'"{tag}"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            headers["Content_Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self._answer(206, part, **headers)
        else:
            self._answer(200, data, **headers)

    def _s3(self, name: str, query: dict[str, str], body: bytes) -> None:
        if "list-type" in query:
            self._answer(200, self._listing(query).encode())
        elif "uploads" in query:
            ident = f"u{len(UPLOADS)}"
            UPLOADS[ident] = {}
            tags = f"<Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key><UploadId>{ident}</UploadId>"
            self._answer(
                200,
                f"<InitiateMultipartUploadResult>{tags}</InitiateMultipartUploadResult>".encode(),
            )
        elif self.command == "PUT" and "uploadId" in query:
            UPLOADS[query["uploadId"]][int(query["partNumber"])] = body
            self._answer(200, ETag=f'"{md5(body).hexdigest()}"')
        elif self.command == "POST":
            parts = UPLOADS.pop(query["uploadId"])
            data = b"".join(parts[number] for number in sorted(parts))
            _put(name, data)
            tags = f'<Key>{escape(name)}</Key><ETag>"{md5(data).hexdigest()}"</ETag>'
            self._answer(
                200, f"<CompleteMultipartUploadResult>{tags}</CompleteMultipartUploadResult>".encode()
            )
        elif self.command == "PUT":
            _put(name, body)
            self._answer(200, ETag=f'"{md5(body).hexdigest()}"')
        elif self.command == "DELETE":
            _file(name).unlink(missing_ok=True)
            self._answer(204)
        elif _file(name).exists():
            self._content(_get(name))
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _listing(self, query: dict[str, str]) -> str:
        found = _names(query)
        time = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        tags = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(_get(name))}</Size>{time}</Contents>"
            for name in found
        )
        count = f"<KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{count}{tags}</ListBucketResult>"

    def _google(self, name: str, query: dict[str, str], body: bytes) -> None:
        if "upload_id" in query:
            upload = UPLOADS[query["upload_id"]]
            upload["data"] += body
            total = self.headers["Content-Range"].rpartition("/")[2]
            if total == "*":
                self._answer(308, Range=f"bytes=0-{len(upload['data']) - 1}")
            else:
                _put(upload["name"], upload["data"])
                self._json(self._about(upload["name"]))
        elif self.command == "POST":
            ident = f"u{len(UPLOADS)}"
            UPLOADS[ident] = {"name": query["name"], "data": b""}
            host = f"http://127.0.0.1:{self.server.server_port}"
            self._answer(200, Location=f"{host}/upload/storage/v1/b/{BUCKET}/o?upload_id={ident}")
        elif not name:
            items = [self._about(found) for found in _names(query)]
            self._json({"kind": "storage#objects", "items": items})
        elif not _file(name).exists():
            self._answer(404, b'{"error": {"code": 404, "message": "not found"}}')
        elif self.command == "DELETE":
            _file(name).unlink()
            self._answer(204)
        elif query.get("alt") == "media":
            self._content(_get(name))
        else:
            self._json(self._about(name))

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def _about(self, name: str) -> dict[str, str]:
        return {
            "kind": "storage#object", "name": name, "bucket": BUCKET, "generation": "1", "metageneration": "1",
            "size": str(len(_get(name))), "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip


def _file(name: str) -> Path:
    return FOLDER / quote(name, "")


def _get(name: str) -> bytes:
    return _file(name).read_bytes()


def _put(name: str, data: bytes) -> None:
    _file(name).write_bytes(data)


def _names(query: dict[str, str]) -> list[str]:
    names = sorted(unquote(path.name) for path in FOLDER.iterdir())
    return [name for name in names if name.startswith(query.get("prefix", ""))]


if __name__ == "__main__":
    FOLDER, UPLOADS = Path(sys.argv[1]), dict[str, Any]()
    FOLDER.mkdir()
    (FOLDER.parent / "lost").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until whoever started it is done or dead
