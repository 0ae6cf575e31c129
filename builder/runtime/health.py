"""The image's health check: `health.py PORT PATH` exits 0 when the server answers 200 there."""

from __future__ import annotations

import http.client
import sys

SECONDS = 8  # below the check's own time-out, so that the reason is printed


def healthy(port: int, path: str) -> bool:
    """Whether GET http://127.0.0.1:PORT/PATH answers 200. Raises OSError when nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """Exit code of the check: 0 healthy, 1 not."""
    port, path = arguments
    try:
        return 0 if healthy(int(port), path) else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
