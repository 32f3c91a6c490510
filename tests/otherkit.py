"""For the tests of further contestants: a CLIP that is built in a moment, saved by open_clip in each accepted form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import factory
from open_clip.push_to_hf_hub import save_config_for_hf
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

NAME = "tiny-test"
CONFIG: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@contextmanager
def registered(folder: Path) -> Iterator[None]:
    """open_clip knows the tiny architecture by its name, for the body."""
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    before = list(factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder / f"{NAME}.json")
    try:
        yield
    finally:
        factory._MODEL_CONFIG_PATHS[:] = before
        factory._MODEL_CONFIGS.pop(NAME)


def tiny_clip(seed: int = 0) -> Any:
    """The tiny CLIP, registered or not, with weights of this seed."""
    torch.manual_seed(seed)
    model: Any = open_clip.CLIP(**CONFIG)
    model.visual.image_mean, model.visual.image_std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return model.eval()


def save_forms(model: Any, folder: Path) -> dict[str, Path]:
    """The model in each form that open_clip writes: by its name."""
    forms = {name: folder / name for name in ("plain.pt", "training.pt", "plain.safetensors", "folder")}
    torch.save(model.state_dict(), forms["plain.pt"])
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped}, forms["training.pt"])
    save_file(model.state_dict(), forms["plain.safetensors"])
    forms["folder"].mkdir()
    save_file(model.state_dict(), forms["folder"] / "open_clip_model.safetensors")
    save_config_for_hf(model, forms["folder"] / "open_clip_config.json", CONFIG)
    return forms


def picture(colour: tuple[int, int, int] = (200, 90, 30), size: tuple[int, int] = (40, 24)) -> bytes:
    """A PNG of a gradient over one colour."""
    image = Image.new("RGB", size, colour)
    for x in range(size[0]):
        image.putpixel((x, x % size[1]), (255 - 5 * x, 5 * x, 77))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def by_hand(model: Any, image: bytes, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The picture's embedding with the preprocessing written out: shortest side, middle square, mean and deviation."""
    opened = Image.open(BytesIO(image)).convert("RGB")
    width, height = opened.size
    scaled = opened.resize((16 * width // min(opened.size), 16 * height // min(opened.size)), Image.Resampling.BICUBIC)
    left, top = round((scaled.width - 16) / 2), round((scaled.height - 16) / 2)
    pixels = torch.tensor(list(scaled.crop((left, top, left + 16, top + 16)).get_flattened_data()))
    x = (pixels.float().div(255) - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        return model.encode_image(x.reshape(16, 16, 3).permute(2, 0, 1)[None])
