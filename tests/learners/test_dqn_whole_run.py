"""A whole run of ours beside one of Stable-Baselines3's: the same weights, dice and environment, step by step."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN as SB3DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.dqn import dqn as sb3_module

from agentlib.core.host import global_generators_kept
from agentlib.core.recipe import Problem
from agentlib.learners import run
from agentlib.learners.q_learning.dqn import RECIPE
from agentlib.runs.plan import plan
from agentlib.sb3.training import sb3_arguments

PLANNED, STEPS = 50_000, 2_560


class Stop(BaseCallback):
    def _on_step(self):
        return self.num_timesteps <= STEPS


class Numpy:
    """numpy as SB3's module sees it, with `random.rand` from a generator of ours."""

    def __init__(self, rand):
        self.random = type("random", (), {"rand": staticmethod(rand)})

    def __getattr__(self, name):
        return getattr(np, name)


class Seeded(gymnasium.Wrapper):
    """Each later episode has a seed of its own, as in our runs."""

    seeds: Any = None

    def reset(self, *, seed=None, options=None):
        if seed is None:
            seed = int(self.seeds.integers(2**30))
        else:
            self.seeds = np.random.default_rng(seed)
        return self.env.reset(seed=seed, options=options)


def flat(modules):
    return torch.cat([parameter.detach().flatten() for parameter in modules.parameters()])


@pytest.mark.slow
def test_the_whole_run_is_stable_baselines3s(monkeypatch):
    """Exploration, its schedule, replay, the order of things and the target network, at the zoo's settings.

    1,000 random steps and 7 rounds of 256 steps and 128 updates; after some thousand steps more, rounding alone drives
    any two runs apart.
    """
    problem = Problem(env="CartPole-v1", steps=PLANNED, device="cpu")
    config = plan("dqn", problem, {}).config
    job = RECIPE.family.assemble(RECIPE, replace(problem, config=config))
    source: Any = job.source
    policy: Any = job.learner.policy
    target: Any = job.learner.target
    linears = [module for module in policy.modules() if isinstance(module, torch.nn.Linear)]
    weights = [linear.weight.detach().clone() for linear in linears], [one.bias.detach().clone() for one in linears]
    exploring, environment_seeds = np.random.default_rng(), np.random.default_rng()
    exploring.bit_generator.state = source.collector.exploration.generator.bit_generator.state
    environment_seeds.bit_generator.state = source.generator.bit_generator.state
    sampling = torch.Generator()
    sampling.set_state(source.random_state)

    ours = []
    for clock, _ in run(job.learner, source, source.updates_for(STEPS), compile=False):
        if clock.updates % config.gradient_steps == 0:
            ours.append((flat(policy).clone(), flat(target).clone()))
    source.close()

    with global_generators_kept():
        env = Seeded(gymnasium.make("CartPole-v1"))
        model: Any = SB3DQN(env=env, device="cpu", **sb3_arguments(config, SB3DQN, env.observation_space))
        theirs = []
        train = model.train

        def act_at_random(mask=None, probability=None):
            if model.num_timesteps < config.learning_starts:
                exploring.random()  # we ask the dice there too
            return exploring.integers(2, size=1)[0]

        def sample(batch_size, env=None):
            ticket = torch.rand(batch_size, dtype=torch.float64, generator=sampling) * model.replay_buffer.pos
            return model.replay_buffer._get_samples(ticket.long().numpy(), env=env)

        def train_and_look(gradient_steps, batch_size):
            train(gradient_steps=gradient_steps, batch_size=batch_size)
            theirs.append((flat(model.policy.q_net).clone(), flat(model.policy.q_net_target).clone()))

        layers = [module for module in model.policy.q_net.modules() if isinstance(module, torch.nn.Linear)]
        with torch.no_grad():
            for layer, weight, bias in zip(layers, *weights, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        model.policy.q_net_target.load_state_dict(model.policy.q_net.state_dict())
        model.env.seed(int(environment_seeds.integers(2**30)))
        model.action_space.sample = act_at_random
        model.replay_buffer.sample = sample
        model.train = train_and_look
        monkeypatch.setattr(sb3_module, "np", Numpy(exploring.random))
        model.learn(PLANNED, callback=Stop())

    assert len(ours) == len(theirs) == 7
    # Rounding, which grows by some tenths at each update, shows later; all actions are still the same then.
    for (our_weights, our_target), (their_weights, their_target) in zip(ours[:5], theirs[:5], strict=True):
        torch.testing.assert_close(our_weights, their_weights, rtol=0, atol=1e-5)
        torch.testing.assert_close(our_target, their_target, rtol=0, atol=1e-5)
    assert model.replay_buffer.pos == len(source.buffer)
    np.testing.assert_array_equal(model.replay_buffer.actions[:STEPS, 0, 0], source.buffer.action[0, :STEPS])
