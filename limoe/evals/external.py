"""Test sets of the user's own, opened by kind; a kind more is one function and one line in KINDS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from limoe.config import EvalSetParams, TrainPictures
from limoe.data.formats.classes import Classes, in_order, read_classes, read_mapping, read_templates
from limoe.data.formats.folders import pictures_in, subfolders
from limoe.errors import UserError
from limoe.evals import captioned, imagenet
from limoe.evals.flat import flat_folder
from limoe.evals.layouts import Layout, class_folders, holds
from limoe.evals.packed import parquet, webdataset
from limoe.evals.sets import EvalSet

BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError, RecursionError, AttributeError, TypeError)  # the last two: odd JSON
MOST_TOLD = 300  # characters of what a library says
VALIDATION = ("val", "validation", "ILSVRC2012_img_val")  # what people call the folder that holds ImageNet's
TRAINING = ("train", "ILSVRC2012_img_train")


def open_set(name: str, params: EvalSetParams, project: Path) -> EvalSet:
    """The set `evaluate.sets.<name>`; no picture is opened yet. UserError in one sentence if it is not as its kind has to be."""
    try:
        data = KINDS[params.kind](name, params, project)
        return data if params.train is None else replace(data, train=_training(data, params, params.train, project))
    except UserError as error:
        raise UserError(f"evaluate.sets.{name}: {error}") from None
    except BROKEN as error:
        told = " ".join(str(error).split())[:MOST_TOLD]
        raise UserError(f"evaluate.sets.{name}: {params.path} has a broken file ({type(error).__name__}: {told})") from None


def _own_classes(name: str, params: EvalSetParams, project: Path) -> EvalSet:
    """Labels with names of the user's own, of the file's, or the labels themselves; or captions, where there are no labels."""
    layout = _open_layout(params, project)
    if all(label is None for label in layout.labels):
        return _eval_set(name, layout)
    file = params.classes
    classes = read_classes(project / file, layout.labels, layout.where) if file else _told_names(layout)
    prompts = read_templates(project / params.templates) if params.templates else {}
    return _eval_set(name, layout, classes, prompts)


def _told_names(layout: Layout) -> Classes:
    present = in_order(layout.labels)
    if layout.names:
        classes: Classes = {str(number): (told,) for number, told in enumerate(layout.names)}
        if unknown := [label for label in present if label not in classes]:
            raise UserError(f"{layout.where}: the label {unknown[0]} is none of the {len(classes)} classes that the file names")
        return classes
    if all(map(str.isdecimal, present)):
        raise UserError(f"{layout.where}: its classes are numbers; give their names with the set's key classes")
    return {label: (label.replace("_", " "),) for label in present}


def _imagenet(name: str, params: EvalSetParams, project: Path) -> EvalSet:
    """Labels are wnids, indices, or what the user's map (`classes`) gives wnids; names and prompts are open_clip's."""
    layout = _open_layout(params, project)
    if all(label is None for label in layout.labels):
        raise UserError(f"{layout.where}: its pictures have no labels")
    prompts = read_templates(project / params.templates) if params.templates else imagenet.prompts()
    if params.classes:
        classes = {label: imagenet.named(wnids) for label, wnids in read_mapping(project / params.classes).items()}
        return _eval_set(name, _kept(layout, classes, project / params.classes), classes, prompts)
    labels = tuple(imagenet.to_wnids([str(label) for label in layout.labels], layout.where, params.subset))
    candidates = imagenet.candidates(set(labels), layout.where, params.subset)
    return _eval_set(name, replace(layout, labels=labels), {wnid: (imagenet.names()[wnid],) for wnid in candidates}, prompts)


def _training(data: EvalSet, params: EvalSetParams, train: TrainPictures, project: Path) -> EvalSet:
    """The pictures that the set's probes learn from: those of its classes, each of which must have one.

    Numbers of ImageNet's count all its classes, whichever of them are tested.
    """
    if all(label is None for label in data.labels):
        raise UserError("train is of no use: the pictures of the set have no labels")
    told = EvalSetParams(path=train.path, kind=train.kind or params.kind, split=train.split, labels=train.labels)
    layout, labels = _open_layout(told, project, TRAINING), data.candidates
    one_place = _root(told, project, TRAINING).resolve() == _root(params, project, VALIDATION).resolve()
    if one_place and not set(layout.keys).isdisjoint(data.keys):
        raise UserError("train names the pictures that are tested; give another path or split")
    if told.kind == "imagenet" and params.classes is None:
        layout = replace(layout, labels=tuple(imagenet.to_wnids([str(label) for label in layout.labels], layout.where, None)))
    if absent := sorted(set(labels) - set(layout.labels)):
        raise UserError(f"train: {layout.where} has no picture of the class {absent[0]!r}")
    known = set(labels)
    return _eval_set(f"{data.name}/train", layout.take([row for row, label in enumerate(layout.labels) if label in known]))


def _root(params: EvalSetParams, project: Path, folders: Sequence[str]) -> Path:
    """Where the pictures are; for ImageNet's the first of these folders in the path, if there is one."""
    root = project / params.path
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    found = [root / folder for folder in folders if (root / folder).is_dir()]
    return found[0] if found and params.kind == "imagenet" else root


def _open_layout(params: EvalSetParams, project: Path, folders: Sequence[str] = VALIDATION) -> Layout:
    """By kind; ImageNet's layout is found out, in one of its `folders` if there is one: archives may lie beside it."""
    root = _root(params, project, folders)
    if params.labels:
        return flat_folder(root, project / params.labels)
    if params.kind == "parquet" or (params.kind == "imagenet" and holds(root, ".parquet")):
        return parquet(root, params.split)
    if params.kind == "webdataset" or (params.kind == "imagenet" and holds(root, ".tar")):
        return webdataset(root, params.split)
    if params.kind == "imagenet" and pictures_in(root) and not subfolders(root):
        return flat_folder(root, None)
    return class_folders(root)


def _kept(layout: Layout, classes: Classes, file: Path) -> Layout:
    """The pictures whose label is among the classes (ObjectNet has 200 that ImageNet lacks)."""
    if absent := [label for label in classes if label not in layout.labels]:
        raise UserError(f"{file}: maps the class {absent[0]!r}, of which {layout.where} has no picture")
    return layout.take([row for row, label in enumerate(layout.labels) if label in classes])


def _captions(opened: Callable[[Path, Path | None, str | None], Layout]) -> Callable[[str, EvalSetParams, Path], EvalSet]:
    def open_captions(name: str, params: EvalSetParams, project: Path) -> EvalSet:
        file = project / params.captions if params.captions else None
        return _eval_set(name, opened(project / params.path, file, params.split))

    return open_captions


def _eval_set(
    name: str, layout: Layout, classes: Classes | None = None, prompts: Mapping[str, tuple[str, ...]] | None = None
) -> EvalSet:
    return EvalSet(
        name, layout.keys, layout.pictures, layout.captions, layout.labels, layout.keys, classes=classes, prompts=prompts or {}
    )


KINDS: Mapping[str, Callable[[str, EvalSetParams, Path], EvalSet]] = {
    "imagenet": _imagenet,
    "folder": _own_classes,
    "parquet": _own_classes,
    "webdataset": _own_classes,
    "coco": _captions(captioned.coco),
    "flickr8k": _captions(captioned.flickr),
    "flickr30k": _captions(captioned.flickr),
}
