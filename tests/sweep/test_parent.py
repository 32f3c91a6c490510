"""A process that asks to end with its parent does, whether the parent dies before or after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from sweepkit import wait_for

CHILD = "from limoe.sweep.parent import end_with_parent; end_with_parent(); print(os.getpid(), flush=True); time.sleep(600)"
PARENT = f"""
import os, subprocess, sys
env = {{**os.environ, "LIMOE_PARENT": str(os.getpid())}}
subprocess.run([sys.executable, "-c", "import os, time; " + {CHILD!r}], env=env)
"""


def running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_sigkill_of_the_parent_ends_the_child() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert running(child)
        parent.kill()
    wait_for("the child's end", lambda: not running(child), 10)


def test_a_parent_that_is_gone_already_ends_it_at_once() -> None:
    env = {**os.environ, "LIMOE_PARENT": str(2**22 + 1)}  # above the largest process number: never its parent
    done = subprocess.run([sys.executable, "-c", f"import os, time; {CHILD}"], env=env, check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_without_a_parent_named_nothing_happens() -> None:
    env = {name: value for name, value in os.environ.items() if name != "LIMOE_PARENT"}
    script = "from limoe.sweep.parent import end_with_parent; end_with_parent(); print('alive')"
    assert subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True).stdout == "alive\n"
