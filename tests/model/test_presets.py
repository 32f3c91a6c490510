"""Presets against the paper's table, parameters counted by hand, and the settings that the laptop ones are taken from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from limoe.config import Params
from limoe.errors import UserError
from limoe.model.clip import matched_text_width
from limoe.model.flops import active_parameters, total_parameters, tower_flops
from limoe.model.presets import LAPTOP, PAPER, PRESETS, Preset, find_preset
from limoe.overlay import load_document, merge
from limoe.placement import moe_layers

PUBLISHED = {  # depth, width, MLP, heads, image tokens, image:text ratio (rounded), total and active parameters
    "S/32": (8, 512, 2048, 8, 49, 3, 0.30e9, 44e6),
    "B/32": (12, 768, 3072, 12, 49, 3, 0.99e9, 113e6),
    "B/16": (12, 768, 3072, 12, 196, 12, 0.99e9, 112e6),
    "L/16": (24, 1024, 4096, 16, 196, 12, 3.5e9, 339e6),
    "H/14": (32, 1280, 5120, 16, 256, 16, 5.55e9, 676e6),
}
every_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)


def by_hand(preset: Preset) -> tuple[int, int]:
    """(all, active) parameters, added up piece by piece."""
    t, m = preset.tower, preset.moe
    d, f, v = t.width, t.hidden, t.embed_dim
    mlp = (d * f + f) + (f * d + d)
    attention, norms = (d * 3 * d + 3 * d) + (d * d + d), 2 * 2 * d
    sparse = len(moe_layers(t.depth, m.blocks))
    tables = preset.vocab_size * d + t.image_tokens * d + t.text_length * d
    patch = 3 * t.patch_size**2 * d + d
    outside = tables + patch + 2 * d + 2 * d * v + 1  # the final norm, two projections, the temperature
    shared = outside + t.depth * (attention + norms) + (t.depth - sparse) * mlp + sparse * d * m.experts
    return shared + sparse * m.experts * mlp, shared + sparse * m.k * mlp


@every_preset
def test_parameters_are_those_of_the_arithmetic(preset: Preset) -> None:
    model = preset.on_meta()
    assert (total_parameters(model), active_parameters(model, preset.moe.k)) == by_hand(preset)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_sizes_are_those_of_the_table(name: str) -> None:
    depth, width, hidden, heads, image_tokens, ratio, total, active = PUBLISHED[name]
    preset = PRESETS[name]
    tower, moe, model = preset.tower, preset.moe, preset.on_meta()
    assert (tower.depth, tower.width, tower.hidden, tower.heads, tower.image_tokens) == (
        depth,
        width,
        hidden,
        heads,
        image_tokens,
    )
    assert (tower.image_size, tower.text_length, preset.vocab_size) == (224, 16, 32_000)
    assert round(tower.image_tokens / tower.text_length) == ratio
    assert total_parameters(model) == pytest.approx(total, rel=0.02)
    assert active_parameters(model, 1) == pytest.approx(active, rel=0.02)
    assert (moe.experts, moe.k, moe.router, moe.capacity_factor, moe.priority, moe.noise) == (32, 1, "top-k", 1.05, "bpr", 1.0)
    assert set(moe.aux_weights.active()) == {"importance", "load", "z", "local_text", "global_text", "global_image"}
    assert set(moe.aux_weights.active().values()) == {1.0}
    assert (moe.aux_coefficient, moe.aux_rule, moe.tau_text, moe.tau_image) == (0.04, "average", None, None)
    assert preset.made_for == PAPER


def test_the_sparse_blocks_of_the_papers_sizes() -> None:
    layers = {name: moe_layers(PRESETS[name].tower.depth, PRESETS[name].moe.blocks) for name in PUBLISHED}
    assert layers["S/32"] == [1, 3, 5, 7]
    assert layers["B/32"] == layers["B/16"] == [1, 3, 5, 7, 9, 11]
    assert len(layers["L/16"]) == 12
    assert layers["H/14"] == [9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31]  # the odd ones of the last 24


def test_learning_rates_are_those_of_v_moe_by_size() -> None:
    assert {name: PRESETS[name].lr for name in PUBLISHED} == {
        "S/32": 1e-3,
        "B/32": 8e-4,
        "B/16": 8e-4,
        "L/16": 4e-4,
        "H/14": 3e-4,
    }


def test_nothing_is_allocated() -> None:
    class Watch(TorchDispatchMode):
        real = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.device.type != "meta":
                self.real += out.numel()
            return out

    with Watch() as watch:
        model = PRESETS["H/14"].on_meta()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert watch.real <= 1  # the temperature's starting value


def overlaid(project: Path, preset: Preset) -> Params:
    document = load_document(project / "params.yaml")
    merge(document, preset.overlay())
    return Params.parse(document, preset.name)


@every_preset
def test_a_preset_is_an_overlay_that_trains(project: Path, preset: Preset) -> None:
    params = overlaid(project, preset)
    assert (params.model.tower, params.model.moe, params.train.lr) == (preset.tower, preset.moe, preset.lr)
    assert params.prepare.tokenizer.vocab_size == preset.vocab_size
    target = tower_flops(preset.tower, [preset.tower.text_length])
    assert matched_text_width(preset.tower, params.model.clip, target) > 0


def test_the_laptop_preset_is_the_default_model_and_debug_that_of_its_overlay(params: Params, debug_params: Params) -> None:
    for name, settings in (("laptop", params), ("debug", debug_params)):
        preset = PRESETS[name]
        assert (preset.tower, preset.moe) == (settings.model.tower, settings.model.moe)
        assert (preset.vocab_size, preset.lr) == (settings.prepare.tokenizer.vocab_size, settings.train.lr)


@every_preset
def test_figures_are_given_only_where_they_were_measured(project: Path, preset: Preset) -> None:
    record = (project / "README.md").read_text() + (project / "LOG.md").read_text()
    for told in filter(None, (preset.time, preset.score)):
        for figure in re.findall(r"\d+\.\d+|\d[\d,]*(?= (?:s|steps|pairs)\b)", told):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]\d)", record) or preset.name == "debug", figure
    assert (preset.hardware is None) == (preset.made_for != LAPTOP)


@pytest.mark.parametrize(
    "name,hint",
    [
        ("B16", "did you mean B/16?"),
        ("h/14", "did you mean H/14?"),
        ("latpop", "did you mean laptop?"),
        ("zzz", "there are S/32, B/32, B/16, L/16, H/14, laptop, laptop-wide, debug"),
    ],
)
def test_an_unknown_preset_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        find_preset(name)
    assert str(caught.value).startswith(f"{name}: no such preset; {hint} ")
