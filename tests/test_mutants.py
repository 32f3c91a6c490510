"""Tests that would let a known mistake through are worth nothing: see tests/mutants.py."""

from __future__ import annotations

import mutants
import pytest


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mistake_is_noticed(mutant):
    assert mutants.killed_by(mutant)


def test_the_tests_pass_on_an_unchanged_copy():
    assert mutants.killed_by(None) == ""
