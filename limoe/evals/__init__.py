"""Evaluators: constructed once on a set, run on any number of models."""
