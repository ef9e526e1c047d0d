"""Exit with 0 if the worker in this container is healthy: what the image's HEALTHCHECK runs.

The port is that of HEADWATER_WORKER__METRICS_PORT. Nothing of ours is imported: this runs every
few seconds.
"""

# ruff: noqa: INP001 - a script, part of no package

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_S = 4.0


def main() -> int:
    """Ask /healthz and say what it said."""
    port = int(os.environ.get("HEADWATER_WORKER__METRICS_PORT") or 9464)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"no answer on port {port}: {error}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
