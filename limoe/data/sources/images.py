"""An image as a row has it: bytes, a data URI, or a path that must not lead out of the folder of images."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from limoe.data.addresses import is_remote
from limoe.data.verify import BadImage

MAX_BYTES = 256 << 20  # of one picture; it is read whole
DATA = "data:"


def inside(path: str) -> str:
    """The path, normalised; BadImage if it leads out of the folder that it starts from, or is on the web."""
    if is_remote(path):
        raise BadImage("not-local", "an address on the web; download the pictures first, with img2dataset for one")
    path = posixpath.normpath(path.replace("\\", "/"))
    if path.startswith("/") or path.split("/")[0] == "..":
        raise BadImage("path-escape", "does not lie in the folder of images")
    return path


def decoded(uri: str) -> bytes:
    """The bytes of `data:[TYPE][;base64],DATA`; BadImage if it is no such thing."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise BadImage("bad-data-uri", "no comma behind its type")
    try:
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:  # no base64, or half a surrogate pair
        raise BadImage("bad-data-uri", f"its data do not decode ({error})") from None


@dataclass(frozen=True)
class ImageFolder:
    """Where the paths of a set start. folder: links may lead within it, and below `root` into DVC's cache, nowhere else."""

    folder: Path
    root: Path

    def fetch(self, value: Any) -> bytes:
        """The encoded picture that a column's value is or names; BadImage says why there is none."""
        if isinstance(value, Mapping):  # as Hugging Face has them: the bytes, or else where they are
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str):
            value = decoded(value) if value.startswith(DATA) else self.read(inside(value.strip()))
        if not isinstance(value, bytes):
            raise BadImage("no-image", "no bytes, path or data URI of a picture")
        if len(value) > MAX_BYTES:
            raise BadImage("too-many-bytes", f"{len(value)} bytes; allowed are {MAX_BYTES}")
        return value

    def read(self, path: str) -> bytes:
        """The content of the file at a path that is `inside`; BadImage if it is missing, unreadable, too large, or elsewhere."""
        try:
            file = self.folder / path
            if not file.is_file():
                raise BadImage("missing-file", "no such file in the folder of images")
            if not self._confined(file):
                raise BadImage("path-escape", "a link that leads out of the folder of images")
            if (size := file.stat().st_size) > MAX_BYTES:
                raise BadImage("too-many-bytes", f"{size} bytes; allowed are {MAX_BYTES}")
            return file.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL or half a surrogate pair in the path
            raise BadImage("unreadable", getattr(error, "strerror", None) or type(error).__name__) from None

    def _confined(self, file: Path) -> bool:
        target = file.resolve()
        return any(target.is_relative_to(place.resolve()) for place in (self.folder, self.root / ".dvc"))
