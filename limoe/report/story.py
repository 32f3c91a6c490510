"""The report's order: what was found, scores, tests, price, training, routing, others' results, how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limoe.config import CompareParams
from limoe.evals.metrics import is_probe
from limoe.report import figures, leakage, routing_analysis, routing_figures, tables
from limoe.report.document import Block, Bullets, Card, Cards, Document, Fold, Prose, Section, Terms
from limoe.report.evidence import Evidence
from limoe.report.lineup import Lineup
from limoe.report.named import describe_budget
from limoe.report.names import MAIN_METRICS, METRICS, WORDS, describe_set, looks, title
from limoe.report.over_seeds import seeds_section
from limoe.report.pareto import pareto
from limoe.report.probes import probes_section
from limoe.report.published import NOTICE
from limoe.report.routing import MODALITIES, RoutingLog
from limoe.report.scores import TESTED, Duel, Measured, has_tests, reported_sets, sets_of
from limoe.report.verdict import against, by_baseline, count, headline, main_test, percent, price, uncaptioned

ONE_SEED = (
    "One training each: intervals and tests cover the choice of test items, not the luck of a training. A small difference may "
    "turn with another seed."
)
SEVERAL_SEEDS = (
    "These tests compare one training each and cover the choice of test items; the luck of a training is tested "
    "[over seeds](#seeds)."
)
TUNING = "How much each contestant's settings were tuned stands [beside its costs](#price): settings chosen for one favour it."


def tell(lineup: Lineup, measured: Sequence[Measured], duels: Sequence[Duel], params: CompareParams, timing: str) -> Document:
    """The whole report. timing: name of the file beside it that holds what differs between two equal runs."""
    evidence, over_seeds = lineup.evidence, seeds_section(lineup.seeds)
    lead: list[Block] = [_cards(evidence, measured), Prose(main_test(measured, evidence))]
    for baseline, mine in by_baseline(duels).items():
        told, lines = against(baseline, mine)
        lead += [Prose(told), Bullets(lines)]
    lead += [Prose(price(evidence, timing)), Prose(f"{SEVERAL_SEEDS if over_seeds else ONE_SEED} {TUNING}", "quiet")]
    lead += leakage.warnings(evidence)
    lead += [Prose(f"**Without captions**: {sentence}") for sentence in uncaptioned(evidence)]
    lead += [Prose(f"**Left out**: {name}: {why}.") for name, why in lineup.absent.items()]
    sections = [
        _scores(evidence, measured),
        Section("paired-tests", "Paired tests", _tests(duels)),
        *over_seeds,
        *probes_section(evidence, measured, params),
        leakage.leakage_section(evidence),
        Section("pareto", "Quality against cost", _pareto(evidence, measured)),
        Section("price", "Cost", _price(evidence, timing)),
        Section("training", "Training", [figures.curves(evidence), *_rollbacks(evidence)]),
        *_routing(evidence),
        Section("published", "Published results", _published()),
        Section("repeat", "To repeat it", _repeat(evidence, params)),
        Section(
            "words", "What the numbers mean", [Terms({name: describe_set(name) for name in sets_of(evidence)}), Terms(WORDS)]
        ),
    ]
    return Document("LIMoE beside a dense tower and CLIP", headline(duels, has_tests(evidence)), lead, sections)


def _cards(evidence: Sequence[Evidence], measured: Sequence[Measured]) -> Cards:
    """Per contestant: its main scores and its parameters."""
    drawn = looks([one.name for one in evidence])
    cards = []
    for one in evidence:
        scores = {(m.set, m.metric): m for m in measured if m.model == one.name}
        lines = [(percent(scores[key].value), f"{key[0]}, {METRICS[key[1]]}") for key in _main(evidence)]
        size = f"{count(one.budget.params_active)} of {count(one.budget.params_total)}"
        lines.append((size, "parameters active for a token"))
        if one.rollbacks:
            lines.append((str(len(one.rollbacks)), "rollbacks: see Training"))
        cards.append(Card(title(one.name), drawn[one.name].colour, one.form, lines))
    return Cards(cards)


def _main(evidence: Sequence[Evidence]) -> list[tuple[str, str]]:
    """What is looked at first: top-1 on the first reported set, retrieval on the last; those of them that there are."""
    tests = reported_sets(evidence)
    return [key for key in ((tests[0], "top1"), (tests[-1], "i2t_r1")) if key in evidence[0].items]


def _pareto(evidence: Sequence[Evidence], measured: Sequence[Measured]) -> list[Block]:
    text = (
        "Where budgets differ no model is called better: what a score cost is part of it. The dotted line joins the contestants "
        "that none beats at no higher cost; whoever's training cost is unknown is missing on that side."
    )
    return [Prose(text), *pareto(measured, evidence, _main(evidence))]


def _scores(evidence: Sequence[Evidence], measured: Sequence[Measured]) -> Section:
    tests = reported_sets(evidence)
    where = "on the test sets" if has_tests(evidence) else "on validation sets"
    main = [one for one in measured if one.set in tests and one.metric in MAIN_METRICS]
    blocks: list[Block] = [
        figures.forest([one for one in main if one.metric in TESTED], evidence, f"Scores {where}"),
        tables.score_table(main, evidence, f"Scores {where}"),
    ]
    if averaged := tables.averaged_table(evidence, tests, f"Averaged weights (`train.ema`) {where}; no test was made"):
        blocks.append(averaged)
    others = [one for one in measured if not is_probe(one.metric)]
    rest = [one for one in others if one.set in tests and one.metric not in MAIN_METRICS]
    chosen = [one for one in others if one.set not in tests]
    if rest:
        blocks.append(Fold(f"Further scores {where}", [tables.score_table(rest, evidence, f"Further scores {where}")]))
    if chosen:
        table = tables.score_table(
            chosen, evidence, "Validation sets: settings were chosen on these, so that they are no evidence"
        )
        blocks.append(Fold("Validation sets", [table]))
    return Section("scores", "Scores" if has_tests(evidence) else "Validation sets: there is no test set", blocks)


def _tests(duels: Sequence[Duel]) -> list[Block]:
    return [
        Prose(
            f"{len(duels)} tests, adjusted as one family (Holm). A verdict needs two things to agree: the paired test (McNemar's "
            "exact one where every group holds one item, else sign flips of whole groups), and the interval of the difference, "
            "resampled by groups."
        ),
        tables.duel_table(duels),
    ]


def _price(evidence: Sequence[Evidence], timing: str) -> list[Block]:
    note = (
        f"Step time and memory differ from run to run and machine to machine: [{timing}]({timing}), beside this file, has them."
    )
    return [tables.cost_table(evidence), Prose(note, "quiet")]


def _rollbacks(evidence: Sequence[Evidence]) -> list[Block]:
    told = [_rollback(one, rollback) for one in evidence for rollback in one.rollbacks]
    if not told:
        return []
    text = (
        "**Not all trainings ran through.** An alarm took some back to an earlier checkpoint, with a lower learning rate "
        "(`train.health.action: rollback`): what was learnt in between is no part of their weights."
    )
    return [Prose(text), Bullets(told)]


def _rollback(one: Evidence, rollback: dict[str, Any]) -> str:
    why = "; ".join(f"{alarm['name']}: {alarm['evidence']}" for alarm in rollback["alarms"])
    return (
        f"{title(one.name)}, at step {rollback['step']}: back to the weights of step {rollback['to']} ({why}); from there on "
        f"{rollback['lr_factor']:g} times the schedule's learning rate."
    )


def _routing(evidence: Sequence[Evidence]) -> list[Section]:
    log = RoutingLog.of(evidence[0].routing)
    if log.empty:
        return []
    placed_LM, effective_LM = log.last(log.placed_SLM), log.last(log.effective_SLM)
    least = ", ".join(f"{modality} {percent(float(placed_LM[:, m].min()))}" for m, modality in enumerate(MODALITIES))
    used = "; ".join(
        f"block {block}: " + ", ".join(f"{modality} {effective_LM[layer, m]:.1f}" for m, modality in enumerate(MODALITIES))
        for layer, block in enumerate(log.layers_L)
    )
    text = (
        f"Tokens placed at the end of the training (mean of the last 50 steps), in the layer that places least: {least}. "
        f"Effective experts, of {log.assigned_SLME.shape[-1]}: {used}. Evaluation drops nothing."
    )
    blocks: list[Block] = [
        Prose(text),
        routing_figures.load_map(log),
        tables.routing_table(log),
        routing_figures.placed_lines(log),
    ]
    if (routed := evidence[0].routed) is not None:
        blocks += routing_analysis.summary(routed)
    return [Section("routing", "Routing", blocks)]


def _published() -> list[Block]:
    text = (
        f"**{NOTICE}** with anything above: models of up to billions of parameters, trained on billions of photos and tested "
        "on photos. They show what the method reached at scale. Two versions of the paper give two numbers; both are quoted."
    )
    return [Prose(text), tables.published_table()]


def _repeat(evidence: Sequence[Evidence], params: CompareParams) -> list[Block]:
    settings = evidence[0].provenance["evaluate"]
    prompts = ", ".join(f"`{template}`" for template in settings["templates"])
    text = (
        "`dvc repro` with the settings below, the same seeds and number of threads, gives this page again on the same "
        f"machine, byte by byte. Budget {describe_budget(evidence[0].settings)}. Class prompts: {prompts}. "
        f"Intervals: {params.bootstrap:,} resamples, "
        f"tests: as many sign flips; seed {params.seed}."
    )
    return [
        Prose(text),
        tables.hash_table(evidence),
        Fold("Settings of the trainings", [tables.settings_table(evidence)]),
    ]
