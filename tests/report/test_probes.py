"""Probes in the report: their scores, their spread and their tests, apart from everything else; no word where there are none."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evalkit import tiny_params
from reportkit import PICTURES, nested_hits, only_validation, plant

from limoe.config import CONTESTANTS
from limoe.evals.compare import MCNEMAR, SIGN_FLIPS
from limoe.evals.metrics import LINEAR_PROBE
from limoe.evals.sets import Items, Outcome, Score, item_table, result_rows
from limoe.files import read_json, write_json
from limoe.report.document import Table
from limoe.report.evidence import load_evidence
from limoe.report.lineup import Lineup
from limoe.report.markdown import to_markdown
from limoe.report.probes import probes_section
from limoe.report.scores import duels, measure
from limoe.report.story import tell

PARAMS = tiny_params()
SHARES = {"limoe": 0.60, "dense": 0.30, "clip": 0.60}


def plant_probes(paths, name, sets=("unseen-style", "val")):
    """A 5-shot probe of two draws, the second of which hits nothing more, and a full one."""
    folder = paths.evaluate(name)
    for where in sets:
        hits = nested_hits(SHARES[name], PICTURES, ("a", "b", "c"), 9)
        values = {"5-shot": (hits["a"] + (np.arange(PICTURES) % 2 == 0) * hits["a"]) / 2, LINEAR_PROBE: hits["a"]}
        groups = tuple(f"{where}-group-{number // 2}" for number in range(PICTURES))
        items = Items(tuple(f"{where}-{number}" for number in range(PICTURES)), groups, values)
        extra = (Score("5-shot/sd", 0.025, 2), Score(f"{LINEAR_PROBE}/l2", 0.01, 30))
        outcome = Outcome(where, (items,), extra)
        write_json(folder / "results.json", [*read_json(folder / "results.json"), *result_rows([outcome])])
        table = pa.concat_tables([pq.read_table(folder / "items.parquet"), item_table([outcome])])
        pq.write_table(table, folder / "items.parquet")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("plain"), PARAMS)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    paths = plant(tmp_path_factory.mktemp("probed"), PARAMS)
    for name in CONTESTANTS:
        plant_probes(paths, name)
    return paths


def found(paths):
    evidence = load_evidence(paths, CONTESTANTS)
    return evidence, measure(evidence, PARAMS.compare, 15)


def tables_of(sections):
    (section,) = sections
    return [block for block in section.blocks if isinstance(block, Table)]


def test_scores_stand_with_their_interval_and_their_spread(probed):
    scores, _ = tables_of(probes_section(*found(probed), PARAMS.compare))
    assert list(scores.columns) == ["Set", "LIMoE", "Dense tower", "CLIP", "Pictures"]
    assert [(row[0].text, row[0].note) for row in scores.rows] == [
        ("unseen-style", "5-shot probe"),
        ("unseen-style", "linear probe, all pictures"),
    ]
    few, full = scores.rows
    assert [cell.text for cell in full[1:]] == ["60.0%", "30.0%", "60.0%", "200"]
    for cell in few[1:4]:
        low, high = (float(bound) for bound in cell.note.split(";")[0].split(" to "))
        assert low < float(cell.text.rstrip("%")) < high
        assert cell.note.endswith("; sd 2.5 over 2 draws")
    assert "sd" not in full[1].note


def test_probes_are_tested_as_a_family_of_their_own(probed, plain):
    evidence, measured = found(probed)
    _, tests = tables_of(probes_section(evidence, measured, PARAMS.compare))
    verdicts = {(row[0].note, row[1].text): row[-1].text for row in tests.rows}
    assert verdicts == {
        ("5-shot probe", "Dense tower"): "better",
        ("linear probe, all pictures", "Dense tower"): "better",
        ("5-shot probe", "CLIP"): "no difference shown",
        ("linear probe, all pictures", "CLIP"): "no difference shown",
    }
    assert duels(evidence, PARAMS.compare) == duels(found(plain)[0], PARAMS.compare)


def test_every_probe_has_a_row_for_machines_and_every_other_row_stays(probed, plain):
    before, after = ({(one.model, one.set, one.metric): one.row() for one in found(paths)[1]} for paths in (plain, probed))
    assert {key: after[key] for key in before} == before
    new = {key[1:] for key in after.keys() - before.keys() if key[0] == "clip"}
    assert new == {(where, metric) for where in ("unseen-style", "val") for metric in ("5-shot", LINEAR_PROBE)}


def test_the_report_has_the_section_only_where_there_are_probes(probed, plain):
    documents = []
    for paths in (probed, plain):
        evidence, measured = found(paths)
        lineup = Lineup(evidence, {one.name: [one] for one in evidence}, {})
        documents.append(tell(lineup, measured, duels(evidence, PARAMS.compare), PARAMS.compare, "timing.md"))
    with_probes, without = documents
    assert [section.id for section in without.sections] == [s.id for s in with_probes.sections if s.id != "probes"]
    others = [section for section in with_probes.sections if section.id != "probes"]
    assert [section.blocks for section in others] == [section.blocks for section in without.sections]
    assert "5-shot probe" in to_markdown(with_probes, "report.html")


def test_on_validation_sets_alone_these_are_shown(tmp_path):
    paths = plant(tmp_path, PARAMS)
    for name in CONTESTANTS:
        plant_probes(paths, name, sets=("val",))
    scores, _ = tables_of(probes_section(*found(only_validation(paths)), PARAMS.compare))
    assert {row[0].text for row in scores.rows} == {"val"}


def test_mcnemars_test_is_for_hits_alone(tmp_path):
    paths = plant(tmp_path, PARAMS)
    for name in CONTESTANTS:
        plant_probes(paths, name)
        path = paths.evaluate(name) / "items.parquet"
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.column_names.index("group"), "group", table["key"]), path)
    tests = duels(load_evidence(paths, CONTESTANTS), PARAMS.compare, ("5-shot", LINEAR_PROBE))
    assert {(one.metric, one.paired.test) for one in tests} == {("5-shot", SIGN_FLIPS), (LINEAR_PROBE, MCNEMAR)}
