"""Ends with 0 if the worker in this container is ready, else with 1. Needs nothing but Python."""
# ruff: noqa: INP001

import http.client
import os
import sys


def ready(port: int) -> bool:
    """Whether the worker says that it has its partitions and their state, and goes on."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    number = int(os.environ.get("TRIPS_HTTP_PORT") or 8080)
    sys.exit(0 if number == 0 or ready(number) else 1)  # 0: switched off, so nobody can tell
