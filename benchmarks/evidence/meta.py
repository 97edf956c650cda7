"""Learning to learn: sinusoids, glyphs, and imitation of experts for new dynamics."""

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

import agentlib
from agentlib.backbones import MLP, adam
from agentlib.core.randomness import fresh_weights
from agentlib.data import Pairs, Pools, Sinusoids, labelled_steps
from agentlib.envs.cartpole_varied import Dynamics, balancing_expert, draw_dynamics
from agentlib.experience import Demonstrations, record_episodes
from agentlib.learners import MAML, MAMLConfig, run
from agentlib.metrics import paired_difference
from agentlib.policies import CategoricalPolicy
from benchmarks.evidence.references import TASKS as NUMBERS
from benchmarks.experiments import Claim, Experiment, known

FAMILY = "Meta-learning"
FROM = 200
"""Reported seeds begin here; others may have been looked at."""


def trained(*arguments, **settings) -> agentlib.Result:
    result = agentlib.train(*arguments, progress=False, **settings)
    assert isinstance(result, agentlib.Result)
    return result


def reference(data: str, number: str) -> str:
    return known(NUMBERS, data, f"test/{number}")


def measures(result: agentlib.Result) -> dict[str, float]:
    return {name.removeprefix("test/"): value for name, value in result.measures.items()}


# Sinusoids -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def expected_loss(network: nn.Module) -> float:
    """The squared error of a network that is not adapted, over all tasks there can be.

    With f the network and m the mean of y given x, E (f - A sin(x + phase))^2 = E[A^2] / 2 - 2 f m + f^2, averaged over
    x. A sample of 1,000 tasks errs by about 0.1, which is more than what a start is above the best guess.
    """
    (low, high), (first, last) = Sinusoids.AMPLITUDE, Sinusoids.X
    cells = 100_000
    x = (first + (last - first) * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells)[:, None]
    guess = network(x.float())[0].double()  # beside it the state of a policy with memory
    square = (low**2 + low * high + high**2) / 3
    return float((square / 2 - 2 * guess * Sinusoids.task_agnostic(x) + guess**2).mean())


def sinusoids(**settings) -> dict[str, float]:
    result = trained("maml", data="sinusoids", **settings)
    return {"start": expected_loss(result.model), **measures(result)}


def sinusoids_10(seed: int) -> dict[str, float]:
    joint = sinusoids(seed=seed, steps=2_000, inner_steps=0)
    first_order = sinusoids(seed=seed, first_order=True)
    found = sinusoids(seed=seed)
    found |= {f"joint_{name}": value for name, value in joint.items()}
    return found | {f"first_order_{name}": value for name, value in first_order.items()}


def sinusoids_5(seed: int) -> dict[str, float]:
    return sinusoids(seed=seed, shots=5, steps=8_000)


# Glyphs --------------------------------------------------------------------------------------------------------------


ENCODER: dict[str, Any] = {
    "name": "cnn",
    "arguments": {
        "shape": [1, 16, 16],
        "layers": [32, "max", 32, "max", 64, "max"],
        "feature_dim": None,
        "norm": "group",
    },
}
"""Blocks of a convolution, a normalization and a maximum, and no layer above, as in the paper."""


def glyphs(seed: int) -> dict[str, float]:
    return measures(trained("prototypical", data="glyphs", backbone=ENCODER, seed=seed))


def matching(seed: int) -> dict[str, float]:
    return measures(trained("matching", data="glyphs", backbone=ENCODER, seed=seed))


# Few-shot imitation --------------------------------------------------------------------------------------------------

ENV = "agentlib/CartPoleVaried-v0"
TASKS, NEW_TASKS, SHOTS, UPDATES = 200, 20, 20, 1_500
RATES = (0.05, 0.1, 0.5)
"""Step sizes that the policy for all is given, the best for it of the three; MAML has the second in training too."""


def demonstrated(dynamics: Dynamics, seed: int) -> Demonstrations:
    expert = balancing_expert(*dynamics)
    return record_episodes(expert, ENV, 3, seed=seed, noise=0.2, env_kwargs=dynamics._asdict())


def learned(source: Pools, inner_steps: int, seed: int) -> MAML:
    config = MAMLConfig(loss="cross_entropy", inner_learning_rate=RATES[1], inner_steps=inner_steps)
    with fresh_weights(seed):
        policy = CategoricalPolicy(MLP(4, hidden=(64, 64)), n_actions=2)
    learner = MAML(policy, adam(2e-3), config)
    for _ in run(learner, source, UPDATES):
        pass
    return learner


def returns(learner: MAML, rate: float, steps: int, tasks: list[tuple[Dynamics, Pairs]]) -> np.ndarray:
    """The mean return on each task, after so many steps on its support."""
    config = MAMLConfig(loss="cross_entropy", inner_learning_rate=rate)
    adapter = MAML(learner.network, adam(1e-3), config)
    found = []
    for dynamics, support in tasks:
        env = gymnasium.make(ENV, **dynamics._asdict())
        agent = agentlib.Agent(adapter.adapt(support, steps), env.observation_space, env.action_space)
        found.append(agentlib.evaluate(agent, env, episodes=3).mean)
    return np.array(found)


def imitation(seed: int) -> dict[str, float]:
    generator = np.random.default_rng([seed, 0])
    first = 100_000 * seed
    demonstrations = [demonstrated(draw_dynamics(generator), first + i) for i in range(TASKS)]
    new = [draw_dynamics(generator) for _ in range(NEW_TASKS)]
    supports = [labelled_steps(demonstrated(one, first + TASKS + i)) for i, one in enumerate(new)]
    tasks = [(one, Pairs(s.x[:SHOTS], s.y[:SHOTS])) for one, s in zip(new, supports, strict=True)]
    maml, joint = (
        learned(Pools.from_demonstrations(demonstrations, SHOTS, SHOTS, 25, seed), steps, seed) for steps in (1, 0)
    )
    found = {f"maml_{steps}": returns(maml, RATES[1], steps, tasks).mean() for steps in (0, 1, 10)}
    found["joint_0"] = returns(joint, RATES[1], 0, tasks).mean()
    for steps in (1, 10):
        found[f"joint_{steps}"] = max(returns(joint, rate, steps, tasks).mean() for rate in RATES)
    return found | {"difference": found["maml_1"] - found["joint_1"]}


def overall(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    result = paired_difference([row["maml_1"] for row in rows], [row["joint_1"] for row in rows])
    return {"difference": {"value": result.value, "low": result.interval.low, "high": result.interval.high}}


NULL = "3.006, the best that does not know the task"
START = Claim("start", "MAML, squared error before adapting, over all sinusoids", at_least=3.01, reference=NULL)
ON_SAMPLES = (
    "The start is integrated over all sinusoids: the 1,000 drawn here are easier by chance, and a best guess that does "
    "not know the task errs by less on them, too."
)

EXPERIMENTS = [
    Experiment(
        name="maml_sinusoids_10_shot",
        family=FAMILY,
        data="1,000 new sinusoids, 10 points each; 3,000 updates",
        measure=sinusoids_10,
        claims=(
            START,
            Claim("loss_after_0", "MAML before adapting, on 1,000 sinusoids", at_least=3.01),
            Claim(
                "loss_after_1",
                "MAML after 1 step",
                at_most=0.65,
                reference=reference("sinusoids, 10 shots", "loss_after_1"),
            ),
            Claim(
                "loss_after_10",
                "MAML after 10 steps",
                at_most=0.20,
                reference=reference("sinusoids, 10 shots", "loss_after_10"),
            ),
            Claim("loss_without_task", "the best that does not know the task, on the same 1,000"),
            Claim("joint_loss_after_1", "one network for all tasks, after 1 step", at_least=2.2, reference="2.58"),
            Claim("joint_loss_after_10", "one network for all tasks, after 10 steps", at_least=1.3, reference="1.55"),
            Claim("first_order_loss_after_1", "first order, after 1 step"),
            Claim("first_order_loss_after_10", "first order, after 10 steps"),
        ),
        note=ON_SAMPLES,
    ),
    Experiment(
        name="maml_sinusoids_5_shot",
        family=FAMILY,
        data="1,000 new sinusoids, 5 points each; 8,000 updates",
        measure=sinusoids_5,
        seeds=3,
        claims=(
            START,
            Claim("loss_after_0", "MAML before adapting, on 1,000 sinusoids", at_least=3.01),
            Claim(
                "loss_after_1",
                "MAML after 1 step",
                at_most=0.85,
                reference=reference("sinusoids, 5 shots", "loss_after_1"),
            ),
            Claim(
                "loss_after_10",
                "MAML after 10 steps",
                at_most=0.50,
                reference=reference("sinusoids, 5 shots", "loss_after_10"),
            ),
        ),
        note=ON_SAMPLES,
    ),
    Experiment(
        name="prototypical_glyphs",
        family=FAMILY,
        data="50 new classes of glyphs, 600 episodes; learned from 200 classes, 1,200 updates",
        measure=glyphs,
        claims=(
            Claim(
                "5_way_1_shot", "prototypes, 5-way 1-shot", at_least=0.95, reference=reference("glyphs", "5_way_1_shot")
            ),
            Claim(
                "20_way_1_shot",
                "prototypes, 20-way 1-shot",
                at_least=0.85,
                reference=reference("glyphs", "20_way_1_shot"),
            ),
            Claim("5_way_5_shot", "prototypes, 5-way 5-shot", reference=reference("glyphs", "5_way_5_shot")),
            Claim("5_way_1_shot_pixels", "pixels, 5-way 1-shot", reference=reference("glyphs", "5_way_1_shot_pixels")),
            Claim(
                "20_way_1_shot_pixels", "pixels, 20-way 1-shot", reference=reference("glyphs", "20_way_1_shot_pixels")
            ),
            Claim("5_way_1_shot_random_encoder", "an untrained encoder, 5-way 1-shot"),
        ),
        note="The encoder is three blocks of convolution, group normalization and maximum, not the default for images.",
    ),
    Experiment(
        name="matching_glyphs",
        family=FAMILY,
        data="50 new classes of glyphs, 600 episodes; learned from 200 classes, 1,200 updates",
        measure=matching,
        seeds=3,
        first_seed=FROM,
        claims=(
            Claim("5_way_1_shot", "matching, 5-way 1-shot", at_least=0.90),
            Claim("20_way_1_shot", "matching, 20-way 1-shot"),
            Claim("5_way_5_shot", "matching, 5-way 5-shot"),
            Claim("5_way_1_shot_pixels", "pixels, 5-way 1-shot"),
        ),
        note="The encoder is that of prototypical_glyphs.",
    ),
    Experiment(
        name="maml_few_shot_imitation",
        family=FAMILY,
        data=f"{NEW_TASKS} new CartPoles a seed; {SHOTS} labelled steps of each; learned from {TASKS}",
        measure=imitation,
        summarize=overall,
        claims=(
            Claim("difference", "return after 1 step, MAML less one policy for all", at_least=0.0, of="interval"),
            Claim("maml_1", "MAML, return after 1 step", at_least=450),
            Claim("joint_1", "one policy for all, after 1 step, best of three step sizes"),
            Claim("joint_10", "one policy for all, after 10 steps, best of three step sizes"),
            Claim("maml_0", "MAML, before adapting"),
            Claim("joint_0", "one policy for all, before adapting"),
        ),
        note="Poles of 0.5 to 2.5 m, motors of 6 to 15 N, half of them wired the other way round. 500 is the best. The "
        "step size of the policy for all is chosen on the test itself, in its favour.",
    ),
]
