"""`limoe info`: what it prints for people and for programs, and what it refuses, with which sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml
from dockit import DOCS, table

from limoe import cli
from limoe.config import Params
from limoe.data.tokenizer import Tokenizer
from limoe.info.facts import find_model
from limoe.info.tables import scaled
from limoe.model.presets import PRESETS
from limoe.report.published import ROWS


def limoe(*arguments: str, columns: int = 160) -> Any:
    return typer.testing.CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def facts(*arguments: str) -> Any:
    result = limoe("info", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_preset_for_programs() -> None:
    told = facts("B/16", "--batch", "32")
    assert (told["image_tokens"], told["text_tokens"], told["tokens_per_pair"]) == (196, 16, 212)
    assert told["image_tokens_per_text_token"] == 12.25
    assert told["moe_blocks"] == [1, 3, 5, 7, 9, 11]
    assert told["flops_per_pair_training"] == 3 * told["flops_per_pair_forward"]
    # 12 blocks of a token: 8 D^2 + 4 D F multiply-adds twice over, at 212 tokens; attention, router, patches, projections add 4%
    blocks = 12 * 212 * (8 * 768**2 + 4 * 768 * 3072)
    assert blocks < told["flops_per_pair_forward"] < 1.05 * blocks
    memory = told["memory_bytes"]
    assert memory["weights"] == memory["gradients"] == memory["moments"] / 2 == 4 * told["params_total"]
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")
    twice = facts("B/16", "--batch", "64")["memory_bytes"]
    assert twice["activations"] == pytest.approx(2 * memory["activations"], rel=1e-9)
    assert "training" not in told


def test_the_price_of_a_training() -> None:
    told = facts("B/16", "--samples", "12.8e9", "--gpus", "64")
    assert told["training"]["flops"] == pytest.approx(3 * told["flops_per_pair_forward"] * 12.8e9)
    assert told["training"]["days"] == pytest.approx(told["training"]["flops"] / (64 * 0.4 * 989e12) / 86_400)
    other = facts("B/16", "--samples", "12.8e9", "--gpus", "64", "--mfu", "0.2", "--tflops", "1978")
    assert other["training"]["days"] == pytest.approx(told["training"]["days"])


def test_without_a_name_all_are_listed_on_a_terminal_of_80_columns() -> None:
    assert [told["name"] for told in facts()] == list(PRESETS)
    shown = limoe("info", "--samples", "1e9", columns=80)
    lines = shown.stdout.splitlines()
    for name in PRESETS:
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    assert "…" not in shown.stdout
    assert "989 TFLOP/s (H100 SXM" in " ".join(shown.stdout.split())
    assert shown.stderr == "next: limoe info PRESET\n"


def test_a_preset_for_people_says_what_its_figures_assume() -> None:
    shown = limoe("info", "H/14", "--samples", "1e9")
    text = " ".join(shown.stdout.split())
    for part in ("5.55 G", "676 M", "16:1", "12 of 32 blocks", "9, 11, 13", "AdamW", "no activation checkpointing", "bfloat16"):
        assert part in text
    published = next(row.imagenet for row in ROWS if row.model == "LIMoE H/14")
    assert f"{published} published, zero-shot, on other data" in text
    assert shown.stderr == "next: limoe info H/14 --yaml > own.yaml; limoe params --overlay own.yaml\n"


def test_a_measured_preset_says_what_was_measured() -> None:
    text = " ".join(limoe("info", "laptop").stdout.split())
    for told in (PRESETS["laptop"].hardware, PRESETS["laptop"].time, PRESETS["laptop"].score):
        assert str(told) in text
    assert "measured" not in limoe("info", "S/32").stdout


def test_your_own_file_is_described_like_a_preset(project: Path, tmp_path: Path) -> None:
    path = str(project / "params.yaml")
    mine, laptop = facts(path), facts("laptop")
    named = {"name", "made_for", "hardware", "time", "score"}
    assert {key: mine[key] for key in mine.keys() - named} == {key: laptop[key] for key in laptop.keys() - named}
    changed = facts(path, "--set", "model.moe.blocks=last-3", "--set", "train.batch=512", "--set", "contestants.limoe.lr=0.5")
    assert (changed["moe_blocks"], changed["batch"], changed["lr"]) == ([1, 2, 3], 512, 0.5)
    clips = Tokenizer.train(["a cat"], "open_clip", 64).vocab_size
    assert facts(path, "--set", "prepare.tokenizer.kind=open_clip")["vocab_size"] == clips
    assert limoe("info", path).stderr == "next: dvc repro\n"


def test_the_router_auto_needs_its_suggestion(project: Path, tmp_path: Path) -> None:
    shutil.copy(project / "params.yaml", tmp_path)  # where nothing has run
    refused = limoe("info", str(tmp_path / "params.yaml"), "--set", "model.moe.router=auto")
    assert refused.exit_code == 2
    assert "run `limoe balance` first" in refused.stderr


def test_a_preset_becomes_settings(project: Path, tmp_path: Path) -> None:
    own, params = tmp_path / "own.yaml", tmp_path / "params.yaml"
    params.write_text((project / "params.yaml").read_text())
    own.write_text(limoe("info", "H/14", "--yaml").stdout)
    assert limoe("params", "--params", str(params), "--overlay", str(own)).exit_code == 0
    model = Params.load(params).model
    assert (model.tower, model.moe) == (PRESETS["H/14"].tower, PRESETS["H/14"].moe)
    assert yaml.safe_load(own.read_text())["model"]["moe"]["blocks"] == list(range(9, 32, 2))
    assert find_model(str(params))[0].lr == 3e-4


def test_the_page_says_what_the_command_says() -> None:
    told = {name: cells for name, *cells in table(DOCS / "presets.md", "preset")}
    assert list(told) == list(PRESETS)
    for found in facts():
        assert told[found["name"]] == [
            "/".join(str(found[part]) for part in ("depth", "width", "hidden", "heads")),
            f"{found['k']} of {found['experts']}",
            f"{found['image_tokens']}, {found['text_tokens']}",
            *(scaled(found[part]) for part in ("params_total", "params_active", "flops_per_pair_forward")),
            f"{found['lr']:g}",
        ]


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        (("B16",), "B16: no such preset; did you mean B/16? (a file of parameters ends in .yaml)"),
        (("B/16", "--gpus", "8"), "--gpus says how fast a training is: name its length too, as in --samples 12.8e9"),
        (("B/16", "--samples", "0"), "--samples must be a number above 0"),
        (("B/16", "--samples", "1", "--mfu", "2"), "--mfu 2: must be above 0 and at most 1"),
        (("B/16", "--batch", "0"), "--batch 0: must be at least 1 pair"),
        (("B/16", "--set", "train.lr=1"), "--set changes a file of parameters, and B/16 is a preset"),
        (("--yaml",), "--yaml needs a model: limoe info NAME"),
        (("--set", "train.lr=1"), "--set needs a model"),
        (("nowhere.yaml",), "nowhere.yaml: no such file"),
    ],
)
def test_what_makes_no_sense_is_refused_with_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = limoe("info", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {sentence}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_file_with_a_mistake_is_refused_as_everywhere(project: Path) -> None:
    result = limoe("info", str(project / "params.yaml"), "--set", "model.moe.blocks=[9]")
    assert (result.exit_code, "block 9 does not exist: a tower of depth 4" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "number,unit,text",
    [
        (0, "", "0"),
        (999, "B", "999 B"),
        (1000, "B", "1 kB"),
        (999_400, "", "999 k"),
        (999_600, "", "1 M"),
        (991_741_442, "", "992 M"),
        (37.7e9, "", "37.7 G"),
        (2.16e12, "B", "2.16 TB"),
    ],
)
def test_numbers_have_three_digits_and_a_prefix(number: float, unit: str, text: str) -> None:
    assert scaled(number, unit) == text
