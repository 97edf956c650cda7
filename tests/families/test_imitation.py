"""Behavioural cloning and DAgger in one call, and what is said where something does not fit."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib.agent import Agent
from agentlib.backbones import MLP
from agentlib.backbones.choice import backbone_for
from agentlib.catalog import recipe_of
from agentlib.core.recipe import Problem
from agentlib.envs.experts import cartpole_expert, chain_expert, identity_expert
from agentlib.envs.playing import Person, Terminal
from agentlib.experience import Demonstration, Demonstrations, ExpertLeft, Onlooker, record_episodes
from agentlib.families.demonstrations import (
    DemonstrationFacts,
    HeldOutJudge,
    demonstrations_of,
    expert_of,
    held_out_scores,
)
from agentlib.learners import BC, BCConfig, DAggerConfig
from agentlib.policies import EnsemblePolicy, GaussianPolicy, UnsureGate

IDENTITY = "agentlib/Identity-v0"
CHAIN: dict[str, Any] = {"env": "agentlib/Chain-v0", "env_kwargs": {"horizon": 10}}
QUIET: dict[str, Any] = {"progress": False, "compile": False}
SMALL: dict[str, Any] = {"rounds": 2, "rollout_round_min_timesteps": 40, "net_arch": (16,), **QUIET}


def identity_demos(episodes=10):
    return record_episodes(identity_expert, IDENTITY, episodes)


def chain_demos(episodes=20):
    return record_episodes(chain_expert, "agentlib/Chain-v0", episodes, env_kwargs={"horizon": 10})


def test_bc_solves_identity():
    agent = agentlib.train("bc", env=IDENTITY, demos=identity_demos(), epochs=100, **QUIET)
    assert isinstance(agent, Agent)
    assert agentlib.evaluate(agent, IDENTITY, episodes=5).mean == 10


def test_dagger_solves_identity():
    agent: Any = agentlib.train("dagger", env=IDENTITY, expert="scripted", **{**SMALL, "epochs": 60})
    assert agentlib.evaluate(agent, IDENTITY, episodes=5).mean == 10


@pytest.mark.slow
def test_dagger_climbs_and_bc_does_not():
    """What only DAgger has seen: the way back."""
    copy: Any = agentlib.train(BCConfig(epochs=20, normalize=False), demos=chain_demos(40), **QUIET)
    config = DAggerConfig(rounds=4, rollout_round_min_timesteps=100, epochs=20, beta=0.0, normalize=False)
    pupil: Any = agentlib.train(config, expert="scripted", **CHAIN, **QUIET)
    fallen = np.column_stack([np.random.default_rng(0).uniform(-1, 1, (100, 2)), np.ones(100)]).astype(np.float32)
    assert (copy.act(fallen) == 4).mean() < 0.1
    assert (pupil.act(fallen) == 4).mean() > 0.9


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "FrozenLake-v1", "Blackjack-v1", "agentlib/Catch-v0"])
@pytest.mark.parametrize("what", ["bc", "dagger"])
def test_every_kind_of_environment(what, env_id):
    expert = Onlooker(lambda env, observation: env.action_space.sample())
    settings: dict[str, Any] = {"net_arch": (8,), **QUIET}
    if what == "bc":
        settings |= {"demos": record_episodes(expert, env_id, 2), "epochs": 1}
    else:
        settings |= {"env": env_id, "expert": expert, "rounds": 1, "epochs": 1, "rollout_round_min_timesteps": 10}
        settings |= {"rollout_round_min_episodes": 1}
    agent: Any = agentlib.train(what, **settings)
    world = gymnasium.make(env_id)
    assert world.action_space.contains(agent.act(world.reset(seed=0)[0]))


def test_demonstrations_come_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()
    demos = identity_demos(3)
    path = demos.save(tmp_path / "demos")
    dataset = demos.to_minari("identity/expert-v0")
    for given in (demos, path, str(path), "minari:identity/expert-v0", dataset):
        assert demonstrations_of(given).steps == 30


def test_what_are_no_demonstrations(tmp_path):
    demos = identity_demos(2)
    with pytest.raises(ValueError, match="the demonstrations are empty"):
        agentlib.train("bc", demos=Demonstrations(spaces.Discrete(4), spaces.Discrete(4)), **QUIET)
    with pytest.raises(ValueError, match="not list: make them by Demonstrations"):
        agentlib.train("bc", demos=list(demos), **QUIET)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        agentlib.train("bc", demos=tmp_path / "nowhere.safetensors", **QUIET)
    with pytest.raises(FileNotFoundError, match="no Minari dataset 'no/such-v0'"):
        agentlib.train("bc", demos="minari:no/such-v0", **QUIET)
    with pytest.raises(ValueError, match="not int"):
        agentlib.train("bc", demos=3, **QUIET)


def test_demonstrations_of_another_environment_are_refused_with_both_spaces():
    demos = identity_demos(2)
    message = r"the demonstrations' observation space is Discrete\(4\), the environment's is Box.*\(4,\)"
    with pytest.raises(ValueError, match=message):
        agentlib.train("bc", env="CartPole-v1", demos=demos, **QUIET)
    with pytest.raises(ValueError, match=message):
        agentlib.train("dagger", env="CartPole-v1", demos=demos, expert="scripted", **SMALL)


def test_experts_by_name(tmp_path):
    assert expert_of("scripted", "CartPole-v1") is cartpole_expert
    assert isinstance(expert_of("me", None), Person)
    agent: Any = agentlib.train("bc", demos=identity_demos(2), epochs=1, **QUIET)
    assert isinstance(expert_of(str(agent.save(tmp_path / "x")), None), Agent)
    with pytest.raises(ValueError, match="no scripted expert for 'Pendulum-v1'"):
        agentlib.train("dagger", env="Pendulum-v1", expert="scripted", **SMALL)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        agentlib.train("dagger", env=IDENTITY, expert="nowhere.safetensors", **SMALL)
    with pytest.raises(ValueError, match="give expert=, such as"):
        agentlib.train("dagger", env=IDENTITY, **SMALL)
    with pytest.raises(TypeError, match="not int"):
        agentlib.train("dagger", env=IDENTITY, expert=3, **SMALL)
    with pytest.raises(ValueError, match=r"expert's observation space is Discrete.*environment's is Box"):
        agentlib.train("dagger", env="CartPole-v1", expert=agent, **SMALL)


@pytest.mark.slow
def test_sb3_files_are_experts(tmp_path):
    from stable_baselines3 import DQN as Theirs

    from agentlib.core.host import global_generators_kept

    with global_generators_kept():
        model = Theirs("MlpPolicy", gymnasium.make("CartPole-v1"), seed=0)
        model.save(tmp_path / "model.zip")
    seen: dict[str, float] = {}
    for expert in (f"sb3:{tmp_path / 'model.zip'}", model):
        agentlib.train("dagger", env="CartPole-v1", expert=expert, callback=lambda c, m: seen.update(m), **SMALL)
    assert seen["rollout/round"] == 2


def test_a_wrong_expert_names_round_and_index():
    with pytest.raises(ValueError, match=r"the expert, round 1, step 0: action 9, at index 0, is not in Discrete\(4\)"):
        agentlib.train("dagger", env=IDENTITY, expert=lambda o: np.full(len(o), 9), **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["unsure", "disagreement", "takeover"])
def test_gates_ask_less(gate):
    counts = {}
    for name in (None, gate):
        seen: dict[str, float] = {}
        agentlib.train(
            DAggerConfig(
                rounds=4,
                rollout_round_min_timesteps=50,
                epochs=40,
                learning_rate=1e-2,
                ensemble=3 if gate == "disagreement" else 1,
                gate=name,
                net_arch=(32,),
            ),
            env=IDENTITY,
            expert="scripted",
            callback=lambda clock, metrics, seen=seen: seen.update(metrics),
            **QUIET,
        )
        counts[name] = seen["rollout/labels"]
    assert 0 < counts[gate] < 0.7 * counts[None]


def test_the_gate_is_calibrated_on_answers_before_they_are_learned(monkeypatch):
    """An expert that changes its mind after two rounds: only who has not heard it yet can be surprised."""
    likelihoods: list[float] = []
    temperatures: list[float] = []
    calibrate = UnsureGate.calibrate

    def watched(gate, output, label):
        calibrate(gate, output, label)
        assert len(label) == 40, "the labels of one round"
        likelihoods.append(float(gate.policy.log_prob(output, label).exp().mean()))
        temperatures.append(gate.temperature)

    monkeypatch.setattr(UnsureGate, "calibrate", watched)
    seen: dict[str, float] = {}
    agentlib.train(
        DAggerConfig(
            rounds=3,
            rollout_round_min_timesteps=40,
            gate="unsure",
            calibrated=True,
            threshold=1.0,  # asks everywhere
            epochs=40,
            learning_rate=1e-2,
            net_arch=(32,),
        ),
        env=IDENTITY,
        expert=lambda observation: (observation + len(likelihoods)) % 4,
        callback=lambda clock, metrics: seen.update(metrics),
        **QUIET,
    )
    assert len(likelihoods) == 2, "in the first round the student knows nothing"
    assert likelihoods[0] > 0.9
    assert temperatures[0] == 1.0
    assert likelihoods[1] < 0.1
    assert temperatures[1] > 5.0
    assert seen["rollout/temperature"] == temperatures[1]


def test_a_gate_that_the_policy_cannot_serve():
    expert = Onlooker(lambda env, observation: env.action_space.sample())
    with pytest.raises(ValueError, match="use an ensemble and its disagreement"):
        agentlib.train("dagger", env="Pendulum-v1", expert=expert, gate="unsure", **SMALL)


def test_from_scratch_begins_each_round_with_the_first_weights(monkeypatch):
    from agentlib.learners import BC

    firsts: dict[bool, list[torch.Tensor]] = {}
    for anew in (True, False):
        seen = firsts[anew] = []
        plain = BC.update

        def spying(self, batch, seen=seen, plain=plain):
            seen.append(self.policy.head.bias.detach().clone())
            return plain(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(BC, "update", spying)
            settings: dict[str, Any] = SMALL | {"epochs": 2, "compile": "eager"}
            agentlib.train("dagger", env=IDENTITY, expert="scripted", from_scratch=anew, **settings)
    for anew, seen in firsts.items():
        again = [update for update, bias in enumerate(seen) if torch.equal(bias, seen[0])]
        assert len(again) == (2 if anew else 1)  # two rounds


def test_labels_are_kept_when_the_person_leaves(tmp_path):
    lines = [*"0123" * 5]
    person = Person(None, Terminal(read=lambda: lines.pop(0) + "\n" if lines else "", write=lambda text: None))
    agent: Any = agentlib.train("dagger", env=IDENTITY, expert=person, out=tmp_path / "run", **SMALL)
    assert agent.act(0) in range(4)
    import json

    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["measures"]["test/labels"] == 20


def test_a_run_is_resumed_and_asks_only_for_the_rest(tmp_path):
    asked = 0

    def expert(observation):
        nonlocal asked
        asked += 1
        if asked == 55:
            raise KeyboardInterrupt
        return identity_expert(observation)

    with pytest.raises(KeyboardInterrupt, match="what was learned so far is in"):
        agentlib.train("dagger", env=IDENTITY, expert=expert, out=tmp_path / "run", **SMALL)
    seen: dict[str, float] = {}
    with pytest.raises(ValueError, match="give expert="):
        agentlib.train(resume=tmp_path / "run", progress=False)
    agentlib.train(
        resume=tmp_path / "run", expert=expert, callback=lambda c, m: seen.update(m), progress=False, compile=False
    )
    # Two rounds of 40: 54 labels before, of which 4 were of an episode that was cut off, and the rest of round two.
    assert seen["rollout/round"] == 2
    assert asked == 55 + 26 + 4
    assert seen["rollout/labels"] == 84


def test_class_weights_balance_the_actions():
    demos = Demonstrations(spaces.Discrete(2), spaces.Discrete(4, start=1))
    demos.append(Demonstration(np.zeros(7, int), np.array([1, 1, 1, 2, 4, 4]), np.zeros(6)))
    facts = DemonstrationFacts(demos.observation_space, demos.action_space, demos)
    learner = BC.build(backbone_for(demos.observation_space), BCConfig(class_weights="balanced"), facts)
    assert learner.config.class_weights == pytest.approx((6 / 9, 2.0, 0.0, 1.0))
    agentlib.train("bc", demos=chain_demos(2), class_weights="balanced", epochs=1, **QUIET)
    with pytest.raises(ValueError, match="give class_weights as numbers"):
        agentlib.train("dagger", env=IDENTITY, expert="scripted", class_weights="balanced", **SMALL)


def test_held_out_scores_are_those_of_the_formula():
    demos = chain_demos(6)
    agent: Any = agentlib.train("bc", demos=demos, epochs=2, **QUIET)
    seen = torch.from_numpy(np.concatenate([episode.observations[:-1] for episode in demos]))
    right = torch.from_numpy(np.concatenate([episode.labels for episode in demos]))
    with torch.no_grad():
        output, _ = agent.policy(seen)
        expected = torch.nn.functional.cross_entropy(output, right)
    scores = held_out_scores(agent.policy, demos)
    assert scores["eval/loss"] == pytest.approx(float(expected), rel=1e-5)
    assert scores["eval/agreement"] == pytest.approx(float((output.argmax(1) == right).float().mean()))


def test_validation_stops_early_and_keeps_the_best(tmp_path):
    demos = chain_demos(12)
    seen: list[float] = []
    agent = agentlib.train(
        BCConfig(validation=0.5, patience=3, epochs=400, learning_rate=1e-2, ent_weight=0.0),
        demos=demos,
        callback=lambda clock, metrics: seen.append(metrics["eval/loss"]) if "eval/loss" in metrics else None,
        **QUIET,
    )
    assert 4 <= len(seen) < 100
    assert 2 <= len(seen) - 1 - int(np.argmin(seen)) <= 3
    assert isinstance(agent, Agent)
    held_out = demos.split(0.5, seed=0)[1]
    assert held_out_scores(agent.policy, held_out)["eval/loss"] == pytest.approx(min(seen), rel=1e-5)


def test_ensembles_and_squared_errors():
    agent: Any = agentlib.train("bc", demos=chain_demos(3), ensemble=3, epochs=1, **QUIET)
    assert isinstance(agent.policy, EnsemblePolicy)
    expert = Onlooker(lambda env, observation: env.action_space.sample())
    demos = record_episodes(expert, "Pendulum-v1", 1)
    for loss, squashed in (("mse", False), ("mse", True), ("nll", True)):
        agent = agentlib.train("bc", demos=demos, loss=loss, squashed=squashed, epochs=1, **QUIET)
        assert isinstance(agent.policy, GaussianPolicy) == (loss == "nll")


def test_an_ensemble_needs_a_backbone_for_each_member():
    with pytest.raises(ValueError, match="an ensemble needs a backbone for each of its policies: name it"):
        agentlib.train("bc", demos=chain_demos(2), ensemble=2, backbone=MLP(3, (8,)), epochs=1, **QUIET)
    agent: Any = agentlib.train("bc", demos=chain_demos(2), ensemble=2, epochs=1, **QUIET)
    first, second = (member.backbone.state_dict().values() for member in agent.policy.members)
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_at_most_2000_held_out_steps_are_looked_at():
    demos = identity_demos(250)
    assert HeldOutJudge(torch.nn.Identity(), demos, 1, None).held_out.steps == 2_000
    assert HeldOutJudge(torch.nn.Identity(), demos[:3], 1, None).held_out.steps == 30


def test_an_agent_is_gone_on_from():
    first: Any = agentlib.train("bc", demos=identity_demos(), epochs=60, **QUIET)
    second: Any = agentlib.train("dagger", env=IDENTITY, expert="scripted", agent=first, **{**SMALL, "rounds": 1})
    assert first.policy is not second.policy
    assert agentlib.evaluate(second, IDENTITY, episodes=3).mean > 8


def test_the_same_seed_the_same_agent():
    runs = [agentlib.train("dagger", expert="scripted", seed=seed, **CHAIN, **SMALL) for seed in (0, 0, 1)]
    weights: list[Any] = [torch.cat([p.flatten() for p in agent.policy.parameters()]) for agent in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_several_environments_side_by_side():
    agent: Any = agentlib.train("dagger", env=IDENTITY, expert="scripted", n_envs=3, **{**SMALL, "epochs": 60})
    assert agentlib.evaluate(agent, IDENTITY, episodes=5).mean == 10


@pytest.mark.slow
def test_a_memory_is_taught(tmp_path):
    """CartPole without velocities, by an expert who sees them."""

    def watching(env: Any, observation: Any) -> int:
        return int(cartpole_expert(np.array(env.unwrapped.state)))

    expert = Onlooker(watching)
    env = "agentlib/CartPoleNoVel-v0"
    demos = record_episodes(expert, env, 2)
    for what in ("bc", "dagger"):
        settings: dict[str, Any] = {"demos": demos, "epochs": 1, "sequence_length": 20, "batch_size": 4, **QUIET}
        if what == "dagger":
            settings |= {"env": env, "expert": expert, "rounds": 1, "rollout_round_min_episodes": 1}
        agent: Any = agentlib.train(what, backbone="lstm", **settings)
        assert agent.has_memory
        assert agent.act(np.zeros(2, np.float32)) in (0, 1)
    with pytest.raises(ValueError, match="sequence_length is for policies with a memory"):
        agentlib.train("bc", demos=demos, sequence_length=5, **QUIET)


@pytest.mark.parametrize(
    ("backbone", "chunk", "updates"), [("auto", None, 2_250), ("lstm", 100, 22), ("lstm", 20, 112)]
)
def test_updates_of_a_run_are_estimated_by_steps_in_a_batch(backbone, chunk, updates):
    """By them a run is compiled, which takes minutes for a memory: 3 rounds of 2 episodes, of 500 steps at most."""
    rounds: dict[str, Any] = {"rounds": 3, "rollout_round_min_episodes": 2, "rollout_round_min_timesteps": 0}
    config = DAggerConfig(epochs=6, batch_size=16, sequence_length=chunk, net_arch=(4,), **rounds)
    env: Any = "agentlib/CartPoleNoVel-v0"
    job = recipe_of("dagger").job(Problem(config=config, env=env, expert=lambda x: x, backbone=backbone))
    assert job.length.updates == updates  # 6 epochs of 1,000, 2,000 and 3,000 steps, in batches of 16 or 16 chunks
    job.source.close()


def test_leaving_at_once_says_so():
    def expert(env, observation):
        raise ExpertLeft

    with pytest.raises(ValueError, match="nothing to learn from after round 1: the expert left"):
        agentlib.train("dagger", env=IDENTITY, expert=Onlooker(expert), **SMALL)


def test_one_step_at_a_time_on_the_shell(tmp_path, monkeypatch, capsys):
    from agentlib.shell.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["record", "scripted", "--env", IDENTITY, "--episodes", "10"]) == 0
    assert "scripted.safetensors: 10 episodes, 100 steps, mean return 10" in capsys.readouterr().out
    flags = ["--progress", "none", "--net-arch", "16"]
    assert main(["train", "bc", "--demos", "scripted.safetensors", "--epochs", "2", *flags]) == 0
    rounds = ["--rounds", "1", "--rollout-round-min-timesteps", "20"]
    assert main(["train", "dagger", "--env", IDENTITY, "--expert", "scripted", *rounds, *flags]) == 0
    agents = sorted(Path("runs").glob("*/agent.safetensors"))
    assert len(agents) == 2
    assert main(["record", str(agents[0]), "--env", IDENTITY, "--out", "again.safetensors", "--noise", "0.5"]) == 0
    found = Demonstrations.load("again.safetensors")
    assert (found.column("label") != found.column("action")).any()
    assert main(["train", "dagger", "--env", IDENTITY]) == 2
    assert "needs --expert" in capsys.readouterr().err


def test_playing_on_the_shell(tmp_path, monkeypatch, capsys):
    from agentlib.shell.main import main

    monkeypatch.chdir(tmp_path)
    lines = [*"aabb", ""]
    monkeypatch.setattr(
        "sys.stdin", type("Lines", (), {"readline": lambda self: lines.pop(0) + "\n" if lines else ""})()
    )
    play = ["record", "--play", "--env", IDENTITY, "--keys", "a=1", "b=2"]
    assert main([*play, "--episodes", "3"]) == 0
    text = capsys.readouterr().out
    assert "demos.safetensors: 1 episode, 5 steps" in text
    assert "agentlib train bc --demos demos.safetensors" in text
    assert Demonstrations.load("demos.safetensors")[0].actions.tolist() == [1, 1, 2, 2, 2]
    assert main([*play, "--out", "more.safetensors"]) == 0  # nobody there
    assert "nothing was played" in capsys.readouterr().out
    for wrong in (["record", "--env", IDENTITY], ["record", "x", "--play", "--env", IDENTITY], [*play, "--keys", "a"]):
        assert main(wrong) == 2
