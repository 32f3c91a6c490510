"""When and where the stages run; the only place that imports prefect, whose settings stand in pyproject.toml."""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # before prefect is imported, which reports home from then on
