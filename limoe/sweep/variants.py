"""The paper's ablation study as named changes of one recipe, the *full* one: what the parameters say.

Auxiliary losses come twice. In `aux` the paper's rule holds: the average of the active terms, so that what is left gains the
share of what is switched off. In `aux-fixed` each term keeps what the full recipe's average gives it, its weight over the number
of active terms. The z-loss balances nothing (it keeps logits small) and stays throughout, except in `none`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from limoe.config import AUX_TERMS, MoeParams, Params
from limoe.errors import UserError, did_you_mean
from limoe.files import sha256_json

FULL = "full"
CLASSIC, LOCAL, GLOBAL = ("importance", "load"), ("local_text", "local_image"), ("global_text", "global_image")
KEPT: dict[str, tuple[str, ...]] = {  # beside z
    "classic": CLASSIC,
    "classic+global": CLASSIC + GLOBAL,
    "classic+local": CLASSIC + LOCAL,
    "local": LOCAL,
    "global": GLOBAL,
}
EXPERTS, CHOICES, GROUPS = (8, 16, 32, 64), (1, 2), (64, 128, 256)
SHARES_TEXT, SHARES_IMAGE = (0, 9, 18), (10, 20, 30)  # of 32 experts, that tau asks for; the paper's are 9 and 20
PRIORITIES = {
    "bpr": "places go by the size of the gate",
    "first-come": "places go by the order of the array, images first",
    "shuffled": "places go in random order",
    "image-first": "images before text",
    "text-first": "text before images",
}
SAME = {"priority/image-first": "the same as first-come: images stand first in the array of a batch"}
MOE = "model.moe"


@dataclass(frozen=True)
class Variant:
    """A change of the full recipe. values: by dotted name, empty for the full recipe itself. note: what it does, in words."""

    group: str
    name: str
    values: dict[str, Any]
    note: str

    @property
    def key(self) -> str:
        """Its name among all: `priority/first-come`; the full recipe's is `full`."""
        return self.group if self.group == FULL else f"{self.group}/{self.name}"


@dataclass(frozen=True)
class Study:
    """variants: the full recipe first. omitted: key -> why these parameters do not allow it."""

    variants: tuple[Variant, ...]
    omitted: dict[str, str]


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """`params` with these dotted names changed, validated; UserError names what does not fit."""
    document = copy.deepcopy(params.model_dump(mode="json"))
    for name, value in values.items():
        *sections, last = name.split(".")
        node = document
        for section in sections:
            node = node[section]
        node[last] = value
    return Params.parse(document, "variant")


def study(params: Params, only: Sequence[str] = ()) -> Study:
    """The full recipe and every variant of it that these parameters allow, each once.

    only: groups or single variants (`aux`, `priority/first-come`), all if empty; UserError for an unknown one, and where `params`
    is no recipe that the study can take apart.
    """
    _check_base(params.model.moe)
    wanted = _all(params)
    chosen = [one for one in wanted if not only or {one.group, one.key} & set(only)]
    _check_names(only, wanted)
    known, variants = {_identity(params)}, []
    omitted = {one.key: SAME[one.key] for one in chosen if one.key in SAME}
    for variant in (one for one in chosen if one.key not in SAME):
        try:
            resolved = with_values(params, variant.values)
        except UserError as error:
            omitted[variant.key] = str(error).removeprefix("variant: ")
            continue
        if (identity := _identity(resolved)) not in known:
            known.add(identity)
            variants.append(variant)
    return Study((Variant(FULL, FULL, {}, "the recipe as the parameters have it"), *variants), omitted)


def numbers(params: Params) -> dict[str, int]:
    """A number for every variant there could be, whatever `only` says and whichever are equal."""
    return {key: number for number, key in enumerate([FULL, *(one.key for one in _all(params))])}


def _all(params: Params) -> list[Variant]:
    return [one for group in STUDIES.values() for one in group(params.model.moe)]


def _identity(params: Params) -> str:
    """A hash of the parameters with thresholds as the numbers that they stand for: equal for equal recipes."""
    document = params.model_dump(mode="json")
    moe = params.model.moe
    if moe.router != "auto":
        document["model"]["moe"] |= dict(zip(("tau_text", "tau_image"), (round(tau, 6) for tau in moe.thresholds), strict=True))
    return sha256_json(document)


def _check_base(moe: MoeParams) -> None:
    if moe.router != "top-k" or moe.aux_rule != "average" or moe.aux_coefficient == 0:
        raise UserError(
            "an ablation takes the paper's recipe apart: model.moe.router must be top-k, aux_rule average, aux_coefficient > 0"
        )
    active = moe.aux_weights.active()
    for family in (CLASSIC, LOCAL, GLOBAL):
        if not set(family) & set(active):
            raise UserError(
                f"an ablation takes the full recipe apart: of model.moe.aux_weights {' or '.join(family)} must be above 0"
            )


def _check_names(only: Sequence[str], wanted: Sequence[Variant]) -> None:
    known = [*dict.fromkeys(one.group for one in wanted), *(one.key for one in wanted)]
    for name in only:
        if name not in known:
            hint = did_you_mean(name, known, cutoff=0.4) or f"; groups are {', '.join(STUDIES)}"
            raise UserError(f"ablation: {name!r} is no group and no variant{hint}")


def _only_terms(moe: MoeParams, kept: Sequence[str]) -> dict[str, float]:
    """Weights that leave on what the recipe has of `kept` and the z-loss."""
    return {f"{MOE}.aux_weights.{term}": 0.0 for term in moe.aux_weights.active() if term not in (*kept, "z")}


def _named(terms: Sequence[str]) -> str:
    return ", ".join(term.replace("_", " ") for term in terms)


def aux(moe: MoeParams) -> Iterator[Variant]:
    """Auxiliary losses under the paper's rule; loss-free balancing; none; and the full set at the paper's equal weights."""
    active = moe.aux_weights.active()
    for name, kept in KEPT.items():
        yield Variant("aux", name, _only_terms(moe, kept), f"only {_named([t for t in active if t in kept])}")
    yield Variant("aux", "none", {f"{MOE}.aux_coefficient": 0.0}, "no auxiliary loss at all, no z-loss either")
    free = {f"{MOE}.router": "loss-free"}
    without = free | _only_terms(moe, LOCAL + GLOBAL)
    yield Variant("aux", "loss-free", without, "a balancing bias for importance and load; local and global stay")
    yield Variant("aux", "loss-free-only", free | _only_terms(moe, ()), "a balancing bias and no other loss than z")
    equal = {f"{MOE}.aux_weights.{term}": 1.0 for term in active}
    yield Variant("aux", "equal-weights", equal, "all terms at weight 1, as in the paper")


def aux_fixed(moe: MoeParams) -> Iterator[Variant]:
    """The same with each term's weight fixed at what the full recipe's average gives it."""
    active = moe.aux_weights.active()
    fixed: dict[str, Any] = {f"{MOE}.aux_rule": "fixed"}
    fixed |= {f"{MOE}.aux_weights.{term}": active.get(term, 0.0) / len(active) for term in AUX_TERMS}
    for variant in aux(moe):
        if variant.name not in ("none", "equal-weights"):  # nothing is left to share in the one, nothing taken away in the other
            yield Variant("aux-fixed", variant.name, fixed | variant.values, f"{variant.note}; weights fixed")


def priority(moe: MoeParams) -> Iterator[Variant]:
    """Who claims places first; and neither this nor the entropy losses, as sparse towers were trained before."""
    for order in get_args(MoeParams.model_fields["priority"].annotation):
        yield Variant("priority", order, {f"{MOE}.priority": order}, PRIORITIES[order])
    before = _only_terms(moe, CLASSIC) | {f"{MOE}.priority": "first-come"}
    yield Variant("priority", "classic-first-come", before, f"only {_named(CLASSIC)}, and {PRIORITIES['first-come']}")


def sizes(moe: MoeParams) -> Iterator[Variant]:
    """Experts, choices of a token, pairs of a routing group. A tau of null follows the number of experts; a number stays."""
    del moe
    for experts in EXPERTS:
        yield Variant("experts", str(experts), {f"{MOE}.experts": experts}, f"{experts} experts")
    for k in CHOICES:
        yield Variant("k", str(k), {f"{MOE}.k": k}, f"{k} experts a token")
    for pairs in GROUPS:
        yield Variant("group", str(pairs), {f"{MOE}.group_pairs": pairs}, f"places are shared out among {pairs} pairs")


def taus(moe: MoeParams) -> Iterator[Variant]:
    """The experts that the global losses ask for: fewer than the paper's share, that share, more."""
    for modality, shares in (("text", SHARES_TEXT), ("image", SHARES_IMAGE)):
        for share in shares:
            experts = max(1, math.ceil(share * moe.experts / 32))
            tau = math.log(experts)
            asked = f"{modality} is asked to use {experts} of {moe.experts} experts"
            note = asked if experts > 1 else f"nothing is asked of {modality}"
            yield Variant(f"tau-{modality}", f"{tau:.2f}", {f"{MOE}.tau_{modality}": tau}, note)


STUDIES: dict[str, Callable[[MoeParams], Iterator[Variant]]] = {
    "aux": aux,
    "aux-fixed": aux_fixed,
    "priority": priority,
    "experts, k, group": sizes,
    "tau-text, tau-image": taus,
}
