"""How a trained LIMoE routes pictures and captions: recorded from any model directory, measured, and shown by examples."""
