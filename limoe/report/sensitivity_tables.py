"""Tables of what a sweep recommends and of what decides success. `facts` is `Sensitivity.to_dict()` of limoe/sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limoe.report.document import Cell, Table
from limoe.report.values import between, brief, loss_of, value_of

Facts = Mapping[str, Any]
PAIRS = 5  # shown without asking
ROLES = (("robust", "Robust recipe"), ("runner_up", "Runner-up"), ("best_run", "Best single run"))


def recipe_table(facts: Facts) -> Table:
    """The robust optimum, the runner-up and the best single run, setting by setting, and what stands behind each."""
    found = facts["recommendation"]
    roles = [(title, found[role]) for role, title in ROLES if found[role] is not None]
    rows = [
        [Cell(f"`{axis['name']}`"), *(Cell(value_of(choice["values"], axis["name"])) for _, choice in roles)]
        for axis in facts["axes"]
    ]
    for title, note, name in (
        ("Loss", "mean over its seeds", "loss"),
        ("Expected loss", "with neighbours", "expected"),
        ("Upper bound", "95%; what the robust recipe minimises", "bound"),
    ):
        rows.append([Cell(title, note), *(loss_cell(choice[name]) for _, choice in roles)])
    rows.append([Cell("Seeds", "failed"), *(Cell(str(c["seeds"]), f"{c['failures']} failed", c["seeds"]) for _, c in roles)])
    rows.append(
        [Cell("Neighbours", "trials, effectively"), *(Cell(f"{c['neighbours']:.1f}", sort=c["neighbours"]) for _, c in roles)]
    )
    columns = ["Setting", *(title for title, _ in roles)]
    return Table("The recommendation beside the best single run", columns, rows, frozenset(range(1, len(columns))))


def loss_cell(loss: float | None, note: str = "") -> Cell:
    """A loss in nats."""
    return Cell(loss_of(loss), note, 1e9 if loss is None else loss)


def finals_table(facts: Facts) -> Table:
    """What the reruns on fresh seeds gave: the figures to quote."""
    found = facts["recommendation"] or {}
    roles = {found[role]["point"]: told for role, told in reversed(ROLES) if found.get(role)}
    rows = []
    for one in sorted(facts["finals"], key=lambda one: one["point"] != (found.get("robust") or {}).get("point")):
        losses, success = one["losses"], one["success"]
        spread = "" if one["spread"] is None else f"sd {one['spread']:.3f}"
        rows.append(
            [
                Cell(roles.get(one["point"], "Recipe"), f"point {one['point']}"),
                loss_cell(one["mean"], spread),
                Cell(f"{min(losses):.3f} to {max(losses):.3f}" if losses else "–"),
                Cell(f"{success['hits']:.0f} of {success['n']:.0f}", between(success), success["hits"]),
            ]
        )
    return Table("Rerun on fresh seeds", ["Recipe", "Loss", "Lowest to highest", "Succeeded"], rows, frozenset({1, 2, 3}))


def reach_table(facts: Facts) -> Table:
    """How far each parameter of the recommendation may move, the others fixed."""
    rows = []
    for one in facts["recommendation"]["reach"]:
        rows.append([Cell(f"`{one['name']}`"), Cell(brief(one["value"])), Cell(*_limits(one)), Cell(*_chance(one))])
    columns = ["Setting", "Recommended", "May lie within", "P(success) where it is"]
    return Table(
        "How far each setting may move before P(success) falls under 90%, others fixed", columns, rows, frozenset({1, 3})
    )


def _limits(one: Facts) -> tuple[str, str]:
    if one["allowed"] is not None:
        return ", ".join(brief(value) for value in one["allowed"]) or "none", "of the choices that were tried"
    if one["low"] is None:
        return "no room", "it is below 90% already"
    edges = [end for end, is_edge in (("low", one["low_is_edge"]), ("high", one["high_is_edge"])) if is_edge]
    note = {0: "", 1: f"the {''.join(edges)} end is that of the search", 2: "all that was tried"}[len(edges)]
    return f"{brief(float(one['low']))} to {brief(float(one['high']))}", note


def _chance(one: Facts) -> tuple[str, str, float]:
    value = one["probability"]
    return ("?", "", -1.0) if value is None else (f"{value:.0%}", "", value)


def interaction_tables(facts: Facts) -> tuple[Table, Table | None]:
    """The pairs with the strongest evidence that they act together, and the rest."""
    found = sorted(facts["interactions"], key=lambda one: float(one["p"]))
    rows = [
        [
            Cell(f"`{one['first']}` and `{one['second']}`"),
            Cell(one["target"]),
            Cell(f"{one['statistic']:.1f}", f"{one['df']} df", one["statistic"]),
            p_cell(one["p"]),
            p_cell(one["p_holm"]),
        ]
        for one in found
    ]
    columns, numeric = ["Pair", "Acts on", "Chi-squared", "p", "p (Holm)"], frozenset({2, 3, 4})
    rest = Table("The other pairs", columns, rows[PAIRS:], numeric) if rows[PAIRS:] else None
    return Table("Evidence that two settings act together", columns, rows[:PAIRS], numeric), rest


def p_cell(p: float) -> Cell:
    """A p-value in three decimals."""
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", sort=p)


def importance_table(facts: Facts, names: Sequence[str]) -> Table:
    """Both measures of importance for both targets, in the order of `names`."""
    targets = [(target, facts[target]) for target in ("quality", "failure")]
    columns, rows = ["Setting"], [[Cell(f"`{name}`")] for name in names]
    for target, importance in targets:
        for told, method in (("fANOVA", "fanova"), ("PED-ANOVA", "ped_anova")):
            if importance[method]:
                columns.append(f"{target}, {told}")
                for name, row in zip(names, rows, strict=True):
                    value = importance[method].get(name, 0.0)
                    row.append(Cell(f"{value:.0%}", sort=value))
    return Table("Importances; each column sums to 100%", columns, rows, frozenset(range(1, len(columns))))
