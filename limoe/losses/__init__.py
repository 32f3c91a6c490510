"""Contrastive and auxiliary losses: pure functions on tensors."""
