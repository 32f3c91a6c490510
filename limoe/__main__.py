"""`python -m limoe ...` is `limoe ...`: what torchrun can start."""

from limoe.cli import main

main()
