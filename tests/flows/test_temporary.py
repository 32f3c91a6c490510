"""The temporary server's process is gone soon after the flow's, even after SIGKILL."""

from __future__ import annotations

import subprocess
import sys

from flowkit import alive
from sweepkit import wait_for

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
