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


def minibatch_of(data: Any, is_real: bool) -> Minibatch:
    """One of ours from the sequences of sb3-contrib, which it pads to one length."""
    states = [
        tuple(part.transpose(0, 1).clone() for part in pair) for pair in (data.lstm_states.pi, data.lstm_states.vf)
    ]
    count = states[0][0].shape[0]
    return Minibatch(
        data.observations.unflatten(0, (count, -1)),
        data.actions if is_real else data.actions.long().flatten(),
        data.old_log_prob,
        data.old_values,
        data.advantages,
        data.returns,
        data.mask / data.mask.sum(),
        Clock(0, 0, 0.0),
        state=tuple(states),
        episode_start=data.episode_starts.unflatten(0, (count, -1)) > 0.5,
    )


def of_dtype(data: Any, dtype: torch.dtype) -> Any:
    """Their minibatch with numbers of this type, states included."""
    if isinstance(data, torch.Tensor):
        return data.to(dtype)
    parts = [of_dtype(part, dtype) for part in data]
    return type(data)(*parts) if hasattr(data, "_fields") else tuple(parts)


NAMES = {
    **{"policy.backbone.memory": "lstm_actor", "memory": "lstm_critic", "policy.head": "action_net"},
    **{"head": "value_net", "policy.log_std": "log_std"},
}
"""Of parts, ours and theirs."""


def of_theirs(state: Any) -> dict[str, torch.Tensor]:
    """Their tensors by our names."""
    rename = {theirs: ours for ours, theirs in NAMES.items()}
    return {".".join([rename[name.split(".")[0]], *name.split(".")[1:]]): state[name] for name in state}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(("dtype", "rollouts", "tolerance"), [(torch.float64, 12, 1e-8), (torch.float32, 3, 1e-4)])
def test_updates_equal_those_of_sb3_contrib(env, dtype, rollouts, tolerance, monkeypatch):
    """From its weights and its minibatches, in which episodes end, the same parameters."""
    contrib = pytest.importorskip("sb3_contrib")
    from stable_baselines3.common.env_util import make_vec_env

    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs.to(dtype))
    settings: dict[str, Any] = {"n_steps": 64, "batch_size": 48, "n_epochs": 3, "learning_rate": 1e-3, "ent_coef": 0.01}
    settings |= {"clip_range_vf": 0.2, "vf_coef": 1e-3} if env == "Pendulum-v1" else {}
    batches: list[Minibatch] = []
    with global_generators_kept():
        envs = make_vec_env(env, 2, seed=0)
        kwargs = {"net_arch": [], "lstm_hidden_size": 8}
        model: Any = contrib.RecurrentPPO("MlpLstmPolicy", envs, seed=0, device="cpu", policy_kwargs=kwargs, **settings)
        model.policy.to(dtype)
        model._last_lstm_states = of_dtype(model._last_lstm_states, dtype)
        first = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
        get = model.rollout_buffer.get

        def remember(batch_size=None):
            for data in get(batch_size):
                batches.append(minibatch_of(of_dtype(data, dtype), env == "Pendulum-v1"))
                yield of_dtype(data, dtype)

        model.rollout_buffer.get = remember
        model.learn(rollouts * 128)
    assert len(batches) == 9 * rollouts  # of 48, 48 and 32 steps
    with fresh_weights(0):
        width = first["lstm_actor.weight_ih_l0"].shape[1]
        backbone = WithMemory(MLP(width, ()), LSTM(width, 8))
        networks = ActorCritic(policy_for(envs.action_space, backbone)).to(dtype)
    networks.load_state_dict(of_theirs(first))
    config = PPOConfig(**settings)
    learner = PPO(networks, config.optimizer(), config)
    for batch in batches:
        learner.update(batch)
    now = dict(networks.state_dict())
    for name, theirs in of_theirs(model.policy.state_dict()).items():
        torch.testing.assert_close(now[name], theirs, atol=tolerance, rtol=0, msg=name)
        assert not torch.allclose(theirs, of_theirs(first)[name], atol=1e-3), name
