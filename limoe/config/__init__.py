"""`params.yaml`, typed: one frozen model a section. A file for each; what others need of them is named here."""

from limoe.config.compare import CompareParams, FetchedModel, LocalModel
from limoe.config.duplicates import DuplicateParams
from limoe.config.evaluate import EvalSetParams, EvaluateParams, ProbeParams, TrainPictures, named_once
from limoe.config.filters import CaptionParams, ClipScoreParams, PictureParams
from limoe.config.machine import MachineParams
from limoe.config.model import AUX_TERMS, ClipParams, ModelParams, MoeParams, TowerParams
from limoe.config.params import Params
from limoe.config.prepare import BalanceParams, EmojiParams, FolderParams, PrepareParams
from limoe.config.section import Section
from limoe.config.train import CONTESTANTS, SHARED, Contestant, TrainParams

__all__ = [
    "AUX_TERMS",
    "CONTESTANTS",
    "SHARED",
    "BalanceParams",
    "CaptionParams",
    "ClipParams",
    "ClipScoreParams",
    "CompareParams",
    "Contestant",
    "DuplicateParams",
    "EmojiParams",
    "EvalSetParams",
    "EvaluateParams",
    "FetchedModel",
    "FolderParams",
    "LocalModel",
    "MachineParams",
    "ModelParams",
    "MoeParams",
    "Params",
    "PictureParams",
    "PrepareParams",
    "ProbeParams",
    "Section",
    "TowerParams",
    "TrainParams",
    "TrainPictures",
    "named_once",
]
