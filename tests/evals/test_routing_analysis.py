"""The routing analysis of tiny models: it records what the model decides, writes equal bytes twice, refuses what it cannot."""

import json

import numpy as np
import pytest
import torch
from evalkit import prepared_rows, tiny_params, write_model, write_prepared
from layoutkit import picture, tar
from modelkit import batch, moe, tower
from typer.testing import CliRunner

from limoe.cli import app
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.evals.routing import measures
from limoe.evals.routing.analysis import analyse, sample, speller
from limoe.evals.routing.pairs import open_pairs, selection_pairs
from limoe.evals.routing.routed import NO_ID, route
from limoe.evals.routing.stored import Analysis
from limoe.model.limoe import Limoe
from limoe.model.router import NoiseKey
from limoe.model.tokens import IMAGE, TEXT
from limoe.paths import Paths

CPU = torch.device("cpu")
ROUTERS = ("top-k", "loss-free", "expert-choice", "uniform")


@pytest.mark.parametrize("router", ROUTERS)
def test_two_batches_are_recorded_as_the_model_routes_them(router):
    model = Limoe(tower(), moe(router=router, capacity_factor=0.6, aux_weights={"load": 0.0}), 50).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = [batch(8, seed=1), batch(8, seed=2)]
    routed = route(model, groups, CPU)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    patches, words = model.tower.image_tokens, sum(int(one.lengths_B.sum()) for one in groups)
    assert (routed.of(IMAGE).sum(), routed.of(TEXT).sum()) == (16 * patches, words)
    assert routed.id_T[routed.of(TEXT)].tolist() == torch.cat([one.ids_N for one in groups]).tolist()
    assert set(routed.id_T[routed.of(IMAGE)]) == {NO_ID}
    lengths = [length for one in groups for length in one.lengths_B.tolist()]
    assert np.bincount(routed.pair_T[routed.of(TEXT)]).tolist() == lengths
    second = model(groups[1]).routings[3]
    mine = routed.pair_T >= 8
    assert np.allclose(routed.probs_LTE[1, mine], second.probs_TE.detach().numpy())
    if router != "expert-choice":
        assert (routed.chosen_LTE.sum(-1) == 1).all()
        assert routed.first_LT[1, mine].tolist() == second.expert_TK[:, 0].tolist()
    trained = model.train()(groups[1], NoiseKey(0, 0, first_group=1)).routings[3]
    assert routed.placed_LTE[1, mine].sum() == int(trained.placed_TK.sum())
    assert measures.lost(routed)[1, mine].tolist() == (~trained.placed_TK.any(1)).tolist()
    assert measures.lost(routed).any()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """(paths, params): a prepared set, a LIMoE of two MoE layers, a dense model, and a folder of pictures with captions."""
    root = tmp_path_factory.mktemp("project")
    paths, params = Paths(root), tiny_params("model.tower.depth=4", "model.moe.group_pairs=8")
    scenes = prepared_rows("val-scenes", 11, "scenes")
    write_prepared(paths.prepared, {"train": prepared_rows("train", 4), "val": prepared_rows("val", 9), "val-scenes": scenes})
    for kind in ("limoe", "dense"):
        write_model(paths.model(kind), paths.prepared / "tokenizer.json", params, kind)
    (root / "photos").mkdir()
    for number in range(5):
        (root / "photos" / f"{number}.png").write_bytes(picture(number))
    lines = [f"{number}.png\tname {number}" for number in range(5)]
    (root / "photos.tsv").write_text("\n".join(lines), encoding="utf-8")
    return paths, params


def test_whole_groups_of_all_validation_splits_are_looked_at_by_default(project):
    paths, _ = project
    data = selection_pairs(Prepared(paths.prepared))
    assert (data.name, len(data)) == ("val, val-scenes", 20)
    assert len(sample(data, 512, 8)) == 16
    assert len(sample(data, 5, 8)) == 5
    assert len(sample(data, 12, 0)) == 12
    assert len(selection_pairs(Prepared(paths.prepared), "val")) == 9


def test_the_numbers_fit_together_and_equal_runs_leave_equal_bytes(project, tmp_path):
    paths, _ = project
    data = selection_pairs(Prepared(paths.prepared))
    found = analyse(paths.model("limoe"), data, 512, CPU)
    numbers = found.numbers
    assert [layer["block"] for layer in numbers["layers"]] == [1, 3]
    assert [(one["from"], one["to"], one["modality"]) for one in numbers["agreement"]] == [(1, 3, "text"), (1, 3, "image")]
    for layer in numbers["layers"]:
        assert sum(layer["load"]["image"]) == numbers["data"]["tokens"]["image"] == 16 * 4
        assert sum(layer["load"]["text"]) == numbers["data"]["tokens"]["text"] == sum(numbers["texts_at"])
        assert len(layer["lost_at"]["image"]) == numbers["grid"] ** 2
        assert sum(layer["confidence"]["text"]["histogram"]) == pytest.approx(1, abs=1e-3)
    taken = {(one["block"], one["expert"]) for one in numbers["examples"] if one["patches"]}
    assert set(found.strips) == taken
    for folder in ("one", "two"):
        analyse(paths.model("limoe"), data, 512, CPU).save(tmp_path / folder)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    assert Analysis.load(tmp_path / "one") == found


def test_pieces_are_spelt_as_people_write_them(project):
    paths, _ = project
    spell = speller(paths.prepared / "tokenizer.json")
    known = json.loads((paths.prepared / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert spell(known["[EOS]"]) == "end of text"
    assert spell(known["▁name"]) == "name"
    assert spell(known["e"]) == "+e"


def run(*arguments):
    return CliRunner().invoke(app, ["routing", *map(str, arguments)])


def test_the_command_writes_a_page_stills_and_numbers_of_anybodys_pictures(project, tmp_path):
    paths, _ = project
    out = tmp_path / "out"
    out.mkdir()
    (out / "routing.json").write_text("{}", encoding="utf-8")  # an analysis of before may be replaced
    told = run(paths.model("limoe"), "--images", paths.root / "photos", "--captions", paths.root / "photos.tsv", "--out", out)
    assert told.exit_code == 0, told.output
    assert told.output.startswith("Of the experts in its 2 MoE layers, ")
    assert json.loads((out / "routing.json").read_text(encoding="utf-8"))["data"]["pairs"] == 5
    names = {path.name for path in out.iterdir()}
    assert names == {"routing.json", "routing.html", "patches", "load.png", "confidence.png", "dropped.png"} | {
        f"patches-{block}.png" for block in (1, 3)
    }
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names if name.endswith("png"))


def test_the_command_refuses_in_one_sentence(project, tmp_path):
    paths, _ = project
    model, photos, captions = paths.model("limoe"), paths.root / "photos", paths.root / "photos.tsv"
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x", encoding="utf-8")
    few = tmp_path / "few.tsv"
    few.write_text("0.png\ta\n9.png\tb\n", encoding="utf-8")
    tar(tmp_path / "tars", {"k": {"png": picture(0), "txt": b"a"}})
    tar(tmp_path / "silent", {"k": {"png": picture(0), "cls": b"1"}})
    refused = {
        "a model of kind dense routes nothing": (paths.model("dense"), "--images", photos, "--captions", captions),
        "no pictures here": (model, "--images", tmp_path / "empty", "--captions", captions),
        "no such file or folder": (model, "--images", tmp_path / "absent"),
        "captions without pictures": (model, "--captions", captions),
        "1 of 2 pictures that have captions are not there": (model, "--images", photos, "--captions", few),
        "no captions here": (model, "--images", photos),
        "--captions names the captions": (model, "--images", photos, "--captions", tmp_path / "absent.txt"),
        "brings its own captions": (model, "--images", tmp_path / "tars", "--captions", captions),
        "no picture here has a caption": (model, "--images", tmp_path / "silent"),
        "holds something else": (model, "--images", photos, "--captions", captions, "--out", tmp_path / "full"),
    }
    for sentence, arguments in refused.items():
        told = run(*arguments) if "--out" in arguments else run(*arguments, "--out", tmp_path / "out")
        assert (told.exit_code, sentence in told.output, told.output.count("\n")) == (2, True, 1), told.output


def test_without_a_validation_split_the_sentence_says_so(tmp_path):
    write_prepared(tmp_path / "data", {"train": prepared_rows("train", 4)})
    with pytest.raises(UserError, match="no validation split"):
        selection_pairs(Prepared(tmp_path / "data"))


def test_parquet_files_and_tars_bring_their_captions(tmp_path):
    tar(tmp_path / "tars", {f"s{n}": {"png": picture(n), "txt": f"a {n}".encode()} for n in range(3)})
    assert open_pairs(tmp_path / "tars", None, None).captions == (("a 0",), ("a 1",), ("a 2",))
