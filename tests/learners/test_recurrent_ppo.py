"""PPO with memory: whole updates against sb3-contrib's RecurrentPPO."""

from typing import Any

import pytest
import torch

from agentlib.backbones import LSTM, MLP, WithMemory
from agentlib.core import Clock
from agentlib.core.host import global_generators_kept
from agentlib.core.randomness import fresh_weights
from agentlib.experience.transition import Minibatch
from agentlib.learners import PPO, PPOConfig
from agentlib.policies import ActorCritic, policy_for


def minibatch_of(data: Any) -> Minibatch:
    """One of ours from the sequences of sb3-contrib, which it pads to one length."""
    states = [
        tuple(part.transpose(0, 1).clone() for part in pair) for pair in (data.lstm_states.pi, data.lstm_states.vf)
    ]
    count = states[0][0].shape[0]
    return Minibatch(
        data.observations.unflatten(0, (count, -1)),
        data.actions.long().flatten(),
        data.old_log_prob,
        data.old_values,
        data.advantages,
        data.returns,
        data.mask / data.mask.sum(),
        Clock(0, 0, 0.0),
        state=tuple(states),
        episode_start=data.episode_starts.unflatten(0, (count, -1)) > 0.5,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_updates_equal_those_of_sb3_contrib():
    """From its weights and its minibatches, in which episodes end, the same parameters."""
    contrib = pytest.importorskip("sb3_contrib")
    from stable_baselines3.common.env_util import make_vec_env

    settings: dict[str, Any] = {"n_steps": 64, "batch_size": 48, "n_epochs": 3, "learning_rate": 1e-3, "ent_coef": 0.01}
    batches: list[Minibatch] = []
    with global_generators_kept():
        envs = make_vec_env("CartPole-v1", 2, seed=0)
        kwargs = {"net_arch": [], "lstm_hidden_size": 8}
        model: Any = contrib.RecurrentPPO("MlpLstmPolicy", envs, seed=0, device="cpu", policy_kwargs=kwargs, **settings)
        first = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
        get = model.rollout_buffer.get

        def remember(batch_size=None):
            for data in get(batch_size):
                batches.append(minibatch_of(data))
                yield data

        model.rollout_buffer.get = remember
        model.learn(3 * 128)
    assert len(batches) == 27  # of 48, 48 and 32 steps
    with fresh_weights(0):
        backbone = WithMemory(MLP(4, ()), LSTM(4, 8))
        networks = ActorCritic(policy_for(envs.action_space, backbone))
    names = {"policy.backbone.memory": "lstm_actor", "memory": "lstm_critic", "policy.head": "action_net"}
    names["head"] = "value_net"

    def of_theirs(state: Any) -> dict[str, torch.Tensor]:
        rename = {theirs: ours for ours, theirs in names.items()}
        return {f"{rename[name.split('.')[0]]}.{name.split('.')[1]}": state[name] for name in state}

    networks.load_state_dict(of_theirs(first))
    config = PPOConfig(**settings)
    learner = PPO(networks, config.optimizer(), config)
    for batch in batches:
        learner.update(batch)
    now = dict(networks.state_dict())
    for name, theirs in of_theirs(model.policy.state_dict()).items():
        torch.testing.assert_close(now[name], theirs, atol=1e-4, rtol=0, msg=name)
        assert not torch.allclose(theirs, of_theirs(first)[name], atol=1e-3), name
