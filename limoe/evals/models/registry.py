"""Which way a further contestant is opened, by what its settings name and what its folder holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from limoe.config import FetchedModel, LocalModel
from limoe.errors import UserError
from limoe.evals.models import huggingface, openclip, ours
from limoe.evals.models.opened import Opened
from limoe.files import read_json


def open_other(other: LocalModel | FetchedModel, root: Path, device: torch.device) -> Opened:
    """The contestant on `device`, in evaluation mode. root: what its path is relative to. UserError if there is nothing that can
    be opened; `Unfetchable` if weights cannot be fetched."""
    if isinstance(other, FetchedModel):
        opened = openclip.open_fetched(other.architecture, other.tag, device)
    else:
        opened = _open_local(root / other.path, other.architecture, device)
    return opened if other.samples is None else replace(opened, facts=replace(opened.facts, samples=other.samples))


def _open_local(path: Path, architecture: str | None, device: torch.device) -> Opened:
    if path.is_file():
        if architecture is None:
            raise UserError(f"{path}: a checkpoint needs the name of its architecture: architecture: ViT-B-32, say")
        return openclip.open_checkpoint(path, architecture, device)
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    if architecture is not None:
        raise UserError(f"{path}: a folder says itself what it holds; architecture belongs to a checkpoint")
    if (path / openclip.CONFIG).is_file():
        return openclip.open_folder(path, device)
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if "model_type" in config:
        return huggingface.open_transformers(path, config["model_type"], device)
    if "kind" in config:
        return ours.open_ours(path, None, device)
    if (path / "model" / "config.json").is_file():
        return ours.open_ours(path / "model", path, device)
    raise UserError(
        f"{path}: no model that is known: a training's folder (runs/train/NAME) or model directory of ours, a folder with "
        f"{openclip.CONFIG}, or one of transformers' with config.json"
    )
