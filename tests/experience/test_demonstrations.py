"""Demonstrations: what goes in comes out exactly, by every door, and nothing is copied that need not be."""

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.numpy import save_file

from agentlib.backbones.files import write_tensors
from agentlib.core.spaces import flatten
from agentlib.experience import Demonstration, Demonstrations, Episode, ReplayBuffer
from agentlib.experience.demonstration_files import load_demonstrations
from tests.experience.scripted import LEAVES, encode

OBSERVATIONS = {
    **LEAVES,
    "dict": spaces.Dict({"image": LEAVES["image"], "speed": LEAVES["double"]}),
    "tuple": spaces.Tuple([LEAVES["discrete"], spaces.Dict({"a": LEAVES["bits"], "b": LEAVES["counts"]})]),
}
ACTIONS = {
    "discrete": spaces.Discrete(5, start=2),
    "choices": spaces.MultiDiscrete([3, 4]),
    "switches": spaces.MultiBinary(3),
    "numbers": spaces.Box(-1, 1, (2,), np.float32),
}
LENGTHS = [3, 1, 7]


def batched(space, singles):
    """A tree of arrays from a list of observations."""
    if isinstance(space, spaces.Dict):
        return {key: batched(part, [single[key] for single in singles]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(batched(part, [single[i] for single in singles]) for i, part in enumerate(space.spaces))
    return np.stack([np.asarray(single) for single in singles])


def an_episode(number, length, observation_space, action_space, *, labels=False):
    observations = batched(observation_space, [encode(observation_space, 0, number, t) for t in range(length + 1)])
    action_space.seed(number)
    actions = np.stack([np.asarray(action_space.sample()) for _ in range(length)])
    rewards = np.arange(length) * 0.1 + number
    if not labels:
        return Demonstration(observations, actions, rewards, number % 2 == 0)
    others = np.stack([np.asarray(action_space.sample()) for _ in range(length)])
    t = np.arange(length)
    return Demonstration(observations, actions, rewards, number % 2 == 0, others, t % 2 == 0, t % 3 == 0)


def some(observation_space=OBSERVATIONS["dict"], action_space=ACTIONS["discrete"], labels=True, lengths=LENGTHS):
    episodes = [an_episode(i, n, observation_space, action_space, labels=labels) for i, n in enumerate(lengths)]
    return Demonstrations.from_episodes(episodes, observation_space, action_space, env_id="X-v0"), episodes


def assert_equal(found, expected, observation_space):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(
            flatten(observation_space, one.observations), flatten(observation_space, other.observations), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        labels = other.actions if other.labels is None else other.labels
        everywhere = np.ones(len(other.rewards), bool)
        labelled = everywhere if other.labelled is None else other.labelled
        interventions = ~everywhere if other.interventions is None else other.interventions
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        np.testing.assert_array_equal(one.labels, labels)
        np.testing.assert_array_equal(one.labelled, labelled)
        np.testing.assert_array_equal(one.interventions, interventions)
        assert one.terminated == other.terminated


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_goes_in_comes_out(observation, action):
    found, episodes = some(OBSERVATIONS[observation], ACTIONS[action])

    assert_equal(found, episodes, OBSERVATIONS[observation])
    leaves = flatten(OBSERVATIONS[observation], episodes[0].observations)
    assert [column.dtype for column in found.observation_columns] == [leaf.dtype for leaf in leaves]
    assert (len(found), found.steps, found.labels) == (3, 11, 2 + 1 + 4)
    np.testing.assert_allclose(found.returns, [0.3, 1.0, 16.1])


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("labels", [False, True])
def test_a_file_holds_it_exactly(observation, labels, tmp_path):
    found, episodes = some(OBSERVATIONS[observation], labels=labels)
    path = found.save(tmp_path / "demos")

    again = Demonstrations.load(path)

    assert path.suffix == ".safetensors"
    assert_equal(again, episodes, OBSERVATIONS[observation])
    again.check_spaces(found.observation_space, found.action_space)
    assert again.env_id == "X-v0"
    again.append(episodes[0])  # and it grows
    assert_equal(again, [*episodes, episodes[0]], OBSERVATIONS[observation])


def test_growing_moves_each_row_a_bounded_number_of_times():
    space, done = spaces.Box(0, 255, (4,), np.float32), spaces.Discrete(5)
    episode = an_episode(0, 7, space, done)
    found = Demonstrations(space, done)
    addresses = []
    for _ in range(500):
        found.append(episode)
        addresses.append(found.observation_columns[0].__array_interface__["data"][0])

    column = found._columns["observation_0"]
    assert column.copied < 2 * column.size
    assert len(set(addresses)) < 15  # of 500 rounds, only these few moved anything


def test_parts_are_whole_episodes_over_the_same_columns(tmp_path):
    found, episodes = some(lengths=[2, 3, 4, 5, 6, 7, 8, 9, 10, 11])

    train, held_out = found.split(0.3, seed=1)

    assert (len(train), len(held_out)) == (7, 3)
    lengths = sorted([*train.lengths, *held_out.lengths])
    assert lengths == sorted(found.lengths)
    for part in (train, held_out):
        shared = zip(part.observation_columns, found.observation_columns, strict=True)
        assert all(np.shares_memory(mine, theirs) for mine, theirs in shared)
        by_length = {len(episode.rewards): episode for episode in episodes}
        assert_equal(part, [by_length[n] for n in part.lengths], found.observation_space)
    other = [found.split(0.3, seed=seed)[1].lengths.tolist() for seed in range(5)]
    assert len(set(map(tuple, other))) > 1
    again = Demonstrations.load(held_out.save(tmp_path / "part"))  # alone, though it lies in between
    assert_equal(again, list(held_out), found.observation_space)


@pytest.mark.parametrize(
    ("share", "lengths", "message"),
    [
        (0.5, [3], "two parts need at least 2 episodes, and here is 1"),
        (0.0, [3, 3], "between 0 and 1, and is not 0.0"),
        (1.0, [3, 3], "between 0 and 1, and is not 1.0"),
    ],
)
def test_what_cannot_be_parted(share, lengths, message):
    with pytest.raises(ValueError, match=message):
        some(lengths=lengths)[0].split(share)


def test_arrays_with_next_observations_are_exact():
    space, done = LEAVES["vector"], ACTIONS["discrete"]
    _, episodes = some(space, done, labels=False)
    cut = [episode._replace(terminated=False) for episode in episodes]
    ends = np.concatenate([np.arange(n) == n - 1 for n in LENGTHS])
    arrays = {
        "observations": np.concatenate([episode.observations[:-1] for episode in episodes]),
        "next_observations": np.concatenate([episode.observations[1:] for episode in episodes]),
        "actions": np.concatenate([episode.actions for episode in episodes]),
        "rewards": np.concatenate([episode.rewards for episode in episodes]),
    }
    made = Demonstrations.from_arrays(**arrays, truncated=ends, observation_space=space, action_space=done)
    assert_equal(made, cut, space)
    terminated = ends * np.repeat([True, False, True], LENGTHS)
    made = Demonstrations.from_arrays(
        **arrays, terminated=terminated, truncated=ends, observation_space=space, action_space=done
    )
    assert_equal(made, episodes, space)


def test_arrays_without_final_observations_leave_out_the_last_action():
    space, done = LEAVES["vector"], ACTIONS["discrete"]
    observations = np.arange(18, dtype=np.float32).reshape(6, 3)
    actions = np.array([2, 3, 4, 5, 6, 2])
    make = partial(Demonstrations.from_arrays, observation_space=space, action_space=done)
    with pytest.warns(UserWarning, match=r"^3 of 6 steps are not kept: .* next_observations"):
        made = make(observations, actions, truncated=[False, False, True, True, False, False])
    # Episodes are rows 0-2, 3 (one observation and nothing after it) and 4-5.
    np.testing.assert_array_equal(made[0].observations, observations[:3])
    np.testing.assert_array_equal(made[1].observations, observations[4:])
    assert [episode.actions.tolist() for episode in made] == [[2, 3], [6]]
    with pytest.raises(ValueError, match="there are 6 observations and 5 actions"):
        make(observations, actions[:5])


def test_steps_that_arrays_lose_are_counted():
    """Of 1,000 steps, 497 in episodes of one; with what they led to, all are kept. A few of many are no loss."""
    space, done = LEAVES["vector"], ACTIONS["discrete"]
    make = partial(Demonstrations.from_arrays, observation_space=space, action_space=done)
    observations, actions = np.zeros((1000, 3), np.float32), np.full(1000, 3)
    ends = np.arange(1000) < 496
    ends[-1] = True
    with pytest.warns(UserWarning, match=r"^497 of 1,000 steps are not kept: the last action of an episode leads"):
        made = make(observations, actions, terminated=ends)
    assert (made.steps, len(made)) == (503, 1)
    assert make(observations, actions, terminated=ends, next_observations=observations).steps == 1000
    with pytest.raises(ValueError, match=r"each of the 1,000 steps is an episode of its own, so that none is kept"):
        make(observations, actions, terminated=np.ones(1000, bool))
    assert make(observations, actions, truncated=np.arange(1000) % 20 == 19).steps == 950  # no warning


@pytest.mark.parametrize("name", ["rewards", "terminated", "truncated"])
def test_columns_of_numbers_are_refused_by_name_and_shape(name):
    space, done = LEAVES["vector"], ACTIONS["discrete"]
    make: Any = partial(Demonstrations.from_arrays, observation_space=space, action_space=done)
    observations, actions = np.zeros((6, 3), np.float32), np.full(6, 3)
    with pytest.raises(ValueError, match=rf"^{name} has the shape \(6, 1\): one value for each of 6 steps has \(6,\)"):
        make(observations, actions, **{name: np.zeros((6, 1))})
    with pytest.raises(ValueError, match=rf"there are 6 observations and 1 {name}"):
        make(observations, actions, **{name: 1})
    odd = "a number" if name == "rewards" else "True or False"
    for wrong, shown in (([0, 0, None, 0, 0, 1], "None at index 2"), (["False"] * 6, "'False' at index 0")):
        with pytest.raises(ValueError, match=f"^{name} must be {odd} at each step, and holds {shown}"):
            make(observations, actions, **{name: wrong})
    with pytest.raises(ValueError, match=f"^{name} has parts of different shapes"):
        make(observations, actions, **{name: [[1], [0, 1], 0, 0, 0, 0]})
    if name != "rewards":
        for flag in (2, np.nan):
            with pytest.raises(ValueError, match=f"must be True or False at each step, and holds {flag}.* at index 2"):
                make(observations, actions, **{name: [0, 0, flag, 0, 0, 1]})
        for kind in (int, float, bool):
            flags = np.array([0, 0, 1, 0, 0, 1], kind)
            assert make(observations, actions, next_observations=observations, **{name: flags}).lengths.tolist() == [
                3,
                3,
            ]


def test_arrays_that_say_where_they_are_wrong():
    space, action_space = LEAVES["vector"], ACTIONS["discrete"]
    observations, actions = np.zeros((6, 3), np.float32), np.full(6, 3)
    make: Any = partial(Demonstrations.from_arrays, observation_space=space, action_space=action_space)
    with pytest.raises(ValueError, match="there are 6 observations and 4 truncated"):
        make(observations, actions, truncated=np.zeros(4, bool))
    with pytest.raises(ValueError, match="the arrays are empty"):
        make(observations[:0], actions[:0])
    for wrong in ([3, 3, None, 3, 3, 3], [[3], [3, 3], 3, 3, 3, 3]):
        with pytest.raises((TypeError, ValueError), match=r"actions (.*: it holds None at index 2$|has parts)"):
            make(observations, wrong)
    objects = observations.astype(object)
    objects[4, 1] = None
    with pytest.raises(TypeError, match=r"dtype object does not fit Box.*: it holds None at index .4, 1.$"):
        make(objects, actions)
    with pytest.raises(TypeError, match=r"an observation of dtype object does not fit Box.*: it holds None$"):
        make(None, actions)
    observations[4, 1] = np.nan
    with pytest.raises(ValueError, match="the observation at index 4 contains NaN"):
        make(observations, actions)


def test_slices_are_demonstrations():
    found, episodes = some(LEAVES["vector"])
    part = found[1:]
    assert isinstance(part, Demonstrations)
    assert part.lengths.tolist() == found.lengths[1:].tolist()
    np.testing.assert_array_equal(part[0].actions, found[1].actions)
    assert len(found[::-1]) == len(episodes)


def test_a_replay_buffer_is_filled():
    found, episodes = some(LEAVES["vector"])
    buffer = ReplayBuffer(found.observation_space, found.action_space, 100)

    found.fill(buffer)

    assert len(buffer) == found.steps
    import torch

    batch = buffer.gather(torch.arange(found.steps))
    np.testing.assert_array_equal(batch.action.numpy(), np.concatenate([e.actions for e in episodes]) - 2)
    np.testing.assert_array_equal(batch.observation.numpy(), np.concatenate([e.observations[:-1] for e in episodes]))
    np.testing.assert_array_equal(
        batch.next_observation.numpy(), np.concatenate([e.observations[1:] for e in episodes])
    )
    assert batch.terminated.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match=r"Discrete\(5, start=2\).*Discrete\(5\)"):
        found.fill(ReplayBuffer(found.observation_space, spaces.Discrete(5), 100))


def test_recorded_episodes_of_the_buffer_can_be_added_too():
    space, done = LEAVES["vector"], spaces.Discrete(5)
    whole = an_episode(0, 4, space, done)
    masked = Episode(*whole[:4], action_masks=np.ones((5, 5), np.bool_))  # type: ignore[misc] # masks are no labels
    found = Demonstrations.from_episodes([Episode(*whole[:4]), masked], space, done)
    assert_equal(found, [whole, whole], space)


WRONG = [
    (
        {"actions": np.array([2, 7, 3])},
        ValueError,
        "episode 1: action 7, at index 1, is not in Discrete",
    ),
    ({"labels": np.array([2, 3, 0])}, ValueError, r"episode 1: action 0, at index 2"),
    ({"actions": np.array([2.0, 3.0, 3.0])}, TypeError, "episode 1: actions of dtype float64"),
    ({"actions": np.array([[2], [3], [3]])}, ValueError, r"episode 1: actions of shape \(3, 1\)"),
    ({"actions": np.array([2, 3])}, ValueError, "4 observations, 2 actions, 2 labels and 3 rewards"),
    ({"observations": np.zeros((3, 3), np.float32)}, ValueError, "T steps have T . 1 observations"),
    ({"observations": np.zeros((4, 2), np.float32)}, ValueError, r"episode 1: an observation of shape \(4, 2\)"),
    (
        {"observations": np.full((4, 3), np.nan, np.float32)},
        ValueError,
        "episode 1: the observation at index 0 contains NaN",
    ),
    ({"rewards": np.array([0.0, np.inf, 0.0])}, ValueError, "episode 1: the reward at step 1 is not finite"),
    ({"rewards": np.array([0.0, 0.0, 1e39])}, ValueError, "the reward at step 2 is not finite in float32"),
    ({"rewards": [0.0, None, 0.0]}, ValueError, "episode 1: rewards must be a number .* holds None at index 1"),
    ({"rewards": np.zeros((3, 1))}, ValueError, r"episode 1: rewards has the shape \(3, 1\): one value .* has \(3,\)"),
    ({"labelled": np.ones((3, 1), bool)}, ValueError, r"episode 1: labelled has the shape \(3, 1\)"),
    ({"interventions": np.ones(2, bool)}, ValueError, r"episode 1: interventions has the shape \(2,\)"),
    ({"labelled": np.array([0, 1, 2])}, ValueError, "labelled must be True or False at each step"),
    ({"terminated": "False"}, ValueError, "episode 1: terminated='False' in place of True or False"),
    ({"terminated": np.zeros(3, bool)}, ValueError, "episode 1: terminated=.* in place of True or False"),
    ({"observations": np.full((4, 3), 1e300)}, ValueError, "episode 1: an observation has numbers that float32 cannot"),
    ({"rewards": np.zeros(0)}, ValueError, "episode 1 has no steps"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_what_does_not_fit_is_named_and_leaves_no_trace(change, error, message):
    space, done = LEAVES["vector"], ACTIONS["discrete"]
    good = an_episode(0, 3, space, done)
    found = Demonstrations.from_episodes([good], space, done)
    with pytest.raises(error, match=message):
        found.append(good._replace(**change))
    assert_equal(found, [good], space)
    found.append(good)
    assert_equal(found, [good, good], space)


def test_spaces_that_cannot_be_recorded():
    with pytest.raises(TypeError, match="several parts"):
        Demonstrations(LEAVES["vector"], spaces.Dict({"a": spaces.Discrete(2)}))
    with pytest.raises(TypeError, match="no fixed shape"):
        Demonstrations(spaces.Text(5), spaces.Discrete(2))
    found, _ = some(LEAVES["vector"])
    with pytest.raises(ValueError, match=r"observation space is Box.*\(3,\).*environment's is Box.*\(2,\)"):
        found.check_spaces(spaces.Box(0, 255, (2,)), found.action_space)


def test_files_that_hold_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Demonstrations.load(tmp_path / "nowhere.safetensors")
    path = some()[0].save(tmp_path / "demos")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no demonstrations file, or it is damaged"):
        Demonstrations.load(path)
    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="does not say that agentlib wrote it"):
        Demonstrations.load(path)
    save_file({"x": np.zeros(2)}, path, {"agentlib": json.dumps({"file": "agentlib agent", "version": 1})})
    with pytest.raises(ValueError, match="is no demonstrations file but 'agentlib agent'"):
        Demonstrations.load(path)
    save_file({"x": np.zeros(2)}, path, {"agentlib": json.dumps({"file": "agentlib demonstrations", "version": 9})})
    with pytest.raises(ValueError, match="update agentlib"):
        Demonstrations.load(path)


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("length", lambda rows: rows + 1),
        ("terminated", lambda rows: rows[:1]),
        ("observation_0", lambda rows: rows[:-1]),
        ("reward", lambda rows: rows.astype(np.float32)),
        ("action", lambda rows: rows + 100),
        ("label", None),
    ],
)
def test_damaged_columns_are_found(tmp_path, column, change):
    description, columns = load_demonstrations(some()[0].save(tmp_path / "demos"))
    changed = {column: torch.from_numpy(np.ascontiguousarray(change(columns.pop(column).numpy())))} if change else {}
    if not change:
        del columns[column]
    path = write_tensors(tmp_path / "demos", columns | changed, description)
    with pytest.raises(ValueError, match="damaged"):
        Demonstrations.load(path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["observation_0", "reward", "action"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, column, wrong):
    found, (episode, *_) = some(LEAVES["vector"], ACTIONS["numbers"])
    description, columns = load_demonstrations(found.save(tmp_path / "demos"))
    columns[column].view(-1)[1] = wrong
    path = write_tensors(tmp_path / "demos", columns, description)
    with pytest.raises(ValueError, match=f"damaged: {column} holds (NaN|infinities)"):
        Demonstrations.load(path)
    name = {"observation_0": "observations", "reward": "rewards", "action": "actions"}[column]
    rows = np.array(getattr(episode, name), np.float64)
    rows.flat[1] = wrong
    with pytest.raises(ValueError, match=r"episode 3.*(finite|NaN|is not in Box)"):
        found.append(episode._replace(**{name: rows}))
    endless = Demonstrations(LEAVES["vector"], spaces.Box(-np.inf, np.inf, (2,)))
    if column == "action":
        with pytest.raises(ValueError, match="is not in Box"):
            endless.append(episode._replace(actions=rows))
