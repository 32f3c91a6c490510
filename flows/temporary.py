"""The Prefect server of a flow: one that answers, or a temporary one, which must not outlive the flow, even if that is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from prefect.settings import get_current_settings

from limoe.errors import UserError

ANSWER_SECONDS = 10
MODULE = "prefect.server.api.server"
POLL_SECONDS = 0.05
PATIENCE = 120.0  # seconds until a server has been started, or never will be
WATCHMAN = 'cat > /dev/null; kill "$1" 2> /dev/null'  # reads until whoever holds the other end of the pipe is gone


def find_server() -> None:
    """UserError if a server is named (PREFECT_API_URL, or Prefect's profile) and does not answer; where none is, a temporary one
    will be started, and ends with us."""
    address = get_current_settings().api.url
    if address is None:
        end_server_with_us()
        return
    try:
        with suppress(urllib.error.HTTPError):  # an answer, too: it may want to know who asks
            urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Prefect server answers at {address} ({getattr(error, 'reason', error)}): start one with `make prefect`, or "
            "unset PREFECT_API_URL"
        ) from None


def end_server_with_us() -> None:
    """From now on a temporary server that Prefect starts for this process ends when this process does, however that ends.

    Prefect ends it itself, but not after SIGKILL: 200 MB would stay, and the next server would share its database with it.
    """
    threading.Thread(target=_tie, daemon=True).start()


def _tie() -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        process = _server()
        if process is not None:
            tie(process.pid)
            return
        time.sleep(POLL_SECONDS)


def _server() -> subprocess.Popen[Any] | None:
    """The process of the temporary server, once Prefect (which imports the module when it needs one) has started it."""
    module = sys.modules.get(MODULE)
    if module is None or not hasattr(module, "SubprocessASGIServer"):
        return None
    process: subprocess.Popen[Any] | None = module.SubprocessASGIServer().server_process
    return process


def tie(pid: int) -> None:
    """Have a process of our own, in a session of its own, end `pid` when this process is gone."""
    command = ["sh", "-c", WATCHMAN, "sh", str(pid)]
    watchman = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    _watchmen.append(watchman)  # the pipe is open as long as the object lives


_watchmen: list[subprocess.Popen[bytes]] = []
