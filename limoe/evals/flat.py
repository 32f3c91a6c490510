"""ImageNet's validation pictures in one flat folder, with the devkit's ground truth or with a list of pictures and classes.

The devkit numbers the classes in an order of its own, which is not that of the wnids: its `meta.mat` tells which is which.
"""

from __future__ import annotations

import re
from pathlib import Path

from limoe.data.formats.folders import pictures_in
from limoe.errors import UserError
from limoe.evals.layouts import Layout, of_files

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
LISTS = (TRUTH, "LOC_val_solution.csv", "val.txt", "labels.csv", "labels.txt")
DEVKIT = "ILSVRC2012_devkit_t12/data"
META = "meta.mat"


def flat_folder(root: Path, given: Path | None) -> Layout:
    """`root/*.JPEG`. given: its ground truth or list; by default one of LISTS in the folder, beside it or in a devkit there.

    A ground truth is a line a picture, its devkit number, in the order of the pictures' numbers; a list has a picture and a class
    (wnid or label) a line, whatever parts them, and any more is ignored.
    """
    pictures, truth = pictures_in(root), given or _find(root)
    try:
        lines = truth.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{truth}: no list of classes that can be read ({error})") from None
    rows = [row for line in lines if (row := [part for part in re.split(r"[,;\s]+", line.strip()) if part])]
    if all(len(row) == 1 for row in rows):
        labels = _numbered(pictures, [row[0] for row in rows], truth)
    else:
        told = {Path(row[0]).stem: row[1] for row in rows if len(row) > 1}
        if unknown := [path for path in pictures if path.stem not in told]:
            raise UserError(f"{truth}: has no class for the picture {unknown[0].name} of {root}")
        labels = [told[path.stem] for path in pictures]
    return of_files(root, pictures, labels)


def devkit_order(meta: Path) -> dict[str, str]:
    """The devkit's numbers -> wnids, of the classes without children, from its meta.mat; UserError if it is not that file."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        rows = [(row["ILSVRC2012_ID"], row["WNID"], row["num_children"]) for row in synsets]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{meta}: not the devkit's list of classes, which must lie beside {TRUTH} ({error})") from None
    return {str(int(number)): str(wnid) for number, wnid, children in rows if int(children) == 0}


def _find(root: Path) -> Path:
    places = [folder / part for folder in (root, root.parent) for part in ("", "data", DEVKIT)]
    found = [place / name for place in places for name in LISTS if (place / name).is_file()]
    if not found:
        raise UserError(
            f"{root}: pictures in one flat folder need their classes; put the devkit's {TRUTH} and {META}, or a list of pictures "
            "and wnids, beside them, or name it with the set's key labels"
        )
    return found[0]


def _numbered(pictures: list[Path], numbers: list[str], truth: Path) -> list[str]:
    """Each picture's wnid: the picture number N (the last digits of its name) has line N."""
    order = devkit_order(truth.with_name(META))
    places = [re.search(r"(\d+)$", path.stem) for path in pictures]
    if [int(place[1]) for place in places if place] != list(range(1, len(numbers) + 1)):
        raise UserError(
            f"{truth}: its {len(numbers)} lines belong to pictures numbered from 1 to {len(numbers)}, which the {len(pictures)} "
            "pictures are not"
        )
    if unknown := sorted(set(numbers) - set(order)):
        raise UserError(f"{truth}: the class number {unknown[0]} is not in {META}")
    return [order[number] for number in numbers]
