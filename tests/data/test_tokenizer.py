from __future__ import annotations

import json
import math
import random
import string
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pipeline
from tokenizers import models, trainers

from limoe.data import tokenizer
from limoe.data.tokenizer import ALPHABET, PAD_ID, Tokenizer, fold
from limoe.errors import UserError
from limoe.model import tokens
from limoe.model.tokens import flat_ids

THINGS = [
    "Grinning face",
    "red apple",
    "waving hand: medium-light skin tone",
    "Côte d’Ivoire",
    "cat",
    "dog",
    "o'clock",
    "twelve o’clock",
]
CAPTIONS = [f"{a} {relation} {b}, {a}!" for a, b, relation in product(THINGS, THINGS, ("left of", "above"))]
KINDS = ("bpe", "unigram")


@cache
def trained(kind: str) -> Tokenizer:
    return Tokenizer.train(CAPTIONS, kind, 300)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_the_file_says_so(kind: str) -> None:
    tokenizer = trained(kind)
    saved = json.loads(tokenizer.to_json())
    assert [(token["id"], token["content"]) for token in saved["added_tokens"]] == [(0, "[PAD]"), (1, "[EOS]"), (2, "[UNK]")]
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert PAD_ID == tokens.PAD_ID == 0
    assert 36 < tokenizer.vocab_size <= 300


@given(st.text(max_size=30) | st.text(string.printable, max_size=30) | st.sampled_from(CAPTIONS))
@settings(max_examples=300, deadline=None)
def test_texts_are_compared_as_the_saved_pipeline_normalises_them(text: str) -> None:
    normalizer = Pipeline.from_str(trained("bpe").to_json()).normalizer
    assert fold(text) == normalizer.normalize_str(text)


def test_folding_by_hand() -> None:
    assert fold("  Côte  d’Ivoire\n") == fold("CÔTE D'IVOIRE") == "côte d'ivoire"
    assert fold("“Ａ”\t①") == '"a" 1'


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=40) | st.sampled_from(["[PAD]", "a [PAD] b [EOS]", "", "  ", *CAPTIONS]), max_size=4),
    length=st.integers(2, 30),
)
def test_every_text_ends_once_and_holds_no_padding(kind: str, texts: list[str], length: int) -> None:
    tokenizer = trained(kind)
    for ids in tokenizer.encode(texts, length):
        assert 1 <= len(ids) <= length
        assert ids[-1] == 1
        assert not {0, 1} & set(ids[:-1])
        assert max(ids) < tokenizer.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_the_ids_that_the_file_gives_to_each_text_alone(kind: str) -> None:
    texts = [*CAPTIONS, "", "  Two  WORDS ", "日本 “x”"]
    alone = Pipeline.from_str(trained(kind).to_json())
    alone.encode_special_tokens = True
    assert trained(kind).encode(texts, 99) == [[*alone.encode(text, add_special_tokens=False).ids, 1] for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_cut_before_the_end_of_text(kind: str) -> None:
    whole = trained(kind).encode([CAPTIONS[0]], 99)[0]
    assert len(whole) > 6
    assert trained(kind).encode([CAPTIONS[0]], 6)[0] == [*whole[:5], 1]


@pytest.mark.parametrize("kind", KINDS)
def test_case_and_white_space_do_not_matter(kind: str) -> None:
    plain, spaced = trained(kind).encode(["red apple left of o'clock", "  RED\tapple \n left  of O’Clock "], 30)
    assert plain == spaced


@pytest.mark.parametrize("kind", KINDS)
def test_letters_and_digits_are_known_and_strange_characters_are_not(kind: str) -> None:
    assert 2 not in trained(kind).encode(["zebra quiz 0123456789"], 60)[0]
    assert 2 in trained(kind).encode(["日本"], 60)[0]


def test_called_it_pads_at_the_right_end_as_open_clip_does() -> None:
    tokenizer = trained("bpe")
    ids_BL = tokenizer(["cat", "dog above cat"], 8)
    rows = tokenizer.encode(["cat", "dog above cat"], 8)
    assert ids_BL.shape == (2, 8)
    assert ids_BL.dtype == torch.int64
    assert ids_BL.tolist() == [row + [0] * (8 - len(row)) for row in rows]
    assert flat_ids(ids_BL)[0].tolist() == rows[0] + rows[1]
    assert torch.equal(tokenizer("cat", 8), ids_BL[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_captions_does_not_change_the_file(kind: str) -> None:
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    assert Tokenizer.train(shuffled, kind, 300).to_json() == trained(kind).to_json()


def test_a_large_set_is_trained_on_by_a_sample_that_its_order_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [f"number {n}" for n in range(400)] + ["a b"] * 50
    every = tokenizer._sample(captions)
    assert (len(every), every["a b"], every.total()) == (401, 50, 450)
    monkeypatch.setattr(tokenizer, "MOST_CHARACTERS", 1200)  # of 3893
    found = tokenizer._sample(captions)
    assert found == tokenizer._sample(reversed(captions))
    assert list(found) == sorted(found)
    assert 300 < sum(map(len, found)) <= 1200
    assert all(found[text] == every[text] for text in found)  # all of a caption's occurrences, or none
    monkeypatch.setattr(tokenizer, "MOST_CHARACTERS", 300)
    assert tokenizer._sample(captions).keys() < found.keys()


def test_another_process_writes_the_same_files() -> None:
    """Hash maps are seeded per process: only a second one can show that their order does not matter."""
    code = (
        "import sys, json; from limoe.data.tokenizer import Tokenizer; captions = json.load(sys.stdin);"
        "print(json.dumps([Tokenizer.train(captions, kind, 300).to_json() for kind in ('bpe', 'unigram')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(CAPTIONS), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [trained(kind).to_json() for kind in KINDS]


def test_byte_pairs_are_merged_by_count() -> None:
    """By hand: in "ab ab ab ac", spaces marked _, the pair (_, a) occurs 4 times and is merged first, then (_a, b), 3 times."""
    saved = json.loads(Tokenizer.train(["ab ab", "ab ac"], "bpe", 64).to_json())
    assert saved["model"]["merges"] == [["▁", "a"], ["▁a", "b"]]


def test_unigram_finds_the_likeliest_pieces() -> None:
    """Against every way to cut a word into pieces of the vocabulary."""
    tokenizer = trained("unigram")
    scores = dict(json.loads(tokenizer.to_json())["model"]["vocab"])
    names = [piece for piece, _ in json.loads(tokenizer.to_json())["model"]["vocab"]]

    def best(word: str) -> float:
        if not word:
            return 0.0
        ends = [end for end in range(1, len(word) + 1) if word[:end] in scores]
        return max((scores[word[:end]] + best(word[end:]) for end in ends), default=-math.inf)

    for word in ("grinning", "apple", "waving", "tone", "zebra", "leftof"):
        pieces = [names[index] for index in tokenizer.encode([word], 60)[0][:-1]]
        assert "".join(pieces) == f"▁{word}"
        assert sum(scores[piece] for piece in pieces) == pytest.approx(best(f"▁{word}"))


def test_open_clips_pairs_are_its_own_ids_moved_by_the_special_tokens() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    clip, ours = SimpleTokenizer(), Tokenizer.train([], "open_clip", 64)
    assert ours.vocab_size == 49_408 - 2 + 3
    texts = [*CAPTIONS[:20], "A photo of 3 cats & it's raining!!! #1", "naïve 日本"]
    for text, ids in zip(texts, ours.encode(texts, 77), strict=True):
        assert [index - 3 for index in ids[:-1]] == clip.encode(text)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode([*CAPTIONS, "[PAD] x"], 24) == trained("bpe").encode([*CAPTIONS, "[PAD] x"], 24)
    assert loaded.to_json() == trained("bpe").to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_the_rarest_characters_beyond_the_vocabulary_become_unknown(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """64 entries: 3 special tokens, a to z, 0 to 9, the space, and 24 more. Of 30 the 20 of two captions and 4 others fit."""
    frequent = "".join(chr(0x4E00 + index) for index in range(20))
    rare = "".join(chr(0x4E20 + index) for index in range(10))
    captions = [f"{frequent} cat", f"{rare[::-1]} {frequent} dog"]
    tokenizer = Tokenizer.train(captions, kind, 64)
    ids = {character: tokenizer.encode([character], 8)[0] for character in frequent + rare + ALPHABET}
    assert [character for character in ids if 2 in ids[character]] == list(rare[4:])  # of equally rare ones the last
    assert tokenizer.vocab_size == 64
    assert tokenizer.to_json() == Tokenizer.train(reversed(captions), kind, 64).to_json()
    assert capsys.readouterr().out.splitlines()[0] == (
        "tokenizer: of 30 different characters beside a to z and 0 to 9 the 6 rarest become [UNK]: "
        "prepare.tokenizer.vocab_size = 64 holds no more"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_below_what_is_always_known_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="vocab_size = 39 is too small: 37 characters are always known, beside 3 special tokens"):
        Tokenizer.train(["cat"], kind, 39)


@pytest.mark.parametrize("kind", KINDS)
def test_long_captions_count_as_others_do(kind: str) -> None:
    """SentencePiece skips what is longer than 4,192 bytes, unless it is told otherwise."""
    tokenizer = Tokenizer.train(["a cat", "a dog", "Ω zebra " * 700], kind, 100)
    assert 2 not in tokenizer.encode(["ω zebra"], 60)[0]
    assert len(tokenizer.encode(["zebra"], 60)[0]) < 1 + len(" zebra")  # it occurs 700 times
    assert 2 not in Tokenizer.train(["a long story " * 400] * 2, kind, 100).encode(["a long story"], 60)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_that_sentencepiece_keeps_for_itself_spoils_no_caption(kind: str) -> None:
    assert 2 not in Tokenizer.train(["▅ déjà"], kind, 64).encode(["▅ déjà"], 60)[0]


def test_without_sentencepiece_unigram_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match="install it, or choose bpe"):
        Tokenizer.train(["cat"], "unigram", 64)


def test_files_that_are_no_tokenizer_of_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(path)
    path.write_text('{"model": 1')
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer.load(path)
    foreign = Pipeline(models.BPE())
    foreign.train_from_iterator(["cat"], trainers.BpeTrainer(special_tokens=["<s>"], show_progress=False))
    path.write_text(foreign.to_str())
    with pytest.raises(UserError, match=r"must begin with \[PAD\], \[EOS\], \[UNK\]"):
        Tokenizer.load(path)
