"""An S3-compatible server in this process, and one that takes calls and never answers."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING

import boto3
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "shop"
SECRET = "not-to-be-shown"


def options_of(endpoint: str, **more: str) -> dict[str, str]:
    """Return the options that reach a server as obstore wants them."""
    return {
        "endpoint": endpoint,
        "access_key_id": "someone",
        "secret_access_key": SECRET,
        "region": "us-east-1",
        "client.allow_http": "true",
        **more,
    }


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run a server with an empty bucket; yield its endpoint."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="someone",
        aws_secret_access_key=SECRET,
    )
    try:
        client.create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        client.close()
        server.stop()


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Take connections and never answer; yield the endpoint."""
    stop = threading.Event()
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def accept() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    kept.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()
            for one in kept:
                one.close()
