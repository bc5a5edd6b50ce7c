"""A small server on 127.0.0.1 in the layout of the Hugging Face hub, for tests of the download path."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34
LARGE = (".parquet", ".safetensors")


def git_sha1(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """Serves ``files``: (kind, repository) -> {file name: bytes}; every repository has the one ``COMMIT``.

    As the hub it states a SHA-256 for large files (``LARGE``) and git's SHA-1 for others. ``cut_after`` makes it break
    connections after that many bytes of a file. ``damaged`` files come with a wrong byte, under the right checksum.
    ``requests`` lists what was asked, ``sent`` counts the bytes that were sent of each file.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.cut_after: int | None = None
        self.damaged: set[str] = set()
        self.sent: Counter[str] = Counter()
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def find(self, path: str) -> tuple[bytes | None, str]:
        """Return the bytes of ``/[datasets/]{owner}/{name}/resolve/{revision}/{file}``, or the hub's error code."""
        kind, rest = ("dataset", path[10:]) if path.startswith("/datasets/") else ("model", path[1:])
        owner, name, verb, revision, file = rest.split("/", 4)
        files = self.files.get((kind, f"{owner}/{name}"))
        if files is None or verb != "resolve":
            return None, "RepoNotFound"
        if revision not in ("main", COMMIT):
            return None, "RevisionNotFound"
        if file not in files:
            return None, "EntryNotFound"
        return files[file], ""

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, with_body: bool) -> None:
                path = unquote(self.path)
                hub.requests.append(f"{self.command} {path}")
                if path.startswith("/api/"):
                    self.list_files(path)
                    return
                content, code = hub.find(path) if "/resolve/" in path else (None, "RepoNotFound")
                self.send_response(404 if content is None else 200)
                self.send_header("X-Repo-Commit", COMMIT)
                if content is None:
                    self.send_header("X-Error-Code", code)
                    content = b""
                self.send_header("ETag", f'"{git_sha1(content)}"')
                if path.endswith(LARGE):
                    self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
                    self.send_header("X-Linked-Size", str(len(content)))
                if path in hub.damaged or path.rpartition("/")[2] in hub.damaged:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_body and hub.cut_after is not None:
                    content = content[: hub.cut_after]
                    self.close_connection = True
                if with_body:
                    hub.sent[path.partition(f"/resolve/{COMMIT}/")[2]] += len(content)
                    self.wfile.write(content)
                    self.wfile.flush()

            def list_files(self, path: str) -> None:
                """Answer ``/api/{datasets or models}/{owner}/{name}``, the hub's description of a repository."""
                kind, _, repository = path.removeprefix("/api/").partition("/")
                files = hub.files.get((kind.removesuffix("s"), repository))
                body = {
                    "id": repository,
                    "sha": COMMIT,
                    "siblings": [{"rfilename": name} for name in files or []],
                }
                content = json.dumps(body).encode()
                self.send_response(404 if files is None else 200)
                if files is None:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Run a ``HubServer`` for the time of the ``with`` block."""
    server = HubServer()
    try:
        yield server
    finally:
        server.stop()
