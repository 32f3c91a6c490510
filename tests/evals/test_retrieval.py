"""Retrieval against a brute-force count and by hand: several captions a picture, shared captions, ties, tiles."""

import numpy as np
import pytest
import torch
from evalkit import TableModel, encoder, eval_set, slow_ranks, unit
from torchmetrics.functional.retrieval import retrieval_hit_rate

from limoe.evals import ranking
from limoe.evals.retrieval import Retrieval
from limoe.evals.sets import result_rows


def hits(outcome):
    return {metric: values for items in outcome.items for metric, values in items.values.items()}


def random_case(seed, pictures=40, captions=70):
    """Every picture has one caption or more, and some captions belong to two pictures."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn(captions, 6, generator=generator)
    owners = [[caption % pictures] for caption in range(captions)]
    for caption in range(0, captions, 9):
        owners[caption].append((caption * 7 + 3) % pictures)
    lists = [[caption for caption in range(captions) if picture in owners[caption]] for picture in range(pictures)]
    images = torch.stack([texts[mine].mean(0) for mine in lists]) + torch.randn(pictures, 6, generator=generator)
    return TableModel(images, texts), [[f"t{caption}" for caption in mine] for mine in lists], lists


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("seed", range(3))
def test_recall_equals_a_brute_force_count(seed, tied):
    model, captions, lists = random_case(seed)
    if tied:  # few directions: many cosines are equal, and the others far apart
        model = TableModel(model.images_ND.sign()[:, :3], model.texts_MD.sign()[:, :3])
    evaluator = Retrieval("val", eval_set(captions), 1024)
    found = hits(evaluator.run(encoder(model)))
    order = [int(text[1:]) for text in evaluator.captions]
    scores = (unit(model.images_ND) @ unit(model.texts_MD[order]).T).numpy()
    i2t = slow_ranks(scores, [{order.index(caption) for caption in mine} for mine in lists])
    t2i = slow_ranks(scores.T, [{row for row, mine in enumerate(lists) if caption in mine} for caption in order])
    for depth in (1, 5, 10):
        assert found[f"i2t_r{depth}"].tolist() == [rank < depth for rank in i2t]
        assert found[f"t2i_r{depth}"].tolist() == [rank < depth for rank in t2i]
    assert 0 < found["i2t_r10" if tied else "i2t_r1"].mean() < 1


@pytest.mark.parametrize("seed", range(2))
def test_untied_recall_is_torchmetrics_hit_rate(seed):
    model, captions, lists = random_case(seed)
    evaluator = Retrieval("val", eval_set(captions), 1024)
    found = hits(evaluator.run(encoder(model)))
    order = [int(text[1:]) for text in evaluator.captions]
    scores = unit(model.images_ND) @ unit(model.texts_MD[order]).T
    belongs = torch.tensor([[caption in mine for caption in order] for mine in lists])
    for direction, preds, target in (("i2t", scores, belongs), ("t2i", scores.T, belongs.T)):
        for depth in (1, 5, 10):
            expected = [float(retrieval_hit_rate(*one, top_k=depth)) for one in zip(preds, target, strict=True)]
            assert found[f"{direction}_r{depth}"].tolist() == expected


def test_several_captions_by_hand():
    """Picture 0 points right, picture 1 up. Captions: t0 right, t1 up (both picture 0's), t2 diagonal (picture 1's)."""
    model = TableModel(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    found = hits(Retrieval("val", eval_set([["t0", "t1"], ["t2"]]), 8).run(encoder(model)))
    assert found["i2t_r1"].tolist() == [1, 0]  # t0 is picture 0's best; picture 1 likes t1 better than its own t2
    assert found["i2t_r5"].tolist() == [1, 1]
    assert found["t2i_r1"].tolist() == [1, 0, 0]  # t1 finds picture 1; t2 is as near to both, which counts against the model


def test_a_shared_caption_belongs_to_all_that_carry_it():
    model = TableModel(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]]), torch.tensor([[0.1, 1.0], [-1.0, 0.0]]))
    evaluator = Retrieval("val", eval_set([["t0"], ["T0 "], ["t1", "t1"]], groups=["b", "a", "c"]), 8)
    outcome = evaluator.run(encoder(model))
    assert evaluator.captions == ["t0", "t1"]
    assert hits(outcome)["t2i_r1"].tolist() == [1, 1]
    assert hits(outcome)["i2t_r1"].tolist() == [1, 1, 1]
    assert outcome.items[1].groups == ("a", "c")


def test_pictures_without_captions_are_neither_scored_nor_candidates():
    """Each picture points its own way, and so does its caption; that of picture 4 points to picture 1, which has none."""
    images = torch.eye(6)
    model = TableModel(images, images[[0, 2, 1]])
    outcome = Retrieval("val", eval_set([["t0"], [], ["t1"], [], ["t2"], []]), 2).run(encoder(model))
    found = hits(outcome)
    assert outcome.items[0].keys == ("k0", "k2", "k4")
    assert outcome.items[0].groups == ("g0", "g2", "g4")
    assert outcome.items[1].groups == ("g0", "g2", "g4")
    assert found["i2t_r1"].tolist() == [1, 1, 0]  # picture 4 is as far from its own caption as from the others
    assert found["t2i_r1"].tolist() == [1, 1, 0]
    assert found["t2i_r5"].tolist() == [1, 1, 1]
    assert {score.n for score in outcome.scores()[:-1]} == {3}
    perfect = TableModel(images, images[[0, 2, 4]])
    found = hits(Retrieval("val", eval_set([["t0"], [], ["t1"], [], ["t2"], []]), 2).run(encoder(perfect)))
    assert all(values.tolist() == [1, 1, 1] for values in found.values())


def test_how_many_pictures_have_no_caption_is_told():
    model = TableModel(torch.eye(4), torch.eye(4))
    outcome = Retrieval("val", eval_set([["t0"], [], ["t2"], []]), 2).run(encoder(model))
    assert result_rows([outcome])[-1] == {"set": "val", "metric": "uncaptioned", "value": 0.5, "n": 4}
    assert Retrieval("val", eval_set([["t0"], ["t1"]]), 2).run(encoder(model)).extra == ()


@pytest.mark.parametrize("noise", [0.0, 1e-7], ids=["equal", "equal but for rounding"])
def test_a_collapsed_model_retrieves_nothing(noise):
    same = torch.ones(30, 4) + noise * torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    captions = [[f"t{number}"] for number in range(30)]
    found = hits(Retrieval("val", eval_set(captions), 7).run(encoder(TableModel(same, same))))
    assert all(values.sum() == 0 for values in found.values())


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_tiles_equal_the_whole_and_stay_small(chunk, monkeypatch):
    model, captions, _ = random_case(5)
    whole = hits(Retrieval("val", eval_set(captions), 1024).run(encoder(model)))
    sizes = []
    plain = ranking.similarity

    def watched(a, b):
        sizes.append(len(a) * len(b))
        return plain(a, b)

    monkeypatch.setattr("limoe.evals.retrieval.similarity", watched)
    cut = hits(Retrieval("val", eval_set(captions), chunk).run(encoder(model)))
    assert max(sizes) <= chunk**2
    assert sum(sizes) == 40 * 70  # every score once, for both directions
    for metric, values in whole.items():
        np.testing.assert_array_equal(cut[metric], values)
