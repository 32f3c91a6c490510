"""The project's own promises: deps that are true, floors that hold, pins that fit, nothing that phones home."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from limoe.config import CONTESTANTS, Params
from limoe.deps import stale_stages
from limoe.doctor import canonical, pinned_versions
from limoe.paths import Paths

FLOORS = (  # a module may import its own floor and those before it
    (
        "limoe.config",
        "limoe.cores",
        "limoe.paths",
        "limoe.dist",
        "limoe.world",
        "limoe.mesh",
        "limoe.tracking",
        "limoe.errors",
        "limoe.interrupt",
        "limoe.files",
        "limoe.provenance",
        "limoe.plots",
        "limoe.paramsfile",
        "limoe.placement",
    ),
    ("limoe.model",),
    ("limoe.losses",),
    ("limoe.data",),
    ("limoe.evals",),
    ("limoe.train", "limoe.report"),
    ("limoe.stages",),
    ("limoe.sweep",),
    (
        "limoe.__main__",
        "limoe.api",
        "limoe.cli",
        "limoe.deps",
        "limoe.doctor",
        "limoe.info",
        "limoe.inspection",
        "limoe.overlay",
        "limoe.rank",
        "limoe.rehearse",
        "limoe.routing",
        "limoe.sensitivity",
    ),
    ("flows",),
)
LIGHT = ("limoe.dist", "limoe.world", "limoe.mesh", "limoe.model", "limoe.losses", "limoe.train", "limoe.evals")
LIGHT_MAY = {"torch", "torchvision", "numpy", "pyarrow", "PIL", "pydantic", "tokenizers", "safetensors", "torchmetrics", "limoe"}
ABSENT = "prefect mlflow dvc open_clip optuna webdataset plotly ruamel fastapi emoji resvg_py"
PICKLERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
REFUSE = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"{name} is not on this machine", name=name)
sys.meta_path.insert(0, Refuse())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def modules(project: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted([*(project / "limoe").rglob("*.py"), *(project / "flows").rglob("*.py")]):
        parts = path.relative_to(project).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(path.read_text(encoding="utf-8"))


def imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the floor"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def under(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def floor(module: str) -> int | None:
    return next((level for level, roots in enumerate(FLOORS) if under(module, roots)), None)


def dvc_stages(project: Path) -> dict[str, Any]:
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def test_every_code_dep_is_what_the_stage_imports(project: Path) -> None:
    assert stale_stages(project / "dvc.yaml") == [], "run `limoe deps --write`"


def test_every_module_has_a_floor(project: Path) -> None:
    assert [module for module, _ in modules(project) if floor(module) is None and module != "limoe"] == []


def test_no_import_points_upwards(project: Path) -> None:
    upwards = [
        f"{module} -> {name}"
        for module, tree in modules(project)
        for name in imports(ast.walk(tree))
        if (mine := floor(module)) is not None and (theirs := floor(name)) is not None and theirs > mine
    ]
    assert upwards == []


@pytest.mark.parametrize("library,homes", [("prefect", ("flows",)), ("mlflow", ("limoe.tracking",)), ("dvc", ("flows",))])
def test_each_tool_is_known_in_one_place(project: Path, library: str, homes: tuple[str, ...]) -> None:
    users = {module for module, tree in modules(project) for name in imports(ast.walk(tree)) if under(name, (library,))}
    assert {user for user in users if not under(user, homes)} == set()


def test_nothing_unpickles(project: Path) -> None:
    """torch.load and numpy's allow_pickle do it on the quiet."""
    users = {module for module, tree in modules(project) for name in imports(ast.walk(tree)) if under(name, PICKLERS)}
    calls = {
        f"{module}: {ast.unparse(node)}"
        for module, tree in modules(project)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (ast.unparse(node.func) == "torch.load" or "allow_pickle" in map(str, keywords(node)))
    }
    assert (users, calls) == (set(), set())


def keywords(call: ast.Call) -> list[str | None]:
    return [keyword.arg for keyword in call.keywords]


def test_the_light_packages_need_little_at_their_top(project: Path) -> None:
    heavy = [
        f"{module} imports {name}"
        for module, tree in modules(project)
        if under(module, LIGHT)
        for name in imports(tree.body)
        if name.split(".")[0] not in LIGHT_MAY | sys.stdlib_module_names
    ]
    assert heavy == []


def test_the_light_packages_import_on_a_bare_gpu_machine(project: Path) -> None:
    light = [module for module, _ in modules(project) if under(module, LIGHT)]
    subprocess.run([sys.executable, "-c", REFUSE, ABSENT, *light], check=True, cwd=project)


def test_stages_read_declared_params_that_exist(project: Path, params: Params) -> None:
    values = params.model_dump()
    for name, stage in dvc_stages(project).items():
        for key in stage["params"]:
            node: Any = values
            for part in key.removesuffix(".${key}").replace("${item.section}", "model.moe").split("."):
                assert part in node, f"{name}: {key}"
                node = node[part]
            assert not key.startswith("machine"), f"{name}: what belongs to the machine is no stage's param"


def test_the_outs_are_where_the_code_writes(project: Path) -> None:
    outs = {
        name: [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]
        for name, stage in dvc_stages(project).items()
    }
    paths = Paths()
    wanted = {
        "prepare": [paths.prepared],
        "balance": [paths.balance],
        "train": [paths.train("clip")],
        "evaluate": [paths.evaluate("clip")],
        "evaluate-model": [paths.evaluate("clip")],
        "evaluate-fetched": [paths.evaluate("clip")],
        "compare": [paths.report / name for name in ("report.md", "report.html", "metrics.json")],
    }
    filled = {
        name: [Path(out.replace("${key}", "clip").replace("${item}", "clip")) for out in found] for name, found in outs.items()
    }
    assert filled == wanted


def test_the_pipeline_knows_every_contestant(project: Path) -> None:
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    assert tuple(stages["train"]["foreach"]) == tuple(stages["evaluate"]["foreach"]) == CONTESTANTS
    assert "runs/evaluate" in stages["compare"]["deps"]
    assert [stages[f"evaluate-{form}"]["foreach"] for form in ("model", "fetched")] == ["${compare.models}", "${compare.fetched}"]


def test_the_debug_overlay_fits(debug_params: Params) -> None:
    assert debug_params.train.steps * debug_params.train.batch < 10_000


def test_the_pins_satisfy_the_project(project: Path) -> None:
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    pins = pinned_versions((project / "constraints.txt").read_text())
    for line in sum(declared["optional-dependencies"].values(), declared["dependencies"]):
        requirement = Requirement(line)
        assert requirement.specifier.contains(Version(pins[canonical(requirement.name)])), line
    assert "fastapi>=0.150,<0.155" in declared["dependencies"]
    lines = (project / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines, key=str.upper)  # as `sort -f` does
    assert all(line.count("==") == 1 for line in lines)


def test_the_tools_are_told_to_be_silent(project: Path) -> None:
    dvc = configparser.ConfigParser()
    dvc.read(project / ".dvc" / "config")
    assert dict(dvc["core"]) == {"analytics": "false", "check_update": "false", "autostage": "true"}
    prefect = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["prefect"]
    assert prefect["server"]["analytics_enabled"] is False
    ask = "import os, flows; print(os.environ['DO_NOT_TRACK'])"
    env = {name: value for name, value in os.environ.items() if name != "DO_NOT_TRACK"}
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=project, env=env).stdout == "1\n"


def test_ci_does_what_a_person_does(project: Path) -> None:
    script = project / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert [line for line in script.read_text().splitlines() if line.startswith("make ")] == [
        "make lint",
        "make types",
        "make test",
    ]
    shown = subprocess.run(
        ["make", "-n", "--no-print-directory", "test"], cwd=project, capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "python -m pytest -n 2"
