"""The training step, loop, checkpoints and health."""
