"""A Prefect server for the time of a command, when PREFECT_API_URL names none.

The server that Prefect starts by itself does not schedule, loses its last records, and falls first when Ctrl-C reaches the whole group of
processes. This one lives in a session of its own under a small keeper, which ends it when the command ends, however that happens.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from flows import settings

START_SECONDS = 180
STOP_SECONDS = 10
HOST = "127.0.0.1"


@contextmanager
def server() -> Iterator[None]:
    """Prefect imported and a server reachable, for as long as this lasts."""
    settings.prepare()
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    url = f"http://{HOST}:{port}/api"
    command = [sys.executable, "-m", "flows.server", str(port)]
    environment = {**os.environ, "PREFECT_SERVER_UI_API_URL": url, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    silent = subprocess.DEVNULL
    keeper = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True)
    os.environ["PREFECT_API_URL"] = url
    try:
        from prefect.events.worker import EventsWorker  # takes as long as the server's start: do both at once

        await_health(url, keeper)
        try:
            yield
        finally:
            EventsWorker.drain_all(timeout=STOP_SECONDS)  # the run's last records
    finally:
        del os.environ["PREFECT_API_URL"]
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()


def await_health(url: str, keeper: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers. RuntimeError when it does not."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and keeper.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the Prefect server did not start within {START_SECONDS} s; `prefect server start` says why")


def keep(port: str) -> None:
    """Run the server until standard input ends, which it does when the process that holds the other end is gone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", port], stdin=subprocess.DEVNULL
    )
    sys.stdin.read()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(sign)
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    keep(sys.argv[1])
