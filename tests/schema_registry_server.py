"""A small schema registry on a real socket: the part of Confluent's REST API that readers use."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import TYPE_CHECKING, Any, Self

import fastavro

from headwater_connectors.formats.confluent_framing import framed

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SchemaRegistryServer", "avro_bytes", "framed_bytes"]


def avro_bytes(schema: Any, record: dict[str, Any]) -> bytes:
    """Encode one record, with no frame."""
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return stream.getvalue()


def framed_bytes(schema_id: int, schema: Any, record: dict[str, Any]) -> bytes:
    """Encode one record as Confluent's serializers do."""
    return framed(schema_id, avro_bytes(schema, record))


class SchemaRegistryServer:
    """Answers on a free port of loopback; a context manager.

    `faults` are answers to give first, in order: a status, with a body or seconds to wait, or
    "drop" to close the connection. `requests` are the paths that were asked for.
    """

    def __init__(self, *, basic_auth: str = "") -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, dict[int, dict[str, Any]]] = {}
        self.faults: deque[tuple[int, bytes] | tuple[float, str] | str] = deque()
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.basic_auth = basic_auth
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def register(self, schema: Any, schema_id: int, **more: Any) -> int:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        self.schemas[schema_id] = {"schema": text, **more}
        return schema_id

    def register_subject(self, subject: str, version: int, schema: Any, **more: Any) -> None:
        self.subjects.setdefault(subject, {})[version] = {"schema": json.dumps(schema), **more}

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        if self.basic_auth:
            token = base64.b64encode(self.basic_auth.encode()).decode()
            if authorization != f"Basic {token}":
                return 401, b'{"error_code":401,"message":"Unauthorized"}'
        match path.split("/")[1:]:
            case ["schemas", "ids", text] if int(text) in self.schemas:
                return 200, json.dumps(self.schemas[int(text)]).encode()
            case ["schemas", "ids", text]:
                return 404, json.dumps(
                    {"error_code": 40403, "message": f"Schema {text} not found"}
                ).encode()
            case ["subjects", subject, "versions", text]:
                found = self.subjects.get(subject, {}).get(int(text))
                if found is not None:
                    return 200, json.dumps(found).encode()
                return 404, b'{"error_code":40401,"message":"Subject not found"}'
        return 404, b"<html>nothing here</html>"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hung up: some tests are about those."""


def _handler(registry: SchemaRegistryServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.requests.append(self.path)
            authorization = self.headers.get("Authorization")
            registry.authorizations.append(authorization)
            fault = registry.faults.popleft() if registry.faults else None
            if fault == "drop":
                self.close_connection = True
                return
            if fault is not None and isinstance(fault[1], str):
                time.sleep(float(fault[0]))
                fault = None
            status, body = fault or registry.answer(self.path, authorization)
            self.send_response(int(status))
            if 300 <= status < 400:
                self.send_header("Location", body.decode())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing to the test's output."""

    return Handler
