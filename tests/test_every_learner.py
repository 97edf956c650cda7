"""What holds for every learner of the catalog, without a line for any of them: runs, reports, resume, embedding."""

import json
from functools import cache
from html import escape
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib import Agent
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.core.recipe import Problem
from agentlib.core.trees import copied, difference
from agentlib.data import shape_scenes
from agentlib.engine import run
from agentlib.experience import Demonstration, Demonstrations
from agentlib.families import tasks
from agentlib.families.captions import on_captions
from agentlib.families.scenes import on_scenes
from agentlib.runs.checkpoints import load_state
from agentlib.runs.folder import RunFolder
from agentlib.runs.plan import job_of, plan
from tests.host import changes, host_state

SMALL = {
    **{"learning_starts": 50, "buffer_size": 500, "batch_size": 16, "qf_arch": (16,)},
    **{"rounds": 2, "patience": None, "attack_steps": 1},
}
"""For configs that have such a field."""
STEPS_IN_ENVIRONMENTS, UPDATES = 400, 8


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """Before the host is looked at: importing scikit-learn, matplotlib and torch's compiler changes what it has set."""
    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "EPISODES", tasks.CHUNK)  # whose number no test here is about
        yield


@cache
def demonstrations(is_discrete: bool) -> Demonstrations:
    """Six episodes, of one of four actions, or of two numbers."""
    generator = np.random.default_rng(0)
    actions: Any = spaces.Discrete(4) if is_discrete else spaces.Box(-1, 1, (2,), np.float32)
    found = Demonstrations(spaces.Box(-1, 1, (3,), np.float32), actions)
    for _ in range(6):
        seen = generator.uniform(-1, 1, (21, 3))
        done = generator.integers(4, size=20) if is_discrete else np.tanh(seen[:20, :2])
        found.append(Demonstration(seen, done, np.ones(20)))
    return found


def origins(name: str) -> dict[str, Any]:
    """The data, demonstrations, environment or expert that a learner needs."""
    recipe = recipe_of(name)
    numbers = getattr(recipe.learner, "targets", "classes") == "numbers"
    if recipe.family.learns_from == "text":
        return {"data": "markov"}
    if recipe.family.learns_from == "pairs of texts":
        return {"data": "reversal"}
    given = {"env": "CartPole-v1", "expert": "scripted", "data": "diabetes" if numbers else "digits"}
    if recipe.family in (on_scenes, on_captions):
        given["data"] = shape_scenes(40, size=16)  # type: ignore[assignment]
    if "demos" in recipe.family.needs:
        given["demos"] = demonstrations(True)  # type: ignore[assignment]
        try:
            job_of(name, Problem(demos=given["demos"], steps=1)).source.close()
        except ValueError:  # for real-valued actions alone
            given["demos"] = demonstrations(False)  # type: ignore[assignment]
    if "env" in recipe.family.needs and "expert" not in recipe.family.needs:
        try:
            job_of(name, Problem(env=given["env"], steps=1_000)).source.close()
        except ValueError:
            given["env"] = "Taxi-v4" if name == "q_table" else "Pendulum-v1"
    return {origin: given[origin] for origin in recipe.family.needs}


def trained(name: str, folder: Any, **more: Any) -> Any:
    """A short run in a folder."""
    recipe = recipe_of(name)
    fields = recipe.config.__dataclass_fields__
    small = {field: value for field, value in SMALL.items() if field in fields}
    if "train_freq" in fields and fields["train_freq"].default == 1:  # twenty, in one of them
        small["gradient_steps"] = 1
    steps = STEPS_IN_ENVIRONMENTS if "env" in recipe.family.needs else UPDATES
    more = {"seed": 3, **more}
    arguments = {**origins(name), **small, "steps": steps, "progress": False, "compile": False, **more}
    return agentlib.train(name, out=folder, **arguments)


def left(folder: Any) -> dict[str, Any]:
    """What a run leaves behind, but for times and machines."""
    results = json.loads((folder / "results.json").read_text())
    last = RunFolder(folder).checkpoints()[-1]
    state = load_state(last, RunFolder(folder).segments)
    numbers = {name: results[name] for name in ("steps", "measures", "references")}
    return {"learner": copied(state["learner"]), **numbers}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the last minibatch of each epoch:UserWarning")
@pytest.mark.parametrize("name", LEARNERS)
def test_a_run_a_report_and_a_resume_that_equals_it(name, tmp_path):
    before = host_state()
    product = trained(name, tmp_path / "whole")
    assert changes(before, host_state()) == []
    files = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"config.json", "results.json", "report.html", "checkpoints"} <= files
    record = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (record["what"], record["seed"], record["has_own_recipe"]) == (name, 3, False)
    assert escape(recipe_of(name).summary) in (tmp_path / "whole" / "report.html").read_text()
    if isinstance(product, Agent):
        assert (product.about["learner"], product.about["seed"]) == (name, 3)
        assert Agent.load(tmp_path / "whole" / "agent.safetensors").about["learner"] == name

    half = record["steps"] // 2 if record["steps"] else 4
    trained(name, tmp_path / "two", callback=lambda clock, metrics: clock.steps < half)
    (tmp_path / "two" / "results.json").unlink()
    objects = {origin: value for origin, value in origins(name).items() if origin in record["objects"]}
    agentlib.train(resume=tmp_path / "two", progress=False, compile=False, **objects)
    assert difference(left(tmp_path / "whole"), left(tmp_path / "two")) is None


ONLY_WITH = {
    **dict.fromkeys(("alpha", "anneal", "ratio", "step_size"), "method"),
    "clip": "constraint",
    "condition_dropout": "conditional",
    **dict.fromkeys(("guidance_scale", "sampler"), "noise_steps"),
    "first_order": "reptile",
    "goal_selection_strategy": "n_sampled_goal",
    "log_std_init": "use_sde",
    "lora_rank": "tuning",
    "mask_ratio": "corruption",
    "n_atoms": "distributional",
    "n_heads": "decoder",
    "patience": "validation",
    "prompt_length": "tuning",
    "sample_steps": "noise_steps",
    "target_subset": "n_quantiles",
    "target_labels": "target",
    "tau": "target_networks",
    "threshold": "gate",
    "top_quantiles_to_drop_per_net": "n_quantiles",
}
"""Fields that are read for some values of another one alone, or later in a run."""


def watched(config: Any) -> tuple[Any, set[str]]:
    """A copy of a config, and the names of its attributes that have been read, which fill up."""
    names = set[str]()

    class Watched(type(config)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            names.add(name)
            return super().__getattribute__(name)

    found = object.__new__(Watched)
    found.__dict__.update(vars(config))
    return found, names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the last minibatch of each epoch:UserWarning")
@pytest.mark.parametrize("name", LEARNERS)
def test_each_field_of_its_config_is_read(name):
    """By the learner or its family: one that is not has no effect."""
    fields = recipe_of(name).config.__dataclass_fields__
    small = {field: value for field, value in SMALL.items() if field in fields}
    steps = STEPS_IN_ENVIRONMENTS if "env" in recipe_of(name).family.needs else None
    problem = Problem(**origins(name), steps=steps, device="cpu")
    planned = plan(name, problem, small)
    config, read = watched(planned.config)
    job = planned.recipe.job(planned._replace(config=config).fill(problem))
    try:
        for _ in run(job.learner, job.source, 2, compile=False):
            pass
        if job.judge.evaluates and "demos" not in planned.recipe.family.needs:
            job.judge.evaluate()
    finally:
        job.source.close()
    assert {field for field in fields if field not in read and ONLY_WITH.get(field) not in read} == set()
