"""The temporary server's process is gone soon after the flow's, even after SIGKILL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from flowkit import alive
from prefect.settings import PREFECT_API_URL, temporary_settings
from sweepkit import wait_for

from flows import temporary
from limoe.errors import UserError

FLOW = """
import subprocess, sys, time, types
from flows import temporary
module = types.ModuleType(temporary.MODULE)
class SubprocessASGIServer:
    server_process = None
module.SubprocessASGIServer = SubprocessASGIServer
sys.modules[temporary.MODULE] = module
temporary.end_server_with_us()
server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
SubprocessASGIServer.server_process = server
while not temporary._watchmen:
    time.sleep(0.01)
print(server.pid, flush=True)
time.sleep(600)
"""


def test_sigkill_of_a_flow_ends_its_temporary_server() -> None:
    with subprocess.Popen([sys.executable, "-c", FLOW], stdout=subprocess.PIPE, text=True) as flow:
        assert flow.stdout is not None
        server = int(flow.stdout.readline())
        assert alive(server)
        flow.kill()
    wait_for("the server's end", lambda: not alive(server), 10)


class Refusing(BaseHTTPRequestHandler):
    """A server that wants a password."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        pass


def test_a_named_server_that_does_not_answer_is_told_of_before_anything_runs() -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        address = f"http://127.0.0.1:{server.server_port}/api"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: address}):
            temporary.find_server()  # it answers, whatever it says
        server.shutdown()
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(UserError, match=rf"no Prefect server answers at {address} \("),
    ):
        temporary.find_server()


def test_the_command_says_so_in_one_line() -> None:
    env = os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    found = subprocess.run([sys.executable, "-m", "flows.pipeline"], capture_output=True, text=True, env=env, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: no Prefect server answers at http://127.0.0.1:9/api (")
    assert found.stderr.count("\n") == 1
