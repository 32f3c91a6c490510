"""Known mistakes, planted one at a time in a copy of the code: each must make a test fail.

`python tests/mutants.py` prints a line a mutant; tests/test_mutants.py runs them as tests. The mistakes are those found in other
people's code (LIMoE's losses), plus the two that would silently spoil a comparison.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOSSES, AUXILIARY = "tests/losses/test_routing_losses.py", "tests/losses/test_auxiliary.py"
ROUTER, STATE, LOOP = "tests/model/test_router.py", "tests/model/test_router_state.py", "tests/train/test_loop.py"
GRADIENTS = "tests/train/test_gradients.py"
SAID = "said"
NURSERY = """
import json, os, sys
import numpy, PIL.Image, pyarrow.dataset, pydantic, pytest, tokenizers, torch, yaml
for line in sys.stdin:
    folder, arguments = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(folder)
    with open(sys.argv[1], "wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.path.insert(0, folder)
    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(code)
"""


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in `file`; `tests` are those that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "global loss as relu(tau + H)",
        "limoe/losses/routing.py",
        "(tau - entropy(_mean(probs_TE, weight_GT))).clamp(min=0)",
        "(tau + entropy(_mean(probs_TE, weight_GT))).clamp(min=0)",
        LOSSES,
    ),
    Mutant(
        "global loss as +H",
        "limoe/losses/routing.py",
        "(tau - entropy(_mean(probs_TE, weight_GT))).clamp(min=0)",
        "entropy(_mean(probs_TE, weight_GT))",
        LOSSES,
    ),
    Mutant(
        "global loss as a target instead of a floor",
        "limoe/losses/routing.py",
        "(tau - entropy(_mean(probs_TE, weight_GT))).clamp(min=0)",
        "tau - entropy(_mean(probs_TE, weight_GT))",
        LOSSES,
    ),
    Mutant(
        "no modality mask",
        "limoe/losses/auxiliary.py",
        "member_GT * (layout.modality_T == TEXT)",
        "member_GT",
        LOSSES,
    ),
    Mutant(
        "marginal entropy over a tiny batch",
        "limoe/losses/routing.py",
        "shortfall_G = (tau - entropy(_mean(probs_TE, weight_GT))).clamp(min=0)",
        "shortfall_G = _mean((tau - entropy(probs_TE)).clamp(min=0)[:, None], weight_GT)[:, 0]",
        LOSSES,
    ),
    Mutant(
        "auxiliary loss counted once a group instead of averaged",
        "limoe/losses/auxiliary.py",
        "return 1 / layout.groups",
        "return 1.0",
        LOSSES,
    ),
    Mutant(
        "auxiliary loss counted once per micro-batch",
        "limoe/losses/auxiliary.py",
        "return ranks / total_groups",
        "return ranks / layout.groups",
        AUXILIARY,
    ),
    Mutant(
        "auxiliary loss counted once per rank",
        "limoe/losses/auxiliary.py",
        "return ranks / total_groups",
        "return ranks * ranks / total_groups",
        AUXILIARY,
    ),
    Mutant(
        "fixed weights averaged all the same",
        "limoe/losses/auxiliary.py",
        'len(active) if moe.aux_rule == "average" else 1',
        "len(active)",
        AUXILIARY,
    ),
    Mutant(
        "auxiliary loss of nested modules never added",
        "limoe/train/step.py",
        'return {"auxiliary": auxiliary}, ',
        "return {}, ",
        LOOP,
    ),
    Mutant(
        "auxiliary loss of the first sparse block alone",
        "limoe/losses/auxiliary.py",
        "for routing in routings.values()]",
        "for routing in list(routings.values())[:1]]",
        AUXILIARY,
    ),
    Mutant("reversed BPR", "limoe/model/router/places.py", "descending=True", "descending=False", ROUTER),
    Mutant(
        "image-first serves text",
        "limoe/model/router/places.py",
        'IMAGE if priority == "image-first" else TEXT',
        'TEXT if priority == "image-first" else IMAGE',
        ROUTER,
    ),
    Mutant(
        "a token's second choice before the next token's first",
        "limoe/model/router/places.py",
        "bin_N = bin_TK[order_T].T.flatten()",
        "bin_N = bin_TK[order_T].flatten()",
        ROUTER,
    ),
    Mutant(
        "padding rows claim places",
        "limoe/model/router/places.py",
        "torch.where(layout.real_T[:, None], layout.group_T[:, None] * experts + expert_TK, bins)",
        "layout.group_T[:, None] * experts + expert_TK",
        ROUTER,
    ),
    Mutant(
        "capacity from padding rows too",
        "limoe/model/tokens.py",
        "tokens_G = rows_GM.sum(1).to(device, non_blocking=True)",
        "tokens_G = torch.bincount(group_T, minlength=len(rows_GM))",
        ROUTER,
    ),
    Mutant(
        "capacity at evaluation",
        "limoe/model/router/top_k.py",
        "        if not self.training or draws is None:\n",
        "        if draws is None:\n",
        ROUTER,
    ),
    Mutant(
        "noise at evaluation",
        "limoe/model/router/base.py",
        "self.moe.sigma if self.training else 0.0",
        "self.moe.sigma",
        ROUTER,
    ),
    Mutant(
        "noise by a group's number in its micro-batch",
        "limoe/model/router/base.py",
        "{self.first_group + group}",
        "{group}",
        ROUTER,
    ),
    Mutant(
        "gates renormalised over the top K",
        "limoe/model/router/base.py",
        "if self.moe.renormalise:",
        "if not self.moe.renormalise:",
        ROUTER,
    ),
    Mutant(
        "importance from the noisy softmax",
        "limoe/model/router/base.py",
        "probs_TE = logits_TE.softmax(1)",
        "probs_TE = noisy_TE.softmax(1)",
        ROUTER,
    ),
    Mutant(
        "loss-free gates with the bias in them",
        "limoe/model/router/loss_free.py",
        "gate_TK = scores_TE.gather(1, expert_TK)",
        "gate_TK = (scores_TE + self.bias_ME[layout.modality_T]).gather(1, expert_TK)",
        ROUTER,
    ),
    Mutant(
        "loss-free bias towards imbalance",
        "limoe/model/router/loss_free.py",
        "(load_ME.mean(1, keepdim=True) - load_ME).sign()",
        "(load_ME - load_ME.mean(1, keepdim=True)).sign()",
        STATE,
    ),
    Mutant(
        "expert choice with one quota for both modalities",
        "limoe/model/router/expert_choice.py",
        "return layout.group_T * len(MODALITIES) + layout.modality_T",
        "return layout.group_T * len(MODALITIES)",
        ROUTER,
    ),
    Mutant(
        "thresholds that start out slowly",
        "limoe/model/router/expert_choice.py",
        "(1 / (self.adjusted_M[:, None] + 1)).clamp(min=1 - self.moe.threshold_decay)",
        "1 - self.moe.threshold_decay",
        STATE,
    ),
    Mutant(
        "routers' state never moved",
        "limoe/train/loop.py",
        "        self.task.adjust(_unless(spoilt, result.observed))\n",
        "",
        LOOP,
    ),
    Mutant(
        "routers' state moved by the first micro-batch alone",
        "limoe/train/gradients.py",
        "_sums([result.observed for result in results])",
        "results[0].observed",
        GRADIENTS,
    ),
    Mutant(
        "auxiliary loss counted once per micro-batch",
        "limoe/train/gradients.py",
        "self.task.over_groups(output, total)",
        "self.task.over_groups(output, len(part))",
        GRADIENTS,
    ),
    Mutant(
        "every micro-batch with the first one's noise",
        "limoe/train/step.py",
        "first_pair // self.moe.group_pairs",
        "0",
        GRADIENTS,
    ),
)


def killed_by(mutant: Mutant | None) -> str:
    """Run the tests on a copy with the mutant (None: the control); "" if they pass, else the first failure.

    RuntimeError if the tests did not run at all, or if the mutant's text is no longer there.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("limoe", "tests"):
            shutil.copytree(ROOT / name, copy / name)
        for name in ("params.yaml", "pyproject.toml"):
            shutil.copy(ROOT / name, copy / name)
        tests = [LOSSES, AUXILIARY, ROUTER, STATE, LOOP] if mutant is None else [mutant.tests]
        if mutant is not None:
            text = (copy / mutant.file).read_text(encoding="utf-8")
            if text.count(mutant.old) != 1:
                raise RuntimeError(f"mutant {mutant.name!r}: its text stands {text.count(mutant.old)} times in {mutant.file}")
            (copy / mutant.file).write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        code = forked(copy, ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        said = (copy / SAID).read_text(encoding="utf-8")
    failures = [line for line in said.splitlines() if line.startswith("FAILED")]
    if code not in (0, 1) or (code == 1 and not failures):
        raise RuntimeError(f"the tests did not run:\n{said[-4000:]}")
    return failures[0] if failures else ""


def forked(folder: Path, arguments: list[str]) -> int:
    """Run pytest in `folder`, in a process of its own that has torch from the start; its exit code. It tells in the file SAID."""
    parent = nursery()
    assert parent.stdin is not None
    assert parent.stdout is not None
    print(json.dumps([str(folder), arguments]), file=parent.stdin, flush=True)
    return int(parent.stdout.readline() or "-1")


@cache
def nursery() -> subprocess.Popen[str]:
    """One process that imports what no mutant changes, which takes longer than the tests, and then parts for each of them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-c", NURSERY, SAID]
    return subprocess.Popen(
        command, env=environment | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


if __name__ == "__main__":
    survivors = 0
    for each in MUTANTS:
        failure = killed_by(each)
        survivors += not failure
        print(f"{each.name}: {failure or 'SURVIVED'}", flush=True)
    print(f"control: {killed_by(None) or 'passes'}; {len(MUTANTS) - survivors} of {len(MUTANTS)} mutants killed")
    sys.exit(bool(survivors))
