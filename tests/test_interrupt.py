"""Signals as exceptions: at once, or postponed; exit codes; who may not be disturbed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from limoe.interrupt import EXIT_CODES, SIGNALS, Interrupted, at_once, postponed

pytestmark = pytest.mark.usefixtures("python_handlers")


@pytest.mark.parametrize("number,code,name", [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")])
def test_at_once(number: int, code: int, name: str) -> None:
    with pytest.raises(Interrupted, match=f"^interrupted by {name}: everything already written is valid") as caught, at_once():
        signal.raise_signal(number)
    assert caught.value.exit_code == code
    assert code in EXIT_CODES
    assert not isinstance(caught.value, Exception), "nothing that catches errors may catch it"


@pytest.mark.parametrize("number", SIGNALS)
def test_postponed(number: int) -> None:
    with at_once():
        with postponed() as request:
            assert request.number is None
            signal.raise_signal(number)
            assert request.number == number
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_ends_the_process_at_once(first: int) -> None:
    script = (
        "import signal, sys; from limoe.interrupt import postponed\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with postponed():\n"
        f"    signal.raise_signal({first}); print('on', flush=True); signal.raise_signal(signal.SIGINT); print('not here')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "on\n"), done.stderr


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with at_once(), postponed() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.number is None
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_another_thread_leaves_signals_alone() -> None:
    seen = []

    def body() -> None:
        with at_once(), postponed() as request:
            seen.append((request.number, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(None, signal.SIG_DFL)]
