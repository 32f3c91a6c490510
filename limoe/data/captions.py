"""Which captions stay: by their length, and by the language that they are in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from limoe.config import CaptionParams
from limoe.data.sources.texts import SURROGATE
from limoe.errors import UserError, did_you_mean

Why = tuple[str, str]  # reason and detail, as in sources.Rejected


class CaptionCheck:
    """Says what is wrong with a caption. Made once a process: a language model is read from the disk."""

    def __init__(self, params: CaptionParams) -> None:
        """UserError if a language is unknown."""
        self._params = params
        self._share = _language_share(params.languages) if params.languages else None

    def __call__(self, caption: str) -> Why | None:
        """Why the caption does not stay, or None if it does."""
        params = self._params
        if SURROGATE.search(caption):
            return "bad-caption", "half a surrogate pair, which is no character"
        if len(caption) < params.min_chars or len(caption) > (params.max_chars or len(caption)):
            most = "" if params.max_chars is None else f", at most {params.max_chars}"
            return "caption-length", f"{len(caption)} characters; prepare.captions wants at least {params.min_chars}{most}"
        if self._share is not None and (share := self._share(caption)) < params.language_share:
            return "other-language", f"{share:.3f} for {', '.join(params.languages)} of prepare.captions.languages"
        return None


def _language_share(languages: Sequence[str]) -> Callable[[str], float]:
    """Of a caption, the probability that it is in one of these languages (ISO 639-1), by the model that py3langid brings.

    The model knows the text alone, and short texts fit many languages: see docs/data.md for what it gets right.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for language in languages:
        if language not in model.labels:
            known = sorted(model.labels)
            guess = did_you_mean(language, known)
            raise UserError(f"prepare.captions.languages: no language {language!r}; known are {', '.join(known)}{guess}")
    wanted = set(languages)
    return lambda text: sum(share for language, share in model.rank(text) if language in wanted)
