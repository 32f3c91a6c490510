"""Captions to token ids: a tokenizer trained on the training captions, or CLIP's, in one `tokenizers` JSON file.

Axes: B captions, L tokens (end of text included).

Every kind has the same three special tokens first, [PAD] = 0, [EOS] = 1, [UNK] = 2, and folds case and white space. Training
is deterministic: BPE by `tokenizers`, unigram by SentencePiece on one thread (the paper's; `tokenizers`' own unigram trainer
gives another vocabulary each run).
"""

from __future__ import annotations

import hashlib
import io
import string
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Pipeline

from limoe import files
from limoe.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PAD_ID = 0  # that of limoe.model.tokens, which a test compares: preparing data must not import torch, nor rerun with the model
SPECIAL = PAD, EOS, UNK = ("[PAD]", "[EOS]", "[UNK]")
ALPHABET = string.ascii_lowercase + string.digits  # known whatever the captions hold: users' prompts spell new words
SPACE = "▁"  # how the vocabularies spell the space before a word
ALWAYS = frozenset({*ALPHABET, SPACE})
RESERVED = "▅"  # SentencePiece skips every caption that holds it
LONGEST = 4192  # bytes of a caption: SentencePiece skips longer ones by default
MOST_CHARACTERS = 100_000_000  # of different captions: some hundred MB while a tokenizer is trained
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # open_clip's tokenizer.py
UNHEARD_OF = "\U0010fffd"  # a character that is in no caption
CLIP_CONTROLS = 2  # start and end of text close its vocabulary


class Tokenizer:
    """Token ids of captions, cut and ended alike for every kind. Construct with `train` or `load`."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Wrap a pipeline whose first three ids are the special tokens and that folds as `fold` does; UserError if not."""
        if [pipeline.token_to_id(token) for token in SPECIAL] != [PAD_ID, PAD_ID + 1, PAD_ID + 2]:
            raise UserError(f"this tokenizer must begin with {', '.join(SPECIAL)} as ids 0, 1, 2; prepare writes such a file")
        if pipeline.normalizer is None or pipeline.normalizer.__getstate__() != FOLDING.__getstate__():
            raise UserError("this tokenizer folds its texts otherwise than `limoe prepare` does, which writes such a file")
        self._pipeline = pipeline
        self._of_folded = Pipeline.from_str(pipeline.to_str())
        self._of_folded.normalizer = None  # which takes half of the time, and `fold` a twentieth
        self._of_folded.encode_special_tokens = True  # a caption that spells one is text
        self.pad_id = PAD_ID
        self.eos_id = PAD_ID + 1
        self.unk_id = PAD_ID + 2
        self.vocab_size: int = pipeline.get_vocab_size()
        if (highest := max(pipeline.get_vocab().values())) >= self.vocab_size:
            raise UserError(f"the ids of its {self.vocab_size} entries go up to {highest}; `limoe prepare` leaves none out")

    @classmethod
    def train(cls, captions: Iterable[str], kind: str, vocab_size: int) -> Self:
        """Train on `captions` ("unigram" or "bpe", at most `vocab_size` entries), or wrap "open_clip"'s byte pairs.

        Equal captions in any order give the same file. What different captions have beyond MOST_CHARACTERS is not held: a half of
        them is trained on, a quarter, and so on, chosen by their hash. If the captions hold too many characters for `vocab_size`,
        the rarest become [UNK], and a line is printed. UserError if it does not even hold those of ALWAYS.
        """
        if kind == "open_clip":
            return cls(_open_clip())
        counted = _sample(captions)
        if (room := vocab_size - len(SPECIAL) - len(ALWAYS)) < 0:
            raise UserError(
                f"prepare.tokenizer.vocab_size = {vocab_size} is too small: {len(ALWAYS)} characters are always known, beside"
                f" {len(SPECIAL)} special tokens"
            )
        characters = set().union(*counted) - ALWAYS - {" "}
        if (many := len(characters)) > room:
            characters = _most_frequent(counted, characters, room)
            counted = _spaced(counted, characters | ALWAYS)
            print(
                f"tokenizer: of {many} different characters beside a to z and 0 to 9 the {many - room} rarest become {UNK}: "
                f"prepare.tokenizer.vocab_size = {vocab_size} holds no more"
            )
        alphabet = sorted(characters | ALWAYS)
        return cls(_bpe(counted, alphabet, vocab_size) if kind == "bpe" else _unigram(counted, alphabet, vocab_size))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open a file that `save` wrote; UserError if it is missing or no tokenizer."""
        try:
            found = cls(Pipeline.from_str(path.read_text(encoding="utf-8")))
            found.encode([UNHEARD_OF], 1)  # without an entry for it the library fails here, and not before
            return found
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; `limoe prepare` writes it") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # for a broken file the library raises bare Exception, or panics, which is no Exception
            raise UserError(f"{path}: not a tokenizer ({error})") from None

    def to_json(self) -> str:
        """The tokenizer as the text of its file."""
        return self._pipeline.to_str(pretty=True)

    def save(self, path: Path) -> None:
        """Write the tokenizer to `path`, atomically."""
        files.write_text(path, self.to_json())

    def encode(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Ids of each text, at most `length` of them; the last one is always end of text, and none is padding.

        Other threads run meanwhile: texts are tokenised without the interpreter's lock, by all cores (see threads.unhindered).
        """
        found = self._of_folded.encode_batch_fast([fold(text) for text in texts], add_special_tokens=False)
        return [[*one.ids[: length - 1], self.eos_id] for one in found]

    def __call__(self, texts: str | Sequence[str], length: int) -> Tensor:
        """int64 (B, length): ids padded at their right end with 0, as open_clip's tokenizers return them."""
        import torch

        rows = self.encode([texts] if isinstance(texts, str) else texts, length)
        ids_BL = torch.full((len(rows), length), self.pad_id, dtype=torch.int64)
        for row, ids in enumerate(rows):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
        return ids_BL


REPLACED = {"[‘’]": "'", "[“”]": '"', r"\s+": " "}
REPLACEMENTS = [normalizers.Replace(Regex(pattern), text) for pattern, text in REPLACED.items()]
FOLDING = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *REPLACEMENTS, normalizers.Strip()])


def fold(text: str) -> str:
    """`text` as every tokenizer here sees it, so texts that it cannot tell apart are equal strings.

    Compatible forms and quotation marks made one, lower case, one space between words, none at the ends.
    """
    if text.isascii() and text.isprintable():  # the same, nine times as fast: loaders fold every caption
        return " ".join(text.lower().split())
    return str(FOLDING.normalize_str(text))


def _with_specials(pipeline: Pipeline) -> Pipeline:
    """Declare the special tokens, so that other programs which open the file know them."""
    pipeline.add_special_tokens(list(SPECIAL))
    return pipeline


def _sample(captions: Iterable[str]) -> Counter[str]:
    """How often each caption occurs, folded and in the order of the alphabet; which ones depends on which there are alone."""
    counted: Counter[str] = Counter()
    characters = halvings = 0
    for text in map(fold, captions):
        if text and _chosen(text, halvings):
            characters += 0 if text in counted else len(text)
            counted[text] += 1
        while characters > MOST_CHARACTERS:
            halvings += 1
            counted = Counter({text: count for text, count in counted.items() if _chosen(text, halvings)})
            characters = sum(map(len, counted))
    return Counter(dict(sorted(counted.items())))


def _chosen(text: str, halvings: int) -> bool:
    """True for one text in 2 ** halvings, and for all of those that more halvings choose."""
    return not halvings or int.from_bytes(hashlib.sha256(text.encode()).digest()) % (1 << halvings) == 0


def _most_frequent(captions: Counter[str], characters: Set[str], count: int) -> set[str]:
    """So many of `characters`; of equally frequent ones the first by code point."""
    seen: Counter[str] = Counter()
    for text, times in captions.items():
        for character in text:
            seen[character] += times
    return set(sorted(characters, key=lambda character: (-seen[character], character))[:count])


def _spaced(captions: Counter[str], characters: Set[str]) -> Counter[str]:
    """The captions with a space for whatever is not among `characters`, in the order of the alphabet."""
    others = dict.fromkeys(map(ord, set().union(*captions) - characters), " ")
    spaced: Counter[str] = Counter()
    for text, times in captions.items():
        spaced[" ".join(text.translate(others).split())] += times
    return Counter({text: spaced[text] for text in sorted(spaced) if text})


def _bpe(captions: Counter[str], alphabet: list[str], vocab_size: int) -> Pipeline:
    """Byte pair encoding within words; punctuation stands alone."""
    pipeline = Pipeline(models.BPE(unk_token=UNK, fuse_unk=True))
    pipeline.normalizer = FOLDING
    punctuation = pre_tokenizers.Split(Regex(r"[,;:.!?]"), "isolated")
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), punctuation])
    pipeline.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    pipeline.train_from_iterator(captions.elements(), trainer, length=captions.total())
    return pipeline


def _unigram(captions: Counter[str], alphabet: list[str], vocab_size: int) -> Pipeline:
    """A unigram language model (Kudo 2018), trained by SentencePiece and written as a `tokenizers` file."""
    try:
        import sentencepiece
    except ImportError:
        raise UserError("prepare.tokenizer.kind = unigram needs the package sentencepiece; install it, or choose bpe") from None
    if any(RESERVED in text for text in captions):
        captions = _spaced(captions, set(alphabet) - {RESERVED})
    missing = sorted(set(alphabet).difference(*captions) - {SPACE})
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=captions.elements(),
        model_writer=trained,
        model_type="unigram",
        vocab_size=vocab_size - len(missing),
        hard_vocab_limit=False,
        max_sentence_length=max(LONGEST, *(len(text.encode()) for text in captions)),
        character_coverage=1.0,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
        pad_id=PAD_ID,
        eos_id=PAD_ID + 1,
        unk_id=PAD_ID + 2,
        bos_id=-1,
        pad_piece=PAD,
        eos_piece=EOS,
        unk_piece=UNK,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    vocabulary = [(pieces.id_to_piece(index), pieces.get_score(index)) for index in range(pieces.vocab_size())]
    rarest = min(score for _, score in vocabulary)
    vocabulary += [(letter, rarest) for letter in missing]
    pipeline = Pipeline(models.Unigram(vocabulary, unk_id=PAD_ID + 2))
    pipeline.normalizer = FOLDING
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace()
    pipeline.decoder = decoders.Metaspace()
    return _with_specials(pipeline)


def _open_clip() -> Pipeline:
    """CLIP's byte pairs, renumbered behind our special tokens; its start of text is left out, and no `ftfy` repairs the text."""
    from open_clip.tokenizer import SimpleTokenizer

    clip = SimpleTokenizer()
    ranked = sorted(clip.encoder, key=clip.encoder.__getitem__)[:-CLIP_CONTROLS]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *ranked])}
    merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.__getitem__)
    pipeline = Pipeline(models.BPE(vocabulary, merges, unk_token=UNK, end_of_word_suffix="</w>"))
    pipeline.normalizer = FOLDING
    words = pre_tokenizers.Split(Regex(CLIP_PATTERN), "removed", invert=True)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    pipeline.decoder = decoders.BPEDecoder()
    return _with_specials(pipeline)
