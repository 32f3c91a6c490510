"""Rows that nobody filled may hold anything, and nothing of it comes through."""

from __future__ import annotations

import torch

from limoe.model.rows import dispatch_rows


def test_a_gradient_in_a_slot_that_nobody_filled_goes_nowhere():
    x_TD = torch.randn(3, 2, requires_grad=True)
    slot_TK, placed_TK = torch.tensor([[1], [0], [0]]), torch.tensor([[True], [False], [False]])
    sent_SD = dispatch_rows(x_TD, torch.tensor([2, 0]), slot_TK, placed_TK)
    assert torch.equal(sent_SD[1], x_TD[0])
    sent_SD.backward(torch.tensor([[float("nan"), float("inf")], [3.0, 4.0]]))
    assert x_TD.grad.tolist() == [[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]
