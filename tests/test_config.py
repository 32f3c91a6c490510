"""params.yaml: what it accepts, what it refuses and with which sentence, and what is derived from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from limoe.config import MoeParams, Params, TrainParams
from limoe.errors import UserError
from limoe.paramsfile import number_like, set_dotted
from limoe.paths import Paths, fingerprint


def changed(project: Path, *assignments: str) -> Params:
    return Params.load(project / "params.yaml", assignments)


def test_the_checked_in_file_is_valid_and_frozen(params: Params) -> None:
    assert params.train.batch % params.model.moe.group_pairs == 0
    with pytest.raises(ValueError, match="frozen"):
        params.train.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "assignment,sentence",
    [
        ("train.learning_rate=1", "unknown key train.learning_rate; allowed here: seed, threads"),
        ("train.stpes=1", "unknown key train.stpes; did you mean train.steps?"),
        ("trian.steps=1", "unknown key trian; did you mean train?"),
        ("model.tower.widht=64", "unknown key model.tower.widht; did you mean model.tower.width?"),
        ("compare.models={limoe: {path: m}}", "'limoe' is no name for a further contestant"),
        ("compare.models={a.b: {path: m}}", "'a.b' is no name for a further contestant"),
        ("compare.models={a: {paht: m}}", "compare.models.a.path is missing"),
        (
            "compare.models={a: {path: m, seed_of: b}}",
            "seed_of of a is 'b', which is no other contestant: limoe, dense, clip, a are",
        ),
        ("compare.models={a: {path: m, seed_of: limoe}, b: {path: m, seed_of: a}}", "itself a seed of another: name the first"),
        ("compare.fetched={a: {architecture: ViT-B-32}}", "compare.fetched.a.tag is missing"),
        ("compare.tuning={limo: 3}", "tuning.limo = 3: allowed are limoe, dense, clip"),
        ("train.steps=0", "train.steps = 0 is not allowed: input should be greater than or equal to 1"),
        ("train.lr=fast", "train.lr = 'fast' is not allowed: input should be a valid number"),
        ("train.lr=.nan", "train.lr = nan is not allowed"),
        (
            "train.schedule=cosin",
            "train.schedule = 'cosin' is not allowed: input should be 'cosine', 'rsqrt' or 'wsd'; did you mean cosine?",
        ),
        ("train.optimizer=adam", "train.optimizer = 'adam' is not allowed: input should be 'adamw', 'adafactor' or 'muon'"),
        ("train.lr_scale.routers=1", "unknown key train.lr_scale.routers; did you mean train.lr_scale.router?"),
        ("train.lr_scale.router=-1", "train.lr_scale.router = -1 is not allowed: input should be greater than or equal to 0"),
        ("train.ema=1", "train.ema = 1 is not allowed: input should be less than 1"),
        (
            "train.select_without={emoji: [vall]}",
            "= 'vall' is not allowed: input should be 'val', 'val-style' or 'val-scenes'; did you mean val?",
        ),
        ("train.select_without={emojis: [val]}", "train.select_without: no source 'emojis'; did you mean emoji?"),
        ("prepare.sets={a: {path: x, spilt: train}}", "unknown key prepare.sets.a.spilt; did you mean prepare.sets.a.split?"),
        (
            "prepare.sets={a: {path: x, columns: {foo: b}}}",
            "unknown key prepare.sets.a.columns.foo; allowed here: image, caption",
        ),
        ("evaluate.sets={a: {path: x, kind: folder, clases: y}}", "did you mean evaluate.sets.a.classes?"),
        ("compare.models={a: {path: m, kind: b}}", "unknown key compare.models.a.kind; allowed here: seed_of, samples, path"),
        ("prepare.clip_score={model: {path: m}, at_last: 0}", "prepare.clip_score.at_least is missing"),
        ("prepare.clip_score={model: {path: m}, at_least: 0, mdel: 1}", "did you mean prepare.clip_score.model?"),
        (
            "prepare.clip_score={model: {pth: m}, at_least: 0}",
            "prepare.clip_score.model: {'pth': 'm'} is not allowed: {path: ...} is, for",
        ),
        ("prepare.sources=emoji", "prepare.sources = 'emoji' is not allowed: input should be a valid list"),
        ("prepare.emoji.languages=[]", "prepare.emoji.languages = [] is not allowed: list should have at least 1 item"),
        ("machine.device=gpu", "machine.device: 'gpu' is not allowed: auto, cpu, cuda or cuda:N is, such as cuda:0"),
        ("train.batch=100", "train.batch (100) must be a multiple of model.moe.group_pairs (256)"),
        ("train.mixture={}", "train.mixture = {} is not allowed"),
        ("train.mixture={emoji: 0}", "one must be above 0"),
        ("model.tower.patch_size=7", "image_size (48) must be a multiple of patch_size (7)"),
        ("model.tower.heads=3", "must be a multiple of heads (3)"),
        ("model.moe.k=17", "k (17) must not exceed experts (16)"),
        ("model.moe.noise=0", "the load loss needs noise > 0"),
        ("model.moe.renormalise=true", "moe.renormalise with k = 1 makes every gate 1"),
        ("model.moe.tau_text=paper", "model.moe.tau_text = 'paper' is not allowed: input should be a valid number"),
        ("model.moe.tau_image=-1", "model.moe.tau_image = -1 is not allowed: input should be greater than or equal to 0"),
        ("train.compile=maybe", "train.compile: 'maybe' is not allowed: auto, true or false are"),
        ("prepare.scenes.min_pictures=4", None),
        ("prepare.scenes.max_pictures=1", "min_pictures (2) must not exceed max_pictures (1)"),
        ("prepare.sources=[scenes, emoji, scenes]", "prepare.sources: names 'scenes' twice"),
        ("prepare.max_pixels=200000000", "prepare.max_pixels = 200000000 is not allowed: input should be less than or equal to"),
        ("prepare.sets={a: {path: x, val_fraction: 0.95}}", "val_fraction + test_fraction must stay below 1"),
        ("prepare.sets={emoji: {path: x}}", "the name 'emoji' is taken by a source that comes with the package"),
        ("prepare.sets={My/Set: {path: x}}", "the name 'My/Set' must be of small letters"),
        (
            "prepare.sets={a: {path: x, kind: webdataset, images: i}}",
            "images is of no use to the kind webdataset",
        ),
        ("prepare.sets={a: {path: x, templates: [photo]}}", "must hold {} once"),
        ("evaluate.templates=['no place']", "the template 'no place' must hold {} once"),
        ("evaluate.probe.shots=[1, 1]", "evaluate.probe.shots: must not name a value twice"),
        ("evaluate.probe.shots=[0]", "evaluate.probe.shots.0 = 0 is not allowed"),
        ("evaluate.probe.l2=0", "evaluate.probe.l2 = 0 is not allowed: input should be greater than 0"),
        ("evaluate.probe.held_out=1", "evaluate.probe.held_out = 1 is not allowed: input should be less than 1"),
        ("evaluate.sets={a: {path: p, kind: coco, train: {path: q}}}", "train is of no use to the kind coco"),
        (
            "evaluate.sets={a: {path: p, kind: imagenet, train: {path: q, kind: folder, labels: l}}}",
            "train.labels is of use to the kind imagenet alone",
        ),
        ("contestants.vit={}", "contestants.vit"),
    ],
)
def test_a_wrong_value_is_refused_with_one_clear_sentence(project: Path, assignment: str, sentence: str | None) -> None:
    if sentence is None:
        changed(project, assignment)
        return
    with pytest.raises(UserError) as caught:
        changed(project, assignment)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "params.yaml" in str(caught.value)


def test_a_missing_key_is_named(project: Path) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    del values["train"]["lr"]
    with pytest.raises(UserError, match=r"^somewhere: train\.lr is missing$"):
        Params.parse(values, "somewhere")


def test_several_problems_are_counted(project: Path) -> None:
    with pytest.raises(UserError, match=r"\(and 1 more\)"):
        changed(project, "train.steps=0", "train.lr=0")


@pytest.mark.parametrize(
    "content,sentence",
    [
        (None, "no such file"),
        ("a: [", "not valid YAML"),
        ("- 1", "must be a mapping of sections, is list"),
        ("\xff\xfe", "not valid YAML"),
        ("train:\n  lr: 1\n  lr: 2\n", "not valid YAML (the key lr stands twice"),
    ],
)
def test_a_file_that_is_no_parameters_file(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        Params.load(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("schedule,fits", [("cosine", True), ("rsqrt", False), ("wsd", False)])
def test_warmup_and_cooldown_fit_into_the_steps_where_the_schedule_has_them(project: Path, schedule: str, fits: bool) -> None:
    phases = (f"train.schedule={schedule}", "train.steps=100", "train.warmup=60")
    assert changed(project, *phases, "train.cooldown=40").train.cooldown == 40
    if fits:
        assert changed(project, *phases, "train.cooldown=41").train.cooldown == 41
    else:
        with pytest.raises(UserError, match=r"warmup \(60\), and cooldown unless .* cosine, must fit into steps \(100\)"):
            changed(project, *phases, "train.cooldown=41")


def test_an_override_reads_numbers_as_people_write_them(project: Path) -> None:
    assert changed(project, "train.lr=1e-3").train.lr == 0.001
    assert changed(project, "prepare.emoji.limit=null").prepare.emoji.limit is None
    assert changed(project, "prepare.sources=[scenes, emoji]").prepare.sources == ("scenes", "emoji")


@pytest.mark.parametrize("assignment", ["train.lr", "=1", "train..lr=1", ".=1", "train.lr.x=1"])
def test_a_malformed_override_is_refused(project: Path, assignment: str) -> None:
    with pytest.raises(UserError, match="override"):
        changed(project, assignment)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers() | st.booleans() | st.none())
def test_an_override_lands_where_its_dots_say(keys: list[str], value: int | bool | None) -> None:
    values: dict[str, Any] = {}
    set_dotted(values, f"{'.'.join(keys)}={yaml.safe_dump(value).splitlines()[0]}")
    node: Any = values
    for key in keys:
        assert list(node) == [key]
        node = node[key]
    assert node == value


def test_number_like_leaves_text_alone() -> None:
    assert [number_like(value) for value in ("1e-3", "emoji", 3, None)] == [0.001, "emoji", 3, None]


def test_a_contestant_changes_only_its_own_recipe(project: Path) -> None:
    params = changed(project, "contestants.dense.lr=0.5")
    assert params.train_for("dense").lr == 0.5
    assert params.train_for("limoe") == params.train
    with pytest.raises(UserError, match=r"contestants\.clip: unknown key lrr; did you mean lr\?"):
        changed(project, "contestants.clip.lrr=1").train_for("clip")


def test_the_thresholds_are_the_papers_at_32_experts(params: Params) -> None:
    def thresholds(**changes: Any) -> tuple[float, float]:
        return MoeParams.model_validate({**params.model.moe.model_dump(), **changes}).thresholds

    assert thresholds(experts=32) == (math.log(9), math.log(20))
    assert thresholds(experts=16) == (math.log(5), math.log(10))  # 9 * 16 / 32 = 4.5, rounded up
    assert thresholds(experts=16, tau_text=0.0, tau_image=2.0) == (0.0, 2.0)


def test_derived_sizes(params: Params) -> None:
    assert params.model.tower.image_tokens == 36  # (48 / 8) squared
    assert params.model.tower.hidden == 4 * params.model.tower.width
    assert params.model.moe.sigma == 1 / 16
    assert set(params.model.moe.aux_weights.active()) == {"importance", "load", "z", "local_text", "global_text", "global_image"}


def test_a_fingerprint_names_content_and_nothing_else(params: Params) -> None:
    same = TrainParams.model_validate(params.train.model_dump())
    other = TrainParams.model_validate({**params.train.model_dump(), "lr": 0.1})
    assert fingerprint(train=params.train, data="x") == fingerprint(data="x", train=same)
    assert len({fingerprint(train=params.train), fingerprint(train=other), fingerprint(evaluate=params.train)}) == 3


def test_paths_lie_under_the_root() -> None:
    paths = Paths(Path("here"))
    places = [paths.sources, paths.prepared, paths.balance, paths.model("clip"), paths.evaluate("clip"), paths.report]
    places += [paths.work("x"), paths.timing("train-clip"), paths.error("train-clip")]
    assert len(set(places)) == len(places)
    assert all(place.parts[0] == "here" for place in places)
    assert paths.model("clip").is_relative_to(paths.train("clip"))


@pytest.mark.parametrize(
    "assignment, sentence",
    [
        ("contestants.limoe.seed=3", "contestants.limoe.seed: contestants see the same data"),
        ("contestants={limoe: {}, dense: {}}", "contestants.clip is missing"),
        ("train.mixture={pets: 1.0}", "train.mixture.pets: not among prepare.sources, which are emoji, scenes"),
        ("train.warmup=100000", "warmup .100000., and cooldown"),
        ("train.batch=100", "params.yaml: train.batch .100. must be a multiple"),
        ('evaluate.templates=["{}"', "is not a value in YAML"),
        ("train.start_from=2024-02-30", "'2024-02-30' is not a value in YAML"),
        ("train.seed=99999999999999999999", "train.seed = 99999999999999999999 is not allowed"),
        ("model.tower.mlp_ratio=0.001", "leaves the MLP no channel"),
        ("contestants.dense.lr=-1", "params.yaml: contestants.dense: lr = -1 is not allowed"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(project: Path, assignment: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        changed(project, assignment)
