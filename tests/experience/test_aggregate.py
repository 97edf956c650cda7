"""Aggregation: whose actions are done, whose are learned, when the expert is asked, and what is kept of it."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agentlib.backbones import MLP, adam
from agentlib.core import Linear
from agentlib.core.randomness import fresh_weights
from agentlib.core.trees import copied, difference
from agentlib.envs.experts import cartpole_expert, chain_expert
from agentlib.experience import Aggregate, ExpertLeft, Onlooker, record_episodes
from agentlib.learners import BC, run
from agentlib.policies import CategoricalPolicy, Student
from agentlib.runs.checkpoints import load_checkpoint, save_checkpoint
from agentlib.testing import check_learner
from tests.experience.scripted import Scripted


@dataclass
class Did:
    action: Any


class Zeros:
    """A student that always does action 0, and remembers where episodes began."""

    def __init__(self):
        self.begun = []

    def __call__(self, observation, episode_start):
        self.begun.append(episode_start.copy())
        return Did(np.zeros(len(episode_start), np.int64))


def labelled_by_step(observation):
    """Scripted observations are (environment, episode, step); the expert says the step, from 1."""
    return 1 + observation[..., 2].astype(np.int64) % 4


def scripted(script, n=1, mode=AutoresetMode.SAME_STEP, start=0):
    worlds = [Scripted(i, script, action_space=spaces.Discrete(5, start=start)) for i in range(n)]
    if n == 1:
        return worlds[0]
    makers: list[Any] = [lambda world=world: world for world in worlds]
    return SyncVectorEnv(makers, autoreset_mode=mode)


ROUND: dict[str, Any] = {"round_episodes": 2, "round_steps": 0, "epochs": 1, "batch_size": 4}


def test_every_state_is_labelled_and_the_student_acts():
    source = Aggregate(scripted([(3, "terminated"), (5, "truncated")]), Zeros(), labelled_by_step, **ROUND)
    source.collect()
    first, second = source.demonstrations
    for episode, length, terminated in ((first, 3, True), (second, 5, False)):
        assert episode.actions.tolist() == [0] * length
        assert episode.labels.tolist() == [1 + t % 4 for t in range(length)]
        assert episode.labelled.all()
        assert not episode.interventions.any()
        assert episode.terminated == terminated
        assert episode.observations[:, 2].tolist() == list(range(length + 1))  # with the final one
    assert (source.labels, source.steps, source.round, source.updates_due) == (8, 8, 1, 2)


def test_with_beta_the_expert_acts_so_often():
    for beta, share in ((1.0, 1.0), (0.0, 0.0), (0.3, 0.3)):
        script = [(15, "terminated")]
        source = Aggregate(
            scripted(script), Zeros(), labelled_by_step, beta=beta, **{**ROUND, "round_episodes": 50}, seed=1
        )
        source.collect()
        done, labels, acted = (source.demonstrations.column(name) for name in ("action", "label", "intervention"))
        np.testing.assert_array_equal(done, np.where(acted, labels, 0))
        assert source.demonstrations.labels == 750
        assert abs(acted.mean() - share) < 0.06


def test_beta_is_a_schedule_over_rounds():
    seen = []

    def beta(clock):
        seen.append(round(clock.fraction, 6))
        return Linear(1.0, 0.0)(clock)

    source = Aggregate(scripted([(4, "terminated")]), Zeros(), labelled_by_step, beta=beta, rounds=4, **ROUND)
    acted = []
    for _ in range(4):
        before = source.demonstrations.steps
        source.collect()
        acted.append(source.demonstrations.column("intervention")[before:].mean())
    assert sorted(set(seen)) == [0.0, 0.25, 0.5, 0.75]
    assert acted[0] == 1.0
    assert acted[3] < 0.7


def test_the_action_space_may_start_anywhere():
    source = Aggregate(
        scripted([(3, "terminated")], start=7), Zeros(), lambda o: 7 + labelled_by_step(o), beta=0.5, **ROUND
    )
    source.advance()
    assert set(source.demonstrations.column("action")) <= {7, 8, 9, 10}
    assert set(source.sample().action.tolist()) <= {1, 2, 3}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_are_aggregated_alike(mode):
    """The same episodes whatever the autoreset mode, and nothing asked about a step that only resets."""
    script = [(2, "terminated"), (5, "truncated"), (1, "terminated"), (4, "both")]
    asked = []

    def expert(observation):
        asked.append(len(observation))
        return labelled_by_step(observation)

    source = Aggregate(
        scripted(script, 3, mode), Zeros(), expert, round_episodes=30, round_steps=0, epochs=1, batch_size=4, rounds=1
    )
    source.collect()
    by_number: dict[tuple[int, int], list[float]] = {}
    for episode in source.demonstrations:
        number, which, _ = (int(x) for x in episode.observations[0])
        by_number[number, which] = episode.observations[:, 2].tolist()
        assert episode.labels.tolist() == [1 + t % 4 for t in range(len(episode.rewards))]
        assert episode.terminated == (script[which % 4][1] != "truncated")
    assert len(by_number) == len(source.demonstrations) >= 30
    assert all(steps == list(range(script[which % 4][0] + 1)) for (_, which), steps in by_number.items())
    assert source.labels == sum(asked)
    assert source.labels == source.demonstrations.labels + sum(len(steps) for steps in source.recorder._steps)


def test_episodes_under_way_go_on_in_the_next_round():
    envs = scripted([(2, "terminated"), (2, "terminated"), (9, "terminated")], 2)
    source = Aggregate(envs, Zeros(), labelled_by_step, round_episodes=4, round_steps=0, epochs=1)
    lengths = []
    for _ in range(3):
        source.collect()
        lengths.append(sorted(source.demonstrations.lengths))
    assert lengths[0] == [2, 2, 2, 2]
    assert lengths[-1].count(9) >= 2  # none was dropped for being long


def test_a_round_has_steps_and_episodes_enough():
    source = Aggregate(
        scripted([(4, "terminated")]), Zeros(), labelled_by_step, round_episodes=2, round_steps=13, epochs=3
    )
    source.collect()
    assert source.steps == 16
    assert source.updates_due == 3  # 16 labels are half a batch of 32, three times


def test_a_gate_decides_where_to_ask_and_there_the_expert_acts():
    def gate(observation, proposal):
        return observation[:, 2] % 2 == 1

    source = Aggregate(scripted([(6, "terminated")]), Zeros(), labelled_by_step, gate=gate, beta=0.0, **ROUND)
    source.collect()
    for episode in source.demonstrations:
        assert episode.labelled.tolist() == [False, True] * 3 == episode.interventions.tolist()
        assert episode.actions.tolist() == [0, 2, 0, 4, 0, 2]
    assert source.labels == source.demonstrations.labels == 6
    source.advance()
    assert set(source.sample().action.tolist()) <= {2, 4}


def test_a_gate_that_looks_on_is_asked_for_each_environment():
    class Gate:
        looks_on = True

        def __init__(self):
            self.seen = []

        def __call__(self, env, observation, action):
            self.seen.append((env.unwrapped.number, tuple(observation), int(action)))
            return observation[2] == 0

    gate = Gate()
    source = Aggregate(scripted([(2, "terminated")], 2), Zeros(), labelled_by_step, gate=gate, **ROUND)
    source.collect()
    assert gate.seen[:3] == [(0, (0, 0, 0), 0), (1, (1, 0, 0), 0), (0, (0, 0, 1), 0)]
    assert source.labels == 2


def test_what_was_there_before_stays_as_it_was():
    before = record_episodes(chain_expert, "agentlib/Chain-v0", 2, env_kwargs={"horizon": 5})
    env = gymnasium.make("agentlib/Chain-v0", horizon=5)
    source = Aggregate(env, Zeros(), chain_expert, demonstrations=before, **ROUND)
    source.collect()
    assert (len(before), len(source.demonstrations)) == (2, 4)
    assert before.lengths.tolist() == [5, 5]
    with pytest.raises(ValueError, match=r"observation space is Box.*\(3,\).*environment's is Box.*\(4,\)"):
        Aggregate(gymnasium.make("CartPole-v1"), Zeros(), cartpole_expert, demonstrations=before)


def test_a_round_moves_only_what_must_grow():
    source = Aggregate(scripted([(8, "terminated")]), Zeros(), labelled_by_step, **ROUND)
    for _ in range(200):
        source.collect()
    column = source.demonstrations._columns["observation_0"]
    assert column.size == 200 * 2 * 9
    assert column.copied < 2 * column.size


# Experts that fail, and experts that leave


def test_a_wrong_answer_names_round_step_and_index():
    def expert(observation):
        wrong = (observation[:, 1] == 3) & (observation[:, 2] == 1)
        return np.where(wrong, 9, 0)

    source = Aggregate(scripted([(3, "terminated")]), Zeros(), expert, **ROUND)
    source.collect()
    with pytest.raises(ValueError, match=r"the expert, round 2, step 4: action 9, at index 0, is not in Discrete\(5\)"):
        source.collect()
    # What was labelled before is kept, and the round can be gone on with.
    assert source.labels == 10
    assert [len(e.rewards) for e in source.demonstrations] == [3, 3, 3, 1]
    source.expert.answers = lambda observation: np.zeros(len(observation), np.int64)
    source.collect()
    assert source.round == 2


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda o: np.zeros(len(o)), TypeError, "the expert, round 1, step 0: actions of dtype float64"),
        (lambda o: np.zeros((len(o), 2), int), ValueError, r"the expert, round 1, step 0: actions of shape \(1, 2\)"),
    ],
)
def test_answers_of_another_kind(answer, error, message):
    with pytest.raises(error, match=message):
        Aggregate(scripted([(3, "terminated")]), Zeros(), answer, **ROUND).collect()


def test_an_experts_exception_comes_with_its_place():
    def of_one(observation):
        return int(observation[1] > 0)

    source = Aggregate(scripted([(3, "terminated")]), Zeros(), of_one, **ROUND)
    with pytest.raises(RuntimeError, match=r"the expert, round 1, step 0, raised IndexError.*Onlooker\("):
        source.collect()
    looking = Aggregate(scripted([(3, "terminated")]), Zeros(), Onlooker(lambda env, o: 1 // 0), **ROUND)
    with pytest.raises(RuntimeError, match=r"raised ZeroDivisionError: [^.]*$"):
        looking.collect()


def leaves_after(answers):
    def expert(env, observation):
        nonlocal answers
        answers -= 1
        if answers < 0:
            raise ExpertLeft
        return int(labelled_by_step(observation))

    return Onlooker(expert)


def test_what_was_labelled_before_the_expert_left_is_kept_and_learned():
    source = Aggregate(scripted([(3, "terminated")]), Zeros(), leaves_after(5), rounds=9, **ROUND)
    source.collect()
    assert (source.labels, source.left, source.updates_due) == (5, True, 2)
    assert source.demonstrations.lengths.tolist() == [3, 2]
    assert not source.demonstrations[1].terminated
    assert not source.finished  # there is something to learn yet
    source.advance()
    source.advance()
    assert source.finished


def test_an_expert_that_never_answered():
    with pytest.raises(ValueError, match="nothing to learn from after round 1: the expert left"):
        Aggregate(scripted([(3, "terminated")]), Zeros(), leaves_after(0), **ROUND).collect()
    never = Aggregate(
        scripted([(3, "terminated")]), Zeros(), labelled_by_step, gate=lambda o, p: np.zeros(len(o), bool), **ROUND
    )
    with pytest.raises(ValueError, match="nothing to learn from after round 1: the expert was never asked"):
        never.collect()


def test_ctrl_c_keeps_the_labels():
    def expert(observation):
        if observation[0, 1] == 1:
            raise KeyboardInterrupt
        return labelled_by_step(observation)

    source = Aggregate(scripted([(3, "terminated")]), Zeros(), expert, **ROUND)
    with pytest.raises(KeyboardInterrupt):
        source.collect()
    assert source.demonstrations.labels == 3
    assert source.collecting


# State


class Dagger(BC):
    """DAgger = BC on this source: argmin_pi E[-log pi(a | o)] over what was met (Ross et al. 2011)."""

    @classmethod
    def tiny(cls, seed=0):
        env = gymnasium.make("agentlib/Chain-v0", horizon=20)
        with fresh_weights(seed):
            policy = CategoricalPolicy(MLP(3, (16,)), 5)
        student = Student(policy, env.observation_space, seed=seed)
        settings: dict[str, Any] = {"round_steps": 40, "round_episodes": 1, "epochs": 1, "batch_size": 16}
        return cls(policy, adam(1e-3)), Aggregate(env, student, chain_expert, beta=0.5, seed=seed, **settings)


def test_it_keeps_the_contract_of_sources():
    check_learner(Dagger)


def after(run_, learner, source, path):
    """A new learner and source with the state that these have."""
    list(run_)
    save_checkpoint(path, learner, source)
    again, source_again = Dagger.tiny(seed=1)
    load_checkpoint(path, again, source_again)
    return again, source_again


def test_between_rounds_it_goes_on_exactly(tmp_path):
    """Then no environment is in an episode's middle, but for the one that a reset began."""
    learner, source = Dagger.tiny()
    while source.updates_due or not source.updates:
        next(run(learner, source, 1, compile=False))
    again, source_again = after([], learner, source, tmp_path / "x")
    for one in (source, source_again):
        one.recorder.cut()  # both begin with a new episode
    results = [
        [copied(u) for _, u in run(*pair, 5, compile=False)] for pair in ((learner, source), (again, source_again))
    ]
    assert difference(results[0], results[1]) is None
    assert difference(source.demonstrations.state(), source_again.demonstrations.state()) is None


def test_the_gates_state_is_kept(tmp_path):
    class Remembering:
        value = 1.0

        def state(self):
            return {"value": self.value}

        def load_state(self, state):
            self.value = state["value"]

    learner, source = Dagger.tiny()
    source.gate = Remembering()
    source.gate.value = 2.5
    save_checkpoint(tmp_path / "x", learner, source)
    again, source_again = Dagger.tiny()
    source_again.gate = Remembering()
    load_checkpoint(tmp_path / "x", again, source_again)
    assert source_again.gate.value == 2.5


def test_within_the_training_of_a_round_it_goes_on_exactly(tmp_path):
    learner, source = Dagger.tiny()
    again, source_again = after(run(learner, source, 2, compile=False), learner, source, tmp_path / "x")
    assert source.updates_due == 1
    results = [
        [copied(u) for _, u in run(*pair, 1, compile=False)] for pair in ((learner, source), (again, source_again))
    ]
    assert difference(results[0], results[1]) is None


def test_within_the_episodes_of_a_round_it_goes_on_with_the_rest(tmp_path):
    learner, source = Dagger.tiny()
    calls = 0

    def expert(observation):
        nonlocal calls
        calls += 1
        if calls == 25:
            raise KeyboardInterrupt
        return chain_expert(observation)

    source.expert.answers = expert
    with pytest.raises(KeyboardInterrupt):
        next(run(learner, source, 1, compile=False))
    _, source_again = after([], learner, source, tmp_path / "x")
    assert (source_again.steps, source_again.labels, source_again.demonstrations.labels) == (24, 24, 24)
    source_again.collect()
    assert source_again.round == 1
    assert source_again.demonstrations.lengths.tolist() == [20, 4, 20]  # the rest of 40 steps, in a new episode


def test_its_clock_counts_environment_steps_as_they_are_learned():
    learner, source = Dagger.tiny()
    source.rounds = 3
    clocks = []
    for clock, _ in run(learner, source, 10**6, compile=False):
        clocks.append(clock)
        if source.finished:
            break
    steps = [clock.steps for clock in clocks]
    assert steps == sorted(steps)
    assert steps[0] < 40 < steps[-1] == source.steps == 120
    fractions = [clock.fraction for clock in clocks]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_number_of_steps_ends_it_too():
    learner, source = Dagger.tiny()
    source.total_steps = 100
    for _ in run(learner, source, 10**6, compile=False):
        if source.finished:
            break
    assert (source.steps, source.round, source.clock.fraction) == (120, 3, 1.0)


@pytest.mark.gpu
def test_it_learns_on_a_gpu():
    learner, source = Dagger.tiny()
    learner.to("cuda"), source.to("cuda")
    *_, (_, update) = run(learner, source, 5, compile=False)
    assert torch.isfinite(update.metrics["loss"])
