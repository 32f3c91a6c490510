"""LIMoE: one sparse tower for pictures and text, trained, measured and compared."""
