"""Minari datasets: ours are read by Minari, Minari's by us, and neither way loses anything."""

import json
import shutil
import tracemalloc
import warnings

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces

from agentlib.envs.experts import expert_for
from agentlib.experience import Demonstrations, record_episodes
from tests.experience.test_demonstrations import ACTIONS, OBSERVATIONS, assert_equal, some


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_there_and_back(observation, action):
    found, episodes = some(OBSERVATIONS[observation], ACTIONS[action])

    found.to_minari("test/there-v0", author="a", description="b")
    again = Demonstrations.from_minari("test/there-v0")

    assert_equal(again, episodes, OBSERVATIONS[observation])
    again.check_spaces(found.observation_space, found.action_space)


def test_pictures_stay_as_they_are():
    """Minari writes images as JPEG unless it is told not to."""
    frames = record_episodes(expert_for("agentlib/Catch-v0"), "agentlib/Catch-v0", 1)
    noise = np.random.default_rng(0).integers(0, 256, frames.observation_columns[0].shape, np.uint8)
    frames.observation_columns[0][:] = noise

    frames.to_minari("test/pictures-v0")

    np.testing.assert_array_equal(Demonstrations.from_minari("test/pictures-v0").observation_columns[0], noise)


def test_minari_reads_what_we_wrote_as_it_writes_itself():
    found = record_episodes(expert_for("CartPole-v1"), "CartPole-v1", 2, noise=0.3)
    dataset = found.to_minari("cartpole/expert-v0", author="a", algorithm_name="scripted")

    assert (dataset.total_episodes, dataset.total_steps) == (2, found.steps)
    assert dataset.recover_environment().spec.id == "CartPole-v1"
    for episode, mine in zip(dataset.iterate_episodes(), found, strict=True):
        assert len(episode.observations) == len(episode.actions) + 1 == len(episode.infos["intervention"])
        assert episode.terminations[-1] != episode.truncations[-1]
        assert not episode.terminations[:-1].any()
        np.testing.assert_array_equal(episode.infos["expert_action"][1:], mine.labels)
        np.testing.assert_array_equal(episode.rewards, mine.rewards)
    assert minari.load_dataset("cartpole/expert-v0").storage.metadata["author"] == {"a"}


@pytest.mark.parametrize("kind", [lambda dataset: dataset.id, lambda dataset: dataset])
def test_what_minari_collected_is_read(kind):
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float64), "b": spaces.Discrete(3)})
    generator = np.random.default_rng(0)
    buffers = [
        minari.data_collector.EpisodeBuffer(
            id=number,
            observations={"a": generator.uniform(-1, 1, (n + 1, 2)), "b": generator.integers(3, size=n + 1)},
            actions=generator.integers(4, size=n),
            rewards=list(generator.random(n)),
            terminations=[False] * (n - 1) + [number == 0],
            truncations=[False] * (n - 1) + [number == 1],
            infos={"speed": generator.random(n + 1), "deep": {"x": generator.random(n + 1)}},
        )
        for number, n in enumerate([4, 6])
    ]
    with warnings.catch_warnings(action="ignore"):  # that it would like to know more
        dataset = minari.create_dataset_from_buffers(
            "theirs-v0", buffers, observation_space=space, action_space=spaces.Discrete(4)
        )
    found = Demonstrations.from_minari(kind(dataset))
    assert found.env_id is None
    assert found.labels == found.steps == 10
    assert [episode.terminated for episode in found] == [True, False]
    for mine, theirs in zip(found, buffers, strict=True):
        np.testing.assert_array_equal(mine.observations["a"], theirs.observations["a"])
        np.testing.assert_array_equal(mine.actions, theirs.actions)
        np.testing.assert_array_equal(mine.rewards, theirs.rewards)
    part = Demonstrations.from_minari(dataset.filter_episodes(lambda episode: len(episode.rewards) == 6))
    assert part.lengths.tolist() == [6]


def a_dataset(folder, name="cartpole/expert-v0", episodes=2):
    record_episodes(expert_for("CartPole-v1"), "CartPole-v1", episodes).to_minari(name)
    return folder / name / "data"


def test_an_unknown_id_names_what_there_is(folder):
    with pytest.raises(FileNotFoundError, match="which has none"):
        Demonstrations.from_minari("cartpole/expert-v0")
    a_dataset(folder)
    with pytest.raises(FileNotFoundError, match="close matches: cartpole/expert-v0"):
        Demonstrations.from_minari("cartpole/expart-v0")


def test_an_id_must_be_new_and_well_formed(folder):
    a_dataset(folder)
    with pytest.raises(ValueError, match="already exists"):
        a_dataset(folder)
    with pytest.raises(ValueError, match="Malformed dataset ID"):
        a_dataset(folder, "not an id!")
    assert sorted(path.name for path in folder.iterdir()) == ["cartpole"]


def test_an_empty_dataset(folder):
    a_dataset(folder)
    nothing = minari.load_dataset("cartpole/expert-v0").filter_episodes(lambda episode: False)
    with pytest.raises(ValueError, match="'cartpole/expert-v0' is empty"):
        Demonstrations.from_minari(nothing)
    with pytest.raises(ValueError, match="no episodes to write"):
        Demonstrations(spaces.Discrete(2), spaces.Discrete(2)).to_minari("x-v0")


def test_a_truncated_dataset(folder):
    file = a_dataset(folder) / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="'cartpole/expert-v0' is damaged in episode 0"):
        Demonstrations.from_minari("cartpole/expert-v0")


def test_a_dataset_with_fewer_episodes_than_it_says(folder):
    metadata = a_dataset(folder) / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "total_episodes": 5}))
    with pytest.raises(ValueError, match="damaged in episode 2"):
        Demonstrations.from_minari("cartpole/expert-v0")


@pytest.mark.parametrize("content", ["{}", "not json", '{"data_format": "hdf5"}'])
def test_a_foreign_folder(folder, content):
    (a_dataset(folder) / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match="no Minari dataset that can be read"):
        Demonstrations.from_minari("cartpole/expert-v0")
    shutil.rmtree(folder / "cartpole")
    (folder / "photos" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="no Minari dataset that can be read"):
        Demonstrations.from_minari("photos")


def test_actions_outside_the_space_are_named(folder):
    import h5py

    data = a_dataset(folder)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_1"]["actions"][7] = 9
    with pytest.raises(ValueError, match=r"cartpole/expert-v0'.*episode 1: action 9, at index 7, is not in Discrete"):
        Demonstrations.from_minari("cartpole/expert-v0")


def changed_metadata(folder, change):
    """A dataset whose metadata are others."""
    found, _ = some(OBSERVATIONS["vector"], ACTIONS["discrete"])
    found.to_minari("test/changed-v0")
    path = folder / "test" / "changed-v0" / "data" / "metadata.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return found


def test_claims_of_size_take_no_memory(folder):
    found = changed_metadata(folder, lambda about: {**about, "total_steps": 10**9})
    tracemalloc.start()
    try:
        assert Demonstrations.from_minari("test/changed-v0").steps == found.steps
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
    shutil.rmtree(folder / "test")
    for claim in (10**9, "many", None):
        changed_metadata(folder, lambda about, claim=claim: {**about, "total_episodes": claim})
        with pytest.raises(ValueError, match=r"episodes cannot be in \d+,\d+ bytes"):
            Demonstrations.from_minari("test/changed-v0")
        shutil.rmtree(folder / "test")


def test_no_environment_is_made_because_a_dataset_names_it(folder, monkeypatch):
    """Minari makes it where the metadata have no spaces, and its entry point may be any code."""
    (folder / "evilminari.py").write_text("raise SystemExit('the file ran code')")
    monkeypatch.syspath_prepend(folder)
    spec = json.loads(gymnasium.spec("CartPole-v1").to_json()) | {"entry_point": "evilminari:Env"}

    def change(about):
        return {key: value for key, value in about.items() if key != "action_space"} | {"env_spec": json.dumps(spec)}

    changed_metadata(folder, change)
    with pytest.raises(ValueError, match=r"would make the environment.*minari.load_dataset\('test/changed-v0'\)"):
        Demonstrations.from_minari("test/changed-v0")
