"""`params.yaml`, typed: one frozen model a section. A file for each; what others need of them is named here."""

from limoe.config.compare import CompareParams, FetchedModel, LocalModel
from limoe.config.duplicates import DuplicateParams
from limoe.config.evaluate import EvalSetParams, EvaluateParams, ProbeParams, TrainPictures, named_once
from limoe.config.filters import CaptionParams, ClipScoreParams, PictureParams
from limoe.config.machine import MachineParams
from limoe.config.model import AUX_TERMS, PRIORITIES, ClipParams, ModelParams, MoeParams, Priority, TowerParams
from limoe.config.params import Params
from limoe.config.prepare import BalanceParams, EmojiParams, PrepareParams
from limoe.config.section import Section
from limoe.config.sets import ColumnParams, SetParams
from limoe.config.train import CONTESTANTS, SELECTION_SPLITS, SHARED, Contestant, TrainParams

__all__ = [
    "AUX_TERMS",
    "CONTESTANTS",
    "PRIORITIES",
    "SELECTION_SPLITS",
    "SHARED",
    "BalanceParams",
    "CaptionParams",
    "ClipParams",
    "ClipScoreParams",
    "ColumnParams",
    "CompareParams",
    "Contestant",
    "DuplicateParams",
    "EmojiParams",
    "EvalSetParams",
    "EvaluateParams",
    "FetchedModel",
    "LocalModel",
    "MachineParams",
    "ModelParams",
    "MoeParams",
    "Params",
    "PictureParams",
    "PrepareParams",
    "Priority",
    "ProbeParams",
    "Section",
    "SetParams",
    "TowerParams",
    "TrainParams",
    "TrainPictures",
    "named_once",
]
