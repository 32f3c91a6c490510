"""A sweep, driven by a fake runner: what it hands out, what it tells Optuna, and that no kill loses or repeats a trial."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweepkit import start, tiny

import limoe.files
from limoe.config import Params
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.sweep.outcome import Outcome, read_outcome, write_outcome
from limoe.sweep.pages import report_sweep
from limoe.sweep.points import FINAL_SEEDS, PENALTY
from limoe.sweep.reports import append_report
from limoe.sweep.role import Role, read_role
from limoe.sweep.space import Space
from limoe.sweep.spec import read_spec
from limoe.sweep.storage import JOURNAL, KernelLock, mend, without_password
from limoe.sweep.study import Sweep, SweepSettings, Work

LR = {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
SPACE = LR | {
    "model.moe.experts": {"choices": [2, 4]},
    "model.moe.k": {"choices": [1, 2], "when": {"model.moe.experts": [4]}},
}
GRID = {"model.moe.experts": {"choices": [2, 3, 4]}}


@pytest.fixture(autouse=True)
def no_disk_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def base() -> Params:
    return tiny()


def made(root: Path, base: Params, document: Any = SPACE, data: str = "data", **settings: Any) -> Sweep:
    asked = SweepSettings(**{"name": "s", "sampler": "random", "trials": 6, "seeds": 2, "reports": 3} | settings)
    space = Space.parse(document, base, asked.contestant, "space")
    sweep = Sweep(asked, space, base, Paths(root), data)
    sweep._recommended = lambda: best_two(sweep)  # type: ignore[method-assign]  # the analysis has tests of its own
    return sweep


def best_two(sweep: Sweep) -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for point in sorted(complete(sweep), key=lambda point: point.verdict.loss or 0):
        found += [] if point.values in found else [point.values]
    yield from found[:2]


def complete(sweep: Sweep) -> list[Any]:
    return [point for point in sweep._points if point.verdict and point.verdict.state == "complete"]


def bowl(work: Work) -> Outcome:
    """A loss by learning rate, experts and seed; one part of the space diverges."""
    train = work.spec.params["train"]
    loss = 2 + (math.log10(train["lr"]) + 3) ** 2 + 0.1 * work.spec.values["model.moe.experts"] + 0.01 * work.seed
    if train["lr"] > 6e-3:
        return Outcome("diverged", step=3, evidence="nan", steps_planned=train["steps"], seconds=1.0)
    return Outcome("ok", step=train["steps"], evidence="", steps_planned=train["steps"], seconds=2.0, loss=loss)


@dataclass
class Runner:
    """Runs what a sweep hands out, one at a time, and counts the runs that came to an end."""

    ends: Callable[[Work], Outcome] = bowl
    ran: Counter[str] = field(default_factory=Counter)
    order: list[Work] = field(default_factory=list)

    def run(self, sweep: Sweep, work: Work) -> None:
        if read_outcome(work.folder) is None:
            self.order.append(work)
            outcome = self.ends(work)
            write_outcome(work.folder, outcome)
            self.ran[work.folder.name] += 1
        sweep.finish(work, read_outcome(work.folder) or self.ends(work))

    def drive(self, sweep: Sweep) -> Sweep:
        while (work := sweep.next()) is not None:
            self.run(sweep, work)
        return sweep


def told(sweep: Sweep) -> list[tuple[Any, ...]]:
    study = optuna.load_study(study_name=sweep.settings.name, storage=sweep._study._storage)
    return [(trial.number, trial.state.name, trial.values, trial.params) for trial in study.get_trials(deepcopy=False)]


def on_disk(sweep: Sweep) -> dict[str, tuple[Any, ...]]:
    return {path.name: (read_outcome(path), read_role(path), read_spec(path)) for path in sweep.folder.glob("trials/*")}


# what it hands out


def test_points_seeds_and_finals(tmp_path: Path, base: Params) -> None:
    runner = Runner()
    sweep = runner.drive(made(tmp_path, base, trials=9, seeds=3))
    assert sweep.done
    assert sweep.next() is None
    search = [work for work in runner.order if work.phase == "search"]
    by_point = Counter(work.number for work in search)
    # by hand: each point runs seed 0; then further ones while it is in the better third of the points so far
    closed: list[float] = []
    for number in range(9):
        runs = [work for work in search if work.number == number]
        assert [work.seed for work in runs] == list(range(by_point[number]))
        losses = [loss for work in runs if (loss := bowl(work).loss) is not None]
        if len(losses) < len(runs):
            assert by_point[number] == 1
            closed.append(math.inf)
            continue
        ranks = [
            sum(other < sum(losses[:n]) / n for other in closed) < math.ceil((len(closed) + 1) / 3)
            for n in (1, 2, 3)[: len(losses)]
        ]
        assert ranks[:-1] == [True] * (len(losses) - 1)
        assert len(losses) == 3 or not ranks[-1]
        closed.append(sum(losses) / len(losses))
    assert len(set(by_point.values())) > 1
    for number, state, values, _ in told(sweep):
        assert (state, values) == ("COMPLETE", [pytest.approx(min(closed[number], PENALTY))])
    final = [work for work in runner.order if work.phase == "final"]
    assert [work.seed for work in final] == [seed for seed in FINAL_SEEDS for _ in range(2)]
    best = sorted(range(9), key=lambda number: closed[number])[:2]
    assert [work.number for work in final[:2]] == best
    assert [found.values for found in sweep.published] == [told(sweep)[number][3] for number in best]
    assert sweep.published[0].outcomes == {work.seed: bowl(work) for work in final[::2]}


def test_what_a_trial_is_told(tmp_path: Path, base: Params) -> None:
    sweep = made(tmp_path, base)
    work = sweep.next()
    assert work is not None
    spec = read_spec(work.folder)
    assert spec == work.spec
    assert (spec.contestant, spec.seed, spec.reports) == ("limoe", 0, 3)
    assert spec.params["train"]["lr"] == spec.values["train.lr"]
    assert Params.parse(spec.params, "spec").train.seed == 0
    assert work.folder.name == spec.fingerprint("data")
    assert work.folder.parent == Paths(tmp_path).sweep("s") / "trials"
    assert read_role(work.folder) == Role(0, "search")
    assert not sweep.done


def test_work_is_handed_out_once_and_again_when_asked(tmp_path: Path, base: Params) -> None:
    sweep = made(tmp_path, base, trials=2)
    first, second = sweep.next(), sweep.next()
    assert first is not None
    assert second is not None
    assert first.folder != second.folder
    assert sweep.next() is None
    assert not sweep.done
    assert sweep.published == sweep.finalists() == []
    sweep.retry(first)
    assert sweep.next() == first
    assert sweep.next() is None


def test_a_point_suggested_twice_is_run_once(tmp_path: Path, base: Params) -> None:
    document = {"model.moe.experts": {"choices": [2, 4]}}
    ends = lambda work: Outcome("ok", 12, "", 12, 1.0, loss=1.0 + work.spec.values["model.moe.experts"])  # noqa: E731
    runner = Runner(ends)
    sweep = made(tmp_path, base, document, trials=8, seeds=1)
    running: list[Work] = []
    while not sweep.done:
        while (work := sweep.next()) is not None:
            running.append(work)
        waiting = [point.values for point in sweep._points if point.verdict is None][
            len([w for w in running if w.phase == "search"]) :
        ]
        assert len(waiting) <= 1  # who waits for an equal point's trial keeps the sampler from suggesting more of the same
        runner.run(sweep, running.pop())
    assert Counter(runner.ran.values()) == {1: 2 + 2 * 5}
    assert len(told(sweep)) == 8
    assert all(values == [1.0 + params["model.moe.experts"]] for _, _, values, params in told(sweep))


def test_a_grid_ends_when_it_is_walked(tmp_path: Path, base: Params) -> None:
    runner = Runner(lambda work: Outcome("ok", 12, "", 12, 1.0, loss=float(work.spec.values["model.moe.experts"])))
    sweep = runner.drive(made(tmp_path, base, GRID, sampler="grid", trials=100, seeds=1))
    assert sweep.done
    assert sorted(params["model.moe.experts"] for *_, params in told(sweep)) == [2, 3, 4]
    assert (sweep.planned, sweep.refused) == (3, {})


def test_values_that_do_not_fit_together_are_a_point_without_a_trial(tmp_path: Path, base: Params) -> None:
    document = {"model.moe.experts": {"choices": [2, 4]}, "model.moe.k": {"choices": [1, 4]}}
    runner = Runner(lambda _: Outcome("ok", 12, "", 12, 1.0, loss=1.0))
    sweep = runner.drive(made(tmp_path, base, document, sampler="grid", trials=4, seeds=1))
    assert sweep.done
    assert Counter(state for _, state, *_ in told(sweep)) == {"COMPLETE": 3, "FAIL": 1}
    assert [params for number, *_, params in told(sweep) if number in sweep.refused] == [
        {"model.moe.experts": 2, "model.moe.k": 4}
    ]
    assert "k (4) must not exceed experts (2)" in next(iter(sweep.refused.values()))
    assert made(tmp_path, base, document, sampler="grid", trials=4, seeds=1).done


def test_a_sweep_whose_points_are_all_refused_can_be_reported(tmp_path: Path, base: Params) -> None:
    document = {"model.moe.experts": {"choices": [2, 4]}, "model.moe.k": {"choices": [1, 4]}}
    refused = next(seed for seed in range(20) if _first(tmp_path / str(seed), base, document, seed) is None)
    sweep = made(tmp_path / str(refused), base, document, trials=1, seed=refused)
    assert sweep.done
    found, _ = report_sweep(sweep.folder)
    assert found.counts.trials == 0


def _first(root: Path, base: Params, document: Any, seed: int) -> Work | None:
    return made(root, base, document, trials=1, seed=seed).next()


def test_a_study_whose_directories_are_gone_is_refused(tmp_path: Path, base: Params) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    sweep = Runner().drive(made(tmp_path, base, trials=2, seeds=1, storage=url))
    assert sweep.done
    shutil.rmtree(sweep.folder)
    with pytest.raises(UserError, match=r"point 0 .* has no directory .* another name"):
        made(tmp_path, base, trials=2, seeds=1, storage=url)


# what Optuna is told


@pytest.mark.parametrize(
    "kind, step, loss, state, value",
    [
        ("ok", 12, 2.0, "COMPLETE", 2.0),
        ("unhealthy", 12, 2.0, "COMPLETE", 2.0),
        ("collapsed", 12, 2.0, "COMPLETE", 2.0),
        ("diverged", 5, None, "COMPLETE", PENALTY),
        ("oom", 0, None, "FAIL", None),
        ("error", 0, None, "FAIL", None),
    ],
)
def test_outcomes_as_they_are_told(
    tmp_path: Path, base: Params, kind: Any, step: int, loss: float | None, state: str, value: Any
) -> None:
    runner = Runner(lambda _: Outcome(kind, step, "why", 12, 1.0, loss=loss))
    sweep = made(tmp_path, base, trials=1, seeds=1)
    for _ in range(2 if kind == "error" else 1):
        work = sweep.next()
        assert work is not None
        runner.run(sweep, work)
    assert told(sweep)[0][1:3] == (state, None if value is None else [pytest.approx(value)])


@pytest.mark.parametrize("kind", ["killed", "error"])
def test_what_a_machine_may_have_caused_is_retried_once(tmp_path: Path, base: Params, kind: Any) -> None:
    ends = iter([Outcome(kind, 5, "why", 12), Outcome("ok", 12, "", 12, 1.0, loss=2.0), *[Outcome(kind, 5, "why", 12)] * 2])
    runner = Runner(lambda _: next(ends))
    sweep = made(tmp_path, base, trials=2, seeds=1)
    for _ in range(4):
        work = sweep.next()
        assert work is not None
        (work.folder / "checkpoints").mkdir(exist_ok=True)
        runner.run(sweep, work)
        if len(runner.order) in (1, 3):
            assert (work.folder / "checkpoints").exists()  # what the second attempt goes on from
    assert not (work.folder / "checkpoints").exists()  # nobody goes on from it any more
    assert [work.number for work in runner.order] == [0, 0, 1, 1]
    assert [row[1:3] for row in told(sweep)] == [("COMPLETE", [2.0]), ("FAIL", None)]


def test_cost_as_a_second_objective(tmp_path: Path, base: Params) -> None:
    sweep = Runner().drive(made(tmp_path, base, trials=12, seeds=1, objectives=("loss", "seconds"), sampler="sobol"))
    assert {values[0] < PENALTY for *_, values, _ in told(sweep)} == {True, False}
    # 1 s for 3 of 12 steps is 4 s for all: what diverges early is not cheap
    assert [values[1] for *_, values, _ in told(sweep)] == [2.0 if values[0] < PENALTY else 4.0 for *_, values, _ in told(sweep)]
    with pytest.raises(UserError, match="the pruner must be none"):
        made(tmp_path / "b", base, objectives=("loss", "seconds"), pruner="median")


def report(work: Work, *losses: float | None) -> None:
    for number, loss in enumerate(losses):
        append_report(work.folder, {"step": 4 * (number + 1), "seconds": 1.0} | ({} if loss is None else {"loss": loss}))


def test_pruning(tmp_path: Path, base: Params) -> None:
    def fresh() -> Sweep:
        return made(tmp_path, base, trials=3, seeds=2, pruner="successive-halving")

    sweep = fresh()
    good, bad = sweep.next(), sweep.next()
    assert good is not None
    assert bad is not None
    report(good, 3.0)
    sweep.watch([good, bad])
    report(bad, 4.0)
    sweep.watch([good, bad])
    sweep.watch([good, bad])  # nothing new: nothing is reported twice
    assert not (good.folder / "prune").exists()
    assert (bad.folder / "prune").exists()
    sweep = fresh()  # the flow is killed here: both run again, and the one still knows that it is given up
    assert [sweep.next(), sweep.next()] == [good, bad]
    report(good, 2.5, 2.0)  # the last two while nobody was looking
    sweep.finish(bad, Outcome("pruned", 4, "", 12, 1.0, loss=4.0))
    sweep.finish(good, Outcome("ok", 12, "", 12, 1.0, loss=2.0))
    first, second = sweep._study.trials[:2]
    assert second.state == TrialState.PRUNED
    assert second.value == 4.0
    assert second.intermediate_values == {1: 4.0}
    again = sweep.next()
    assert again is not None
    assert (again.number, again.seed) == (0, 1)  # promising: the only one that succeeded
    report(again, 9.0)
    sweep.watch([again])
    assert not (again.folder / "prune").exists()  # who is repeated has proved worth it
    sweep.finish(again, Outcome("ok", 12, "", 12, 1.0, loss=3.0))
    first = sweep._study.trials[0]
    assert (first.value, first.intermediate_values) == (2.5, {1: 3.0, 2: 2.5, 3: 2.0})


def test_a_last_report_prunes_nothing_and_a_missing_loss_is_passed_over(tmp_path: Path, base: Params) -> None:
    sweep = made(tmp_path, base, trials=2, seeds=1, pruner="successive-halving")
    good, bad = sweep.next(), sweep.next()
    assert good is not None
    assert bad is not None
    report(good, 1.0, 1.0, 1.0)
    report(bad, None, None, 5.0)
    sweep.watch([good, bad])
    assert not (bad.folder / "prune").exists()
    assert sweep._study.trials[1].intermediate_values == {3: 5.0}


# kills


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Knife:
    """Counts what the sweep writes down, and kills it before the write number `at` (the journal: or within it)."""

    at: int = -1
    half: bool = False
    count: int = 0

    def cut(self) -> bool:
        self.count += 1
        return self.count - 1 == self.at

    def install(self, patch: pytest.MonkeyPatch) -> None:
        whole_file, append, move = limoe.files.atomic_file, JournalFileBackend.append_logs, Path.replace

        @contextmanager
        def atomic_file(path: Path) -> Iterator[Any]:
            if self.cut():
                raise Killed
            with whole_file(path) as handle:
                yield handle

        def append_logs(backend: Any, logs: Any) -> None:
            if not self.cut():
                append(backend, logs)
                return
            if self.half:
                with Path(backend._file_path).open("ab") as handle:
                    handle.write(json.dumps(logs[0]).encode()[:20])
            raise Killed

        def rename(path: Path, target: Path) -> Path:
            if path.name == "outcome.json" and self.cut():
                raise Killed
            return move(path, target)

        patch.setattr(limoe.files, "atomic_file", atomic_file)
        patch.setattr(JournalFileBackend, "append_logs", append_logs)
        patch.setattr(Path, "replace", rename)


def flaky(work: Work) -> Outcome:
    """As `bowl`; but the machine kills the first run of one trial."""
    if work.number == 1 and work.seed == 0 and not (work.folder / "outcome.1.json").exists():
        return Outcome("killed", 3, "killed by SIGKILL", 12)
    return bowl(work)


def cut_at(root: Path, base: Params, at: int, half: bool, **settings: Any) -> tuple[Sweep, Runner, int]:
    """A sweep that is killed before its write number `at` and then started again, until it is done."""
    runner, knife = Runner(flaky), Knife(at, half)
    with pytest.MonkeyPatch.context() as patch:
        knife.install(patch)
        try:
            sweep = runner.drive(made(root, base, **settings))
        except Killed:
            sweep = runner.drive(made(root, base, **settings))
    return sweep, runner, knife.count


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_killed_at_any_write_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, base: Params, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"sampler": sampler, "trials": 3, "seeds": 2}
    if sampler == "tpe":  # has only three points here: it shall learn from the first one on
        monkeypatch.setattr("limoe.sweep.samplers._tpe", lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
    monkeypatch.setattr("limoe.sweep.study.FINAL_SEEDS", (1000,))
    whole, runner, writes = cut_at(tmp_path / "whole", base, -1, False, **settings)
    expected, trials = told(whole), on_disk(whole)
    assert whole.done
    assert writes > 30
    assert Counter(runner.ran.values()) == {1: len(trials) - 1, 2: 1}  # the one that the machine killed ran twice
    for at in range(writes):
        sweep, runner, _ = cut_at(tmp_path / str(at), base, at, at % 2 == 0, **settings)
        assert sweep.done, at
        assert told(sweep) == expected, at
        assert on_disk(sweep) == trials, at
        assert set(runner.ran) == set(trials), at  # none lost
        assert Counter(runner.ran.values()) == {1: len(trials) - 1, 2: 1}, at  # none redone


def test_killed_among_concurrent_trials_none_is_lost_or_redone(tmp_path: Path, base: Params) -> None:
    def race(root: Path, kill: int) -> tuple[Counter[str], set[Any]]:
        runner, sweep, steps = Runner(), made(root, base, trials=8, seeds=1), 0
        running: list[Work] = []
        while not sweep.done:
            while len(running) < 3 and (work := sweep.next()) is not None:
                running.append(work)
            steps += 1
            if steps == kill:  # the flow dies; two of its trials end all the same
                for work in running[:2]:
                    write_outcome(work.folder, bowl(work))
                    runner.ran[work.folder.name] += 1
                sweep, running = made(root, base, trials=8, seeds=1), []
                continue
            runner.run(sweep, running.pop(len(running) // 2))
        return runner.ran, {(spec.seed, str(spec.values)) for *_, spec in on_disk(sweep).values()}

    whole = race(tmp_path / "whole", -1)
    assert set(whole[0].values()) == {1}
    for kill in range(1, 19):
        assert race(tmp_path / str(kill), kill) == whole


def test_a_study_that_is_lost_is_built_again_from_the_directories(tmp_path: Path, base: Params) -> None:
    sweep = Runner().drive(made(tmp_path, base))
    expected = told(sweep)
    (sweep.folder / JOURNAL).unlink()
    runner = Runner()
    again = runner.drive(made(tmp_path, base))
    assert told(again) == expected
    assert not runner.ran


# what may change between two starts


def test_more_points_go_on_and_choose_finalists_anew(tmp_path: Path, base: Params) -> None:
    runner = Runner()
    before = runner.drive(made(tmp_path, base, trials=3))
    assert len(before.published) == 2
    after = runner.drive(made(tmp_path, base, trials=6))
    assert after.done
    assert set(runner.ran.values()) == {1}
    assert told(after)[:3] == told(before)[:3]
    assert len(told(after)) == 6
    assert json.loads((after.folder / "sweep.json").read_text())["trials"] == 6


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seeds": 3}, "settings.seeds was 2 and is 3"),
        ({"sampler": "tpe"}, "settings.sampler was 'random' and is 'tpe'"),
        ({"data": "other"}, "data was 'data' and is 'other'"),
        ({"document": LR}, "space.model.moe.experts.choices was [2, 4] and is 'absent' (and 2 more)"),
        ({"base": tiny("train.steps=13")}, "params.train.steps was 12 and is 13"),
        ({"storage": "sqlite://"}, "settings.storage was None and is 'sqlite://'"),
    ],
)
def test_other_settings_need_another_name(tmp_path: Path, base: Params, change: dict[str, Any], said: str) -> None:
    made(tmp_path, base)
    with pytest.raises(UserError) as caught:
        made(tmp_path, **({"base": base} | change))
    assert said in str(caught.value)
    assert "start anew under another name" in str(caught.value)
    made(tmp_path, base)
    made(tmp_path, tiny("machine.workers=2"))
    made(tmp_path, **({"base": base} | change), name="another")


def test_other_code_needs_another_name(tmp_path: Path, base: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, base)
    monkeypatch.setattr("limoe.sweep.spec.code_hash", lambda _: "other")
    with pytest.raises(UserError, match="other settings: training_code was"):
        made(tmp_path, base)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"name": "../x"}, "name '../x' is not allowed"),
        ({"trials": 0}, "trials = 0"),
        ({"seeds": 0}, "seeds = 0"),
        ({"seeds": 1001}, "seeds = 1001"),
        ({"reports": 0}, "reports = 0"),
        ({"seed": -1, "sampler": "sobol"}, "seed = -1 is not allowed"),
        ({"objectives": ("seconds",)}, "loss or loss,seconds are"),
        ({"sampler": "tpee"}, "did you mean tpe?"),
        ({"sampler": "grid"}, "train.lr is a continuous range"),
        ({"pruner": "medan"}, "did you mean median?"),
        ({"storage": "nosql://x:geheim@y/z"}, "storage nosql://x@y/z: cannot be opened"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, base: Params, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        made(tmp_path, base, **change)
    assert said in str(caught.value)


# storage


def test_a_database_by_url(tmp_path: Path, base: Params) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    runner = Runner()
    sweep = made(tmp_path, base, trials=2, seeds=1, storage=url)
    work = sweep.next()
    assert work is not None
    runner.run(sweep, work)
    runner.drive(made(tmp_path, base, trials=2, seeds=1, storage=url))
    assert set(runner.ran.values()) == {1}
    assert not (sweep.folder / JOURNAL).exists()
    study = optuna.load_study(study_name="s", storage=url)
    assert len(study.trials) == 2


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    for content, kept in ((b"", b""), (b"{}\n", b"{}\n"), (b'{}\n{"a":', b"{}\n"), (b'{"a"', b"")):
        path.write_bytes(content)
        mend(path, KernelLock(path))
        assert path.read_bytes() == kept
    path.unlink()
    mend(path, KernelLock(path))
    assert not path.exists()


@pytest.mark.parametrize(
    "url, written",
    [
        ("postgresql+psycopg://a:b@c/d", "postgresql+psycopg://a@c/d"),
        ("postgresql+psycopg://a:se/cr@c/d", "postgresql+psycopg://a@c/d"),
        ("postgresql+psycopg://c/d?user=a&password=secret&sslmode=require", "postgresql+psycopg://c/d?sslmode=require&user=a"),
        ("sqlite:///a:b.db", "sqlite:///a:b.db"),
        ("secret", "a URL that cannot be read"),
    ],
)
def test_passwords_are_not_written_down(url: str, written: str) -> None:
    assert without_password(url) == written


def test_a_storage_that_cannot_be_opened_takes_no_name(tmp_path: Path, base: Params) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        made(tmp_path, base, storage=f"sqlite:///{tmp_path}/no/such/folder/study.db")
    assert Runner().drive(made(tmp_path, base, trials=1, seeds=1, storage=f"sqlite:///{tmp_path}/study.db")).done


# the recommendation


def test_the_finalists_are_the_analysis_recommendation(tmp_path: Path, base: Params) -> None:
    sweep = made(tmp_path, base, trials=10, seeds=2)
    del sweep._recommended
    sweep = Runner().drive(sweep)
    assert sweep.done
    tried = [point.values for point in sweep._points]
    assert 1 <= len(sweep.finalists()) <= 2
    assert all(values in tried for values in sweep.finalists())
    assert [found.values for found in sweep.published] == sweep.finalists()


@pytest.mark.parametrize("only", [{"model.moe.priority": {"choices": ["bpr"]}}, {"model.moe.tau_text": {"choices": [None]}}])
def test_a_name_with_one_choice_ends_in_a_recommendation_too(tmp_path: Path, base: Params, only: dict[str, Any]) -> None:
    sweep = made(tmp_path, base, LR | only, trials=4, seeds=1)
    del sweep._recommended
    sweep = Runner(lambda work: Outcome("ok", 12, "fine", 12, 1.0, loss=2 + work.number / 10)).drive(sweep)
    report_sweep(sweep.folder)
    ((name, spec),) = only.items()
    assert {values[name] for values in sweep.finalists()} == set(spec["choices"])


def test_without_a_success_there_are_no_finalists(tmp_path: Path, base: Params) -> None:
    sweep = made(tmp_path, base, trials=2, seeds=1)
    del sweep._recommended
    sweep = Runner(lambda _: Outcome("diverged", 3, "nan", 12, 1.0)).drive(sweep)
    assert sweep.done
    assert sweep.finalists() == sweep.published == []


def test_trainings_that_would_roll_back_are_refused(tmp_path: Path) -> None:
    sentence = r"train\.health\.action = rollback is not allowed in a sweep, an ablation or seeds: .* set it to warn"
    with pytest.raises(UserError, match=sentence):
        made(tmp_path, tiny("train.health.action=rollback"))
    assert not list(tmp_path.iterdir())


def first(sweep: Sweep) -> Path:
    work = sweep.next()
    assert work is not None
    return work.folder


def test_a_start_that_was_trained_anew_is_another_sweep(tmp_path: Path) -> None:
    base, moved = tiny("train.start_from=model"), tiny("contestants={limoe: {start_from: moved}, dense: {}, clip: {}}")
    before = start(tmp_path / "model", "before")
    folder = first(made(tmp_path, base))
    assert read_spec(folder).start == before
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    after = start(tmp_path / "model", "after")
    with pytest.raises(UserError, match=f"other settings: start_from.limoe was '{before}' and is '{after}' .* another name"):
        made(tmp_path, base)
    assert first(made(tmp_path, moved)) == folder, "its content is as before"
    with pytest.raises(UserError, match=f"other settings: start_from.limoe was '{before}' and is None"):
        made(tmp_path, tiny())
    assert first(made(tmp_path, base, name="another")).name != folder.name


def test_so_is_a_start_that_is_searched(tmp_path: Path, base: Params) -> None:
    space = {"train.start_from": {"choices": [None, "a", "b"]}}
    hashes = {None: None} | {name: start(tmp_path / name, name) for name in "ab"}
    sweep = made(tmp_path, base, space, sampler="grid", seeds=1)
    runner = Runner(lambda _: Outcome("ok", 12, "", 12, 1.0, loss=2.0))
    runner.drive(sweep)
    specs = [read_spec(path) for path in (sweep.folder / "trials").iterdir()]
    assert {spec.values["train.start_from"]: spec.start for spec in specs} == hashes
    after = start(tmp_path / "b", "other")
    with pytest.raises(UserError, match=f"other settings: start_from.b was '{hashes['b']}' and is '{after}'"):
        made(tmp_path, base, space, sampler="grid", seeds=1)


def test_a_start_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    missing = tiny("contestants={limoe: {}, dense: {start_from: nowhere}, clip: {}}")
    with pytest.raises(UserError, match=r"train.start_from: \S*nowhere is no model directory"):
        made(tmp_path, missing, contestant="dense", document=LR)
    made(tmp_path, missing)
