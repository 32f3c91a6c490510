"""Background threads: one core each, and a process that does not stop them."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from limoe.data.threads import single_core_thread, unhindered


def test_such_a_thread_computes_with_one_core_and_the_caller_with_its_own() -> None:
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with single_core_thread("one") as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(own)


@pytest.mark.parametrize("own", [None, "true"])
def test_unhindered_leaves_the_process_as_it_was_whatever_happens(own: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if own:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", own)
    before = gc.get_freeze_count()
    with pytest.raises(RuntimeError), unhindered():
        assert gc.get_freeze_count() > before
        assert os.environ["TOKENIZERS_PARALLELISM"] == (own or "false")
        raise RuntimeError
    assert gc.get_freeze_count() == 0
    assert os.environ.get("TOKENIZERS_PARALLELISM") == own
