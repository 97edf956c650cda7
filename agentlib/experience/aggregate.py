"""Data that grows where the learner goes: the learner acts, the expert says what it would have done.

Before each round of training the learner plays, and its steps are added, with the expert's labels, to those of the
rounds before. DAgger (Ross et al. 2011, arXiv:1011.0686) is behavioural cloning on this source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agentlib.core.schedules import Clock, Schedule, at
from agentlib.core.source import Source
from agentlib.core.spaces import action_from_space, action_to_space
from agentlib.envs.vector import Environments
from agentlib.experience.asking import Expert, ExpertLeft, rows_of, single_environments
from agentlib.experience.demonstration_batches import Feed, Labelled
from agentlib.experience.demonstrations import Demonstrations
from agentlib.experience.recording import Recorder
from agentlib.experience.replay import WINDOW

Bools = NDArray[np.bool_]


class Proposal(Protocol):
    """The action that a student would take."""

    @property
    def action(self) -> NDArray[Any]:
        """`(n, ...)`: indices from 0 for discrete actions."""


Student = Callable[[Any, Bools], Proposal]
"""(batched observations, where an episode begins `(n,)`) -> a proposal. Its method `acted`, if it has one, is called
with the actions `(n, ...)`, from 0, that were executed; its `state()`, if it has one, is kept in checkpoints.
`agentlib.policies.Student` is one."""
Gate = Callable[[Any, Any], Bools]
"""(batched observations, the student's proposal) -> where to ask the expert `(n,)`. Its `state()`, if it has one, is
kept in checkpoints."""


class Aggregate(Source):
    """Rounds of episodes, labelled by an expert, and batches of all that was gathered so far.

    In every state that is met the expert is asked for its action, which is the label, and with probability beta also
    executed; otherwise the student's is. With a `gate` the expert is asked only where the gate says so, and where it is
    asked it acts. Episodes that are under way at the end of a round go on in the next one, so that long episodes are
    not missed. A round ends early, and is the last, when the expert leaves.

    The state holds the demonstrations, how far the round has come, and the episodes under way: after a restart they are
    played again and go on. Where an environment does not come back to the same observation, its episodes are kept, cut
    off, and new ones begin. A memory of the expert is part of the state if it is a tuple of arrays, as agents and SB3's
    models have it; what else an expert remembers, if it has methods `state` and `load_state`.

    Args:
        envs: what `agentlib.envs.Environments` takes.
        student: acts by the policy that learns.
        expert: what `agentlib.experience.Expert` takes.
        demonstrations: those before the first round; the rounds add to a copy of the list.
        beta: probability that the expert acts; a number, or a schedule, whose clock's fraction is 0 in the first round
            and grows by 1 / rounds.
        gate: decides where to ask. With an attribute `looks_on`, it is called for one environment at a time, as
            `gate(env, observation, action)`; with `needs_training`, the expert is asked everywhere as long as nothing
            was learned.
        rounds: number of rounds.
        round_episodes: episodes of a round, at least.
        round_steps: steps of these episodes, at least.
        total_steps: the round that reaches this number of environment steps is the last; None counts rounds.
        epochs: passes over all labels after each round.
        batch_size: steps, or chunks, per update.
        sequence_length: steps per chunk, for policies with a memory; None for single steps.
        from_start: share of the chunks that begin where their episode does.
        with_actions: give the observations of chunks as `AfterAction`, for policies that read the last action.
        before_training: called with this source between a round's episodes and its updates.
        owns_envs: `close` closes the environments.
        seed: of environments, of beta's coin, and of the order of batches.
    """

    def __init__(
        self,
        envs: Any,
        student: Student,
        expert: Any,
        *,
        demonstrations: Demonstrations | None = None,
        beta: Schedule = 0.0,
        gate: Any = None,
        rounds: int = 10,
        round_episodes: int = 3,
        round_steps: int = 500,
        total_steps: int | None = None,
        epochs: int = 4,
        batch_size: int = 32,
        sequence_length: int | None = None,
        from_start: float = 0.5,
        with_actions: bool = False,
        before_training: Callable[[Aggregate], None] | None = None,
        owns_envs: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        environments = envs if isinstance(envs, Environments) else Environments(envs)
        if demonstrations is None:
            demonstrations = Demonstrations(environments.observation_space, environments.action_space)
        demonstrations.check_spaces(environments.observation_space, environments.action_space)
        self.demonstrations = demonstrations.select(range(len(demonstrations)))  # the caller's list stays as it is
        self.recorder = Recorder(environments, self.demonstrations)
        self.student, self.expert = student, Expert(expert, environments)
        self.beta, self.gate = beta, gate
        self.gated_worlds = single_environments(environments) if getattr(gate, "looks_on", False) else []
        self.rounds, self.round_episodes, self.round_steps = rounds, round_episodes, round_steps
        self.total_steps, self.epochs, self.before_training = total_steps, epochs, before_training
        self.owns_envs = owns_envs
        self.feed = Feed(self.demonstrations, batch_size, sequence_length, from_start, with_actions)
        self.round = 0
        """Rounds whose episodes are complete."""
        self.labels = 0
        """Answers of the expert."""
        self.steps = 0
        """Environment steps."""
        # At the end of the round before: environment steps, recorded steps, recorded episodes.
        self.steps_before, self.recorded_before, self.episodes_before = 0, demonstrations.steps, len(demonstrations)
        self.collecting = False
        self.round_updates = self.updates_due = 0
        self.left = False
        """Whether the expert has gone."""

    @property
    def finished(self) -> bool:
        """Whether all rounds are played and trained on."""
        enough = self.round >= self.rounds if self.total_steps is None else self.steps >= self.total_steps
        return (enough or self.left) and self.updates_due == 0 and not self.collecting

    @property
    def clock(self) -> Clock:
        """Where the run is. A round's steps count as its updates go by, so that what is logged has learned them."""
        trained = 1.0 - self.updates_due / max(self.round_updates, 1)
        steps = self.steps_before + int(trained * (self.steps - self.steps_before))
        if self.total_steps is not None:
            return Clock(self.updates, steps, min(steps / self.total_steps, 1.0))
        return Clock(self.updates, steps, max(self.round - 1 + trained, 0.0) / self.rounds)

    def advance(self) -> None:
        """Plays a round if one is due, and chooses the next batch."""
        if self.updates_due == 0:
            self.collect()
        self.updates_due -= 1
        self.feed.choose(self.generator)

    def sample(self) -> Labelled:
        """The chosen batch."""
        return self.feed.batch(self.batch_clock)

    def measures(self) -> dict[str, float]:
        """Labels, rounds, and means over the last episodes."""
        count = len(self.demonstrations)
        last = self.demonstrations.select(range(max(count - WINDOW, 0), count))
        measures: dict[str, Any] = {"rollout/labels": self.labels, "time/episodes": count, "rollout/round": self.round}
        if len(last):
            measures |= {"rollout/ep_rew_mean": np.mean(last.returns), "rollout/ep_len_mean": np.mean(last.lengths)}
            shares = [episode.interventions.mean() for episode in last]
            measures["rollout/intervention_rate"] = np.average(shares, weights=last.lengths)
        if hasattr(self.gate, "temperature"):
            measures["rollout/temperature"] = self.gate.temperature
        return {name: float(value) for name, value in measures.items()}

    def close(self) -> None:
        """Closes the environments, if they are its own."""
        if self.owns_envs:
            self.recorder.envs.close()

    # Playing -----------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Plays and labels a round; if one was interrupted, the rest of it.

        Raises:
            TypeError: the expert's answer is of another kind than the environment's actions.
            ValueError: the expert's answer does not fit; the message names the round and the index. Or there is still
                nothing to learn from, because the expert left or was never asked.
            RuntimeError: the expert raised something else.
        """
        if not self.collecting:
            self.collecting, self.steps_before = True, self.steps
            self.recorded_before, self.episodes_before = self.demonstrations.steps, len(self.demonstrations)
            self.updates_due = self.round_updates = 0
        try:
            while not self._is_complete():
                if self.recorder.observation is None:
                    self.recorder.reset(seed=int(self.generator.integers(2**30)))
                self._step()
        except ExpertLeft:
            self.left = True
            self.recorder.cut()
        except BaseException:
            self.recorder.cut()  # what was labelled is kept
            raise
        self.collecting = False
        self.round += 1
        self.feed.refresh()
        if not self.feed.epoch_updates:
            who = "left" if self.left else "was never asked"
            raise ValueError(f"there is nothing to learn from after round {self.round}: the expert {who}")
        self.updates_due = self.round_updates = self.epochs * self.feed.epoch_updates
        if self.before_training is not None:
            self.before_training(self)

    def _is_complete(self) -> bool:
        if self.left:
            return True
        steps = self.demonstrations.steps - self.recorded_before
        episodes = len(self.demonstrations) - self.episodes_before
        return steps >= self.round_steps and episodes >= self.round_episodes

    def _step(self) -> None:
        """One step of each environment."""
        recorder = self.recorder
        proposal = self.student(recorder.observation, recorder.begun)
        proposed = action_to_space(self.demonstrations.action_space, proposal.action)
        open_ = self.gate is None or (getattr(self.gate, "needs_training", False) and not self.feed.epoch_updates)
        asked = np.ones(len(proposed), np.bool_) if open_ else self._gated(proposal, proposed)
        asked &= ~recorder.waiting
        label = proposed.copy()
        label[asked] = self._answers(asked)
        acts = asked
        if self.gate is None:
            fraction = self.round / self.rounds if self.total_steps is None else self.steps / self.total_steps
            beta = float(at(self.beta, Clock(self.updates, self.steps, fraction)))
            acts = asked & (self.generator.random(len(asked)) < beta)
        action = np.where(acts.reshape(-1, *[1] * (label.ndim - 1)), label, proposed)
        if hasattr(self.student, "acted"):
            self.student.acted(action_from_space(self.demonstrations.action_space, action))
        valid = recorder.step(action, label, asked, acts)
        self.labels += int((asked & valid).sum())
        self.steps += int(valid.sum())

    def _gated(self, proposal: Proposal, proposed: NDArray[Any]) -> Bools:
        observation = self.recorder.observation
        if not self.gated_worlds:
            return np.array(self.gate(observation, proposal), np.bool_)
        space, waiting = self.demonstrations.observation_space, self.recorder.waiting
        return np.array(
            [
                not waiting[row] and bool(self.gate(world, rows_of(space, observation, row), proposed[row]))
                for row, world in enumerate(self.gated_worlds)
            ]
        )

    def _answers(self, asked: Bools) -> NDArray[Any]:
        try:
            return self.expert(self.recorder.observation, asked, self.recorder.begun)
        except ExpertLeft:
            raise
        except Exception as error:
            where = f"the expert, round {self.round + 1}, step {self.steps - self.steps_before}"
            if type(error) in (TypeError, ValueError):
                raise type(error)(f"{where}: {error}") from None
            raise RuntimeError(f"{where}, raised {type(error).__name__}: {error}{self.expert.hint}") from error

    # State -------------------------------------------------------------------------------------------------------

    _COUNTERS = (
        "round", "labels", "steps", "steps_before", "recorded_before", "episodes_before", "collecting",
        "round_updates", "updates_due", "left",
    )  # fmt: skip

    def get_extra_state(self) -> dict[str, Any]:
        """Counters, generators, demonstrations, and the episodes under way."""
        counters = {name: getattr(self, name) for name in self._COUNTERS}
        student, gate = (one.state() if hasattr(one, "state") else {} for one in (self.student, self.gate))
        own = {"counters": counters, "student": student, "gate": gate, "demonstrations": self.demonstrations.state()}
        own |= {"recorder": self.recorder.state(), "expert": self.expert.remembers()}
        return super().get_extra_state() | own

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave; the episodes under way are played again."""
        super().set_extra_state(state)
        for name, value in state["counters"].items():
            setattr(self, name, value)
        for one, name in ((self.student, "student"), (self.gate, "gate")):
            if hasattr(one, "load_state"):
                one.load_state(state[name])
        self.expert.remember(state["expert"])
        self.demonstrations.load_state({name: rows.copy() for name, rows in state["demonstrations"].items()})
        self.recorder.load_state(state["recorder"])
        self.feed.refresh()  # (its own state, the rest of the epoch, is loaded after this)
