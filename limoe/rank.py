"""One process of a training in several: `python -m limoe.rank FOLDER`, as limoe/stages/launch.py has torchrun start it.

The folder says what to do. A failure is written down there for the process that launched this one, and nothing is said.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from limoe.cli import EXIT_CODES, diagnose
from limoe.config import Params
from limoe.files import read_json, write_json
from limoe.interrupt import Interrupted, at_once
from limoe.paths import Paths
from limoe.stages import train
from limoe.stages.launch import ERROR, ORDER


def main(folder: Path) -> int:
    """Do a rank's part; the exit code."""
    order = read_json(folder / ORDER)
    try:
        with at_once():
            train.work(Params.parse(order["params"], str(folder / ORDER)), Paths(Path(order["root"])), order["contestant"])
    except Interrupted as told:
        return told.exit_code
    except Exception as error:
        kind, sentence = diagnose(error)
        word = {"kind": kind, "sentence": sentence, "traceback": traceback.format_exc()}
        write_json(folder / ERROR.format(rank=os.environ["RANK"]), word)
        return EXIT_CODES[kind]
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
