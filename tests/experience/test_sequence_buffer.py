"""Sequences against a plain list of frames that a scripted environment's log says."""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agentlib.backbones import LSTM, MLP, AfterAction, TransformerDecoder, WithMemory
from agentlib.core import Clock
from agentlib.core.trees import copied, difference
from agentlib.experience import SequenceBuffer, SequenceReplay
from agentlib.experience.memory import OnDevice
from agentlib.policies import EpsilonGreedy, MemoryActor, QPolicy
from tests.experience.scripted import LEAVES, Scripted

SCRIPT = [(3, "terminated"), (1, "truncated"), (6, "both"), (2, "terminated"), (5, "truncated")]
STEPS, PERIOD, LENGTH = 60, 3, 7


class Frame(NamedTuple):
    observation: Any
    previous_action: int
    start: bool
    action: int = 0
    reward: float = 0.0
    terminated: bool = False
    last: bool = True


def frames_of(env: Scripted) -> list[Frame]:
    """The stream that one environment's log says."""
    frames: list[Frame] = []
    for event in env.log:
        if event.action is None:
            frames.append(Frame(event.observation, -1, True))
        else:
            action = int(event.action)
            did: dict[str, Any] = {
                "action": action,
                "reward": event.reward,
                "terminated": event.terminated,
                "last": False,
            }
            frames[-1] = frames[-1]._replace(**did)
            frames.append(Frame(event.observation, action, False))
    return frames


def worlds(mode: AutoresetMode | None, space: spaces.Space) -> tuple[Any, list[Scripted]]:
    if mode is None:
        env = Scripted(0, SCRIPT, space)
        return env, [env]
    scripted = [Scripted(number, SCRIPT[number:] + SCRIPT[:number], space) for number in range(3)]
    return SyncVectorEnv([lambda env=env: env for env in scripted], autoreset_mode=mode), scripted  # type: ignore[misc]


def policy_for(memory: Any = None) -> QPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return QPolicy(WithMemory(MLP(3, ()), memory or LSTM(8, 6), previous_action=5), 5)


def replay_for(env: Any, policy: QPolicy, frames: int, space: spaces.Space = LEAVES["vector"]) -> SequenceReplay:
    num_envs = getattr(env, "num_envs", 1)
    return SequenceReplay(
        env,
        MemoryActor(policy, space),
        SequenceBuffer(
            space,
            spaces.Discrete(5),
            frames * num_envs,
            sequence_length=LENGTH,
            period=PERIOD,
            num_envs=num_envs,
            with_actions=True,
            state=policy.initial_state(1),
        ),
        EpsilonGreedy(spaces.Discrete(5), num_envs, epsilon=0.5, seed=1),
        train_freq=num_envs,
    )


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


MODES = [None, *AutoresetMode]


@pytest.mark.parametrize("frames", [30, 600], ids=["overwritten", "roomy"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_sequences_are_what_happened(mode, frames):
    env, scripted = worlds(mode, LEAVES["vector"])
    replay = replay_for(env, policy_for(), frames)
    for _ in range(STEPS):
        replay.collect()
    buffer: Any = replay.buffer
    streams = [frames_of(one) for one in scripted]
    expected = set()
    for row, stream in enumerate(streams):
        oldest = max(0, len(stream) - buffer.frame_capacity)
        starts = [n for n in range(0, len(stream), PERIOD) if n >= oldest and n + LENGTH < len(stream)]
        expected |= {(row, start) for start in starts}
    rows, numbers = buffer.draw(4000)
    drawn = list(zip(rows.tolist(), numbers.tolist(), strict=True))
    assert set(drawn) == expected
    count = np.unique(drawn, axis=0, return_counts=True)[1]
    assert (abs(count - 4000 / len(expected)) < 6 * np.sqrt(4000 / len(expected))).all()

    batch = buffer.gather(rows[:50], numbers[:50])
    assert isinstance(batch.observation, AfterAction)
    for i, (row, number) in enumerate(drawn[:50]):
        stretch = streams[row][number : number + LENGTH + 1]
        np.testing.assert_array_equal(batch.observation.observation[i], [frame.observation for frame in stretch])
        assert batch.observation.previous_action[i].tolist() == [frame.previous_action for frame in stretch]
        assert batch.episode_start[i].tolist() == [frame.start for frame in stretch]
        for t, frame in enumerate(stretch[:-1]):
            assert batch.weight[i, t] == (0.0 if frame.last else 1.0)
            if not frame.last:
                did = batch.action[i, t], batch.reward[i, t], batch.terminated[i, t]
                assert did == (frame.action, frame.reward, float(frame.terminated))


@pytest.mark.parametrize("memory", [lambda: LSTM(8, 6), lambda: TransformerDecoder(8, 8, 1, 2, window=4)])
@pytest.mark.parametrize("mode", [None, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=str)
def test_a_kept_state_is_the_one_that_reading_from_the_start_gives(mode, memory):
    policy = policy_for(memory())
    env, _ = worlds(mode, LEAVES["vector"])
    replay = replay_for(env, policy, 600)
    for _ in range(STEPS):
        replay.collect()
    buffer: Any = replay.buffer
    for row in range(buffer.num_envs):
        count = int(buffer.window[row])
        numbers = torch.arange(0, count - LENGTH, PERIOD)
        stored = buffer.gather(torch.full_like(numbers, row), numbers)
        flat = torch.arange(count) + row * buffer.frame_capacity
        columns = {name: buffer._flat(name)[flat][None] for name in ("frame_0", "previous_action", "start")}
        read = AfterAction(columns["frame_0"], columns["previous_action"])
        with torch.no_grad():
            whole, _ = policy(read, None, columns["start"])  # (1, count, 5)
            parts, _ = policy(stored.observation, stored.state, stored.episode_start)  # (sequences, LENGTH + 1, 5)
        for i, number in enumerate(numbers.tolist()):
            # The last frame of an episode is not acted on: a sequence that starts there knows no state, and needs none,
            # as the next frame begins an episode.
            first = 1 if stored.weight[i, 0] == 0 else 0
            expected = whole[0, number : number + LENGTH + 1]
            torch.testing.assert_close(parts[i, first:], expected[first:], rtol=1e-4, atol=1e-5)


def test_the_actor_is_asked_even_where_its_action_is_not_used():
    """Its memory would lack what it did not see."""
    policy = policy_for()
    env, _ = worlds(AutoresetMode.NEXT_STEP, LEAVES["vector"])
    replay = replay_for(env, policy, 100)
    replay.collector.exploration = EpsilonGreedy(spaces.Discrete(5), 3, epsilon=1.0)
    replay.collect()
    before = replay.collector.actor.memory
    replay.collect()
    assert not torch.equal(before[0][0], replay.collector.actor.memory[0][0])


def test_any_space_is_kept():
    space = spaces.Dict({name: LEAVES[name] for name in ("image", "double", "discrete", "bits")})
    env = Scripted(0, SCRIPT, space)
    policy = policy_for()
    buffer = SequenceBuffer(
        space, env.action_space, 100, sequence_length=LENGTH, period=PERIOD, state=policy.initial_state(1)
    )
    observation, _ = env.reset()
    batched = {key: np.asarray(part)[None] for key, part in observation.items()}
    buffer.begin(batched)
    yes, no = np.array([True]), np.array([False])
    for t in range(LENGTH + 1):
        buffer.add(np.array([t % 5]), np.array([1.0]), yes if t == 2 else no, no, batched)
    buffer.flush()
    batch = buffer.gather(*buffer.draw(2))
    assert set(batch.observation) == set(space.spaces)
    assert batch.observation["image"].dtype == torch.uint8
    np.testing.assert_array_equal(batch.observation["image"][0, 0], observation["image"])
    assert batch.terminated[0].tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_state_is_saved_and_put_back():
    env, _ = worlds(AutoresetMode.SAME_STEP, LEAVES["vector"])
    policy = policy_for()
    replay, other = replay_for(env, policy, 40), replay_for(env, policy, 40)
    for _ in range(STEPS):
        replay.collect()
    with pytest.warns(UserWarning, match="could not be brought back"):  # the environment goes by its script alone
        other.load_state_dict(replay.state_dict())
    for one in (replay, other):
        torch.manual_seed(3)
        one.fill_ticks(one.clock)
    batches = []
    for one in (replay, other):
        torch.manual_seed(3)
        batches.append(copied(one.sample()))
    assert difference(*batches) is None
    larger = replay_for(env, policy, 60)
    with pytest.raises(ValueError, match="of a full buffer, which only one of the same size can go on with"):
        larger.buffer.load_state_dict(replay.buffer.state_dict())


def test_tensors_are_written_as_arrays_are():
    """On a GPU the buffer writes through tensors: the same code, tried on the CPU."""
    policy, states = policy_for(), []
    for as_tensors in (False, True):
        env, _ = worlds(AutoresetMode.NEXT_STEP, LEAVES["vector"])
        replay = replay_for(env, policy, 40)
        buffer = replay.buffer
        if as_tensors:
            names = buffer._rows[0]
            buffer._rows = [{name: OnDevice(getattr(buffer, name)[row]) for name in names} for row in range(3)]
        for _ in range(STEPS):
            replay.collect()
        states.append(copied(dict(buffer.state_dict())))
    assert difference(*states) is None


def test_learning_waits_for_a_sequence():
    env, _ = worlds(AutoresetMode.NEXT_STEP, LEAVES["vector"])
    replay = replay_for(env, policy_for(), 100)
    replay.advance()
    assert int(replay.buffer.window.min()) > LENGTH
    assert replay.sample().action.shape == (32, LENGTH)
    assert replay.clock == Clock(0, replay.steps, float(replay.steps))


def test_a_buffer_that_holds_no_sequence_is_refused():
    with pytest.raises(ValueError, match=r"buffer_size=20 is too small for sequences of 7 steps .* at least 26"):
        SequenceBuffer(
            LEAVES["vector"], spaces.Discrete(5), 20, sequence_length=7, period=3, num_envs=2, state=torch.zeros(1)
        )


def test_registered_environments_work():
    env = gymnasium.make("CartPole-v1")
    policy = QPolicy(WithMemory(MLP(4, ()), LSTM(4, 6)), 2)
    space = env.observation_space
    buffer = SequenceBuffer(space, env.action_space, 200, sequence_length=5, state=policy.initial_state(1))
    replay = SequenceReplay(env, MemoryActor(policy, space), buffer, EpsilonGreedy(spaces.Discrete(2)))
    replay.advance()
    batch = replay.sample()
    assert isinstance(batch.observation, torch.Tensor)
    assert batch.observation.shape == (32, 6, 4)
