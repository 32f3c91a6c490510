"""What a sweep found, as a document: what to use, how safe it is, what decides success, how failure looks and how early it shows.

`facts` is `Sensitivity.to_dict()` of limoe/sweep, which says what every figure means; `trials` are rows {point, seed, kind,
values, success} (success None where a trial has no label).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limoe.report import failure_figures as failing
from limoe.report import failure_tables as fail_tables
from limoe.report import sensitivity_figures as figures
from limoe.report import sensitivity_tables as tables
from limoe.report.document import Block, Bullets, Card, Cards, Document, Fold, Grid, Prose, Section, Terms
from limoe.report.values import between, loss_of, probability, short_names, value_of

Facts = Mapping[str, Any]
SHOWN_PAIRS = 2  # heat maps
LEVEL = 0.05
VAGUE = 0.8  # an interval of P(success) so wide that its middle must not be quoted in a headline
WORDS = {
    "success": "A training that finished, raised no alarm, and whose loss is within 10% of that of the best robust recipe here. "
    "A pruned one counts neither way; killed and faulty ones are left out.",
    "loss": "Contrastive loss on the validation sets at a fixed batch, without noise and drops, in nats; lower is better.",
    "point, trial": "A point is one choice of values; a trial is one training of it with one seed.",
    "robust recipe": "The point whose upper 95% bound of the expected loss over seeds and neighbours is lowest; failures count "
    "as chance. Where it and the runner-up were rerun, the better of the two on fresh seeds. The best single run has the lowest "
    "loss of all, luck included.",
    "interval": "95%. The band around a smooth curve and the bars of its bins rest on the trials near that value, whatever "
    "their other settings.",
    "fANOVA, PED-ANOVA": "How much of the variance a setting explains in a random forest; how much a setting tells the best "
    "points from the rest.",
    "area under ROC": "Chance that a failure looks worse than a success, 0.5 if the figure says nothing.",
    "failures caught": "By a threshold with at most 5% false alarms on one half of the recipes, counted on the other half.",
}


def tell(facts: Facts, trials: Sequence[Facts], name: str = "") -> Document:
    """The whole report. name: of the sweep."""
    sections = [
        *_recommended(facts),
        *_reach(facts),
        Section("success", "What decides success", _success(facts)),
        *_pairs(facts),
        Section("importance", "Importances", _importances(facts)),
        Section("failures-map", "How failure looks", _failures(facts, trials)),
        *_early(facts),
        Section("words", "What the words mean", [Terms(WORDS)]),
    ]
    lead: list[Block] = [*_cards(facts), *_use(facts), Prose(_counted(facts)), Bullets(facts["notes"])]
    title = f"Sensitivity of {', '.join(facts['contestants'])}" + (f": {name}" if name else "")
    return Document(title, headline(facts), lead, sections)


def headline(facts: Facts) -> str:
    """What the sweep found, in one or two sentences."""
    counts, found = facts["counts"], facts["recommendation"]
    if not counts["labelled"] or found is None:
        return f"{_many(counts['trials'], 'trial')} of {_many(counts['points'], 'recipe')}: too few ended to recommend anything."
    decider = _decider(facts["failure"])
    decides = f"; `{short_names(figures.ranked(facts))[decider]}` decides it most" if decider else ""
    success = found["success"]
    near = f"it is {probability(success)} ({between(success)})"
    if success["upper"] - success["lower"] > VAGUE:
        near = "there are too few to tell"
    return f"{probability(counts['recipes'])} of the recipes in this space succeed{decides}. Near the recipe to use {near}."


def _use(facts: Facts) -> list[Block]:
    found = facts["recommendation"]
    if found is None:
        return []
    values = found["robust"]["values"]
    told = ", ".join(f"`{name}` {value_of(values, name)}" for name in figures.ranked(facts))
    return [Prose(f"**Use** {told}; the setting that matters most comes first.")]


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _decider(importance: Facts) -> str | None:
    shares = importance["fanova"]
    return max(shares, key=lambda name: float(shares[name])) if shares else None


def _counted(facts: Facts) -> str:
    counts, reference = facts["counts"], facts["reference"]
    rate = f"{probability(counts['recipes'])} of the recipes ({between(counts['recipes'])})"
    told = (
        f"{_many(counts['trials'], 'trial')} of {_many(counts['points'], 'recipe')}; {counts['labelled']} have a label, "
        f"{counts['successes']} of them success: {rate}, each counted by the share of its seeds."
    )
    if reference is None:
        return told
    limit, best = reference["limit"], reference["loss"]
    return f"{told} Success means a loss of at most {limit:.3f}, 10% above the {best:.3f} of the best robust recipe."


def _cards(facts: Facts) -> list[Block]:
    found = facts["recommendation"]
    if found is None:
        return []
    robust, best = found["robust"], found["best_run"]
    fresh = robust["fresh"] is not None
    mean = (
        (loss_of(robust["fresh"]), "loss, mean over fresh seeds") if fresh else (loss_of(robust["loss"]), "loss, mean over seeds")
    )
    tried = [mean, (f"{robust['bound']:.3f}", "upper bound of what to expect")]
    lucky = [
        (loss_of(found["best_loss"]), f"loss, seed {found['best_seed']}"),
        (f"{best['bound']:.3f}", "upper bound of what to expect"),
    ]
    cards = [
        Card("Robust recipe", "limoe", "What to use: good for its seeds and its neighbours.", [*tried, _seeds(robust)]),
        Card("Best single run", "clip", "The lowest loss that was seen, luck included.", [*lucky, _seeds(best)]),
    ]
    success = found["success"]
    told = [
        (probability(success), "P(success)"),
        (between(success), "interval"),
        (f"{success['n']:.1f}", "trials near it, by weight"),
    ]
    cards.append(Card("Will it fail?", "dense", "Near the robust recipe.", told))
    return [Cards(cards)]


def _seeds(choice: Facts) -> tuple[str, str]:
    return f"{choice['seeds']} ({choice['failures']} failed)", "seeds"


def _recommended(facts: Facts) -> list[Section]:
    found = facts["recommendation"]
    if found is None:
        return []
    blocks: list[Block] = []
    if found["at_risk"]:
        blocks.append(Prose("**At risk:** even the robust recipe succeeds in less than 90% of trainings like it."))
    blocks.append(tables.recipe_table(facts))
    if facts["finals"]:
        blocks += [Prose("The figures to quote: seeds that the sweep had not seen when it chose."), tables.finals_table(facts)]
    return [Section("recommendation", "What to use", blocks)]


def _reach(facts: Facts) -> list[Section]:
    found = facts["recommendation"]
    if found is None or not found["reach"]:
        return []
    bars = failing.reach_bars(facts)
    blocks: list[Block] = [*([bars] if bars else []), tables.reach_table(facts)]
    blocks.append(Prose("From a logistic model of all settings together: a guide, not a promise.", "quiet"))
    return [Section("reach-of-it", "How far it may move", blocks)]


def _success(facts: Facts) -> list[Block]:
    curves = sorted(facts["curves"], key=lambda curve: figures.ranked(facts).index(curve["name"]))
    text = (
        "Share of recipes that succeed by one setting, whatever the others were: points are bins of trials with their "
        "intervals, the line is a smooth estimate with its band, the dotted line the robust recipe. The setting that matters "
        "most comes first."
    )
    return [Prose(text), Grid([figures.success_curve(facts, curve) for curve in curves])]


def _pairs(facts: Facts) -> list[Section]:
    if not facts["pairs"]:
        return []
    blocks: list[Block] = [figures.pair_map(pair) for pair in facts["pairs"][:SHOWN_PAIRS]]
    if rest := facts["pairs"][SHOWN_PAIRS:]:
        blocks.append(Fold("Further pairs", [figures.pair_map(pair) for pair in rest]))
    if facts["interactions"]:
        strongest, rest = tables.interaction_tables(facts)
        blocks.append(strongest)
        blocks += [Fold("The other pairs", [rest])] if rest else []
        if min(one["p_holm"] for one in facts["interactions"]) > LEVEL:
            blocks.insert(0, Prose("No pair is shown to act together (p above 0.05 after Holm); these come nearest to it."))
    return [Section("pairs", "Settings that act together", blocks)]


def _importances(facts: Facts) -> list[Block]:
    blocks: list[Block] = []
    for target in ("quality", "failure"):
        one = facts[target]
        if one["reason"]:
            blocks.append(Prose(f"For {target} there are none: {one['reason']}.", "quiet"))
        elif one["explained"] is not None:
            worth = "" if one["explained"] > 0.1 else ", so that its shares mean little"
            blocks.append(
                Prose(f"The forest explains {one['explained']:.0%} of what decides {target}{worth} ({one['n']} points).")
            )
    bars = figures.importances(facts)
    if bars:
        blocks += [bars, tables.importance_table(facts, figures.ranked(facts))]
    return blocks


def _failures(facts: Facts, trials: Sequence[Facts]) -> list[Block]:
    blocks: list[Block] = [fail_tables.outcome_table(facts)]
    if (where := fail_tables.where_table(facts)) is not None:
        blocks.append(where)
    if trials and (shown := failing.failure_map(facts, trials)) is not None:
        blocks.append(shown)
    if facts["failures"]:
        blocks.append(Fold("Every failure with its evidence", [fail_tables.failure_table(facts)]))
    return blocks


def _early(facts: Facts) -> list[Section]:
    blocks: list[Block] = []
    curve = failing.roc(facts)
    if curve is not None:
        blocks.append(curve)
    for early in facts["early"]:
        if early["reason"]:
            blocks.append(Prose(f"At {early['fraction']:.0%} of the budget: {early['reason']}.", "quiet"))
        if early["predictors"]:
            blocks.append(fail_tables.early_table(early))
    return [Section("early", "Early warning", blocks)] if blocks else []
