"""What is saved comes back, and nothing is ever half written."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from agentlib.core import Clock, Cosine, Linear, Schedule, at
from agentlib.core.config import config_from_json, config_to_json
from agentlib.core.trees import copied, difference
from agentlib.engine import run
from agentlib.learners import DQN, DQNConfig
from agentlib.runs import checkpoints
from agentlib.runs.checkpoints import VERSION, load_checkpoint, load_state, save_checkpoint, save_state
from agentlib.runs.segments import DamagedFile, segments_from_json


def round_trip(state, folder):
    save_state(folder / "state.safetensors", state)
    return load_state(folder / "state.safetensors")


def test_trees(tmp_path):
    generator = np.random.default_rng(3)
    generator.random(5)
    state = {
        "numbers": [1, -2.5, 2**127 + 1, True, False, None, "text \N{SNOWMAN}", ""],
        "tuple": (1, (2, [3]), ()),
        "ints": {0: {"step": torch.tensor(3.0)}, 7: "seven", -1: {}},
        "generator": generator.bit_generator.state,
        "old generator": np.random.RandomState(1).get_state(legacy=False),
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        "empty": {},
        "inf": [math.inf, -math.inf],
    }
    found = round_trip(state, tmp_path)
    assert difference(copied(state), found) is None
    assert list(found) == list(state)
    assert math.isnan(round_trip([math.nan], tmp_path)[0])
    again = np.random.default_rng(0)
    again.bit_generator.state = found["generator"]
    assert again.random() == generator.random()
    assert round_trip(np.float32(1.5), tmp_path) == 1.5
    assert round_trip(torch.Size([2, 3]), tmp_path) == (2, 3)


TENSORS = {
    "0-dim": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
    "bool": torch.tensor([True, False]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "int64": torch.tensor([2**62, -1]),
    "float64": torch.tensor([math.pi, math.inf], dtype=torch.float64),
    "bfloat16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "complex64": torch.tensor([1 + 2j, 3j]),
    "conjugate": torch.tensor([1 + 2j, 3j]).conj(),
    "imaginary": torch.tensor([1 + 2j, 3j]).conj().imag,
    "transposed": torch.arange(6.0).view(2, 3).T,
    "expanded": torch.ones(1).expand(4),
    "strided": torch.arange(10)[::3],
    "part": torch.arange(10)[3:6],
    "parameter": nn.Parameter(torch.ones(2)),
    "channels last": torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
}


def test_tensors(tmp_path):
    found = round_trip(TENSORS, tmp_path)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor.detach()), name
        assert not found[name].requires_grad
    array = np.arange(6).reshape(2, 3)
    odd = {"order": array.T, "0-dim": np.array(2.5), "big end": np.arange(3, dtype=">i4")}
    for name, back in round_trip(odd, tmp_path).items():
        np.testing.assert_array_equal(back, odd[name])
        assert back.shape == odd[name].shape


def test_shared_memory(tmp_path):
    whole = torch.arange(6.0)
    tied = nn.Linear(2, 2)
    state = {"whole": whole, "same": whole, "part": whole[2:4], "view": whole.view(2, 3), "b": [tied.bias, tied.bias]}
    found = round_trip(state, tmp_path)
    assert difference(copied(state), found) is None
    assert found["same"] is found["whole"]
    assert found["b"][0] is found["b"][1]
    # The file does not keep alive or follow what it was loaded from.
    found["whole"][0] = 100.0
    assert load_state(tmp_path / "state.safetensors")["whole"][0] == 0.0
    save_state(tmp_path / "state.safetensors", {"other": torch.ones(1000)})
    assert found["whole"][0] == 100.0


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [1, {"b": object()}]}, r"state\.a\.1\.b is a object"),
        ({"a": {1.5: 2}}, r"state\.a has the key 1\.5"),
        ({"a": torch.eye(2).to_sparse()}, r"state\.a is a tensor .*sparse"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "complex128"),
        ({"a": np.array(["x"])}, "array of <U1"),
        ({"a": {1, 2}}, "is a set"),
        (lambda: 0, "state is a function"),
    ],
)
def test_what_cannot_be_saved(state, message, tmp_path):
    save_state(tmp_path / "file", 1)
    with pytest.raises(TypeError, match=message):
        save_state(tmp_path / "file", state)
    assert load_state(tmp_path / "file") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_files(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"weights": torch.arange(100.0), "steps": 12})
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"state\.safetensors is cut off, or no safetensors file"):
            load_state(path)
    for foreign in (b"PK\x03\x04" + bytes(200), b"not at all " * 50, b"\xff" * 64):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="no safetensors file"):
            load_state(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="no state that agentlib saved"):
        load_state(path)
    save_file({"x": torch.ones(1)}, path, {"format": "agentlib state", "version": str(VERSION + 1), "tree": "{}"})
    with pytest.raises(ValueError, match=f"version {VERSION + 1}"):
        load_state(path)
    for tree in ("{", '{"tensor":"y"}', '{"pickle":"x"}', '{"dict":[1]}', "{}", '{"list":1}'):
        save_file({"x": torch.ones(1)}, path, {"format": "agentlib state", "version": "1", "tree": tree})
        with pytest.raises(ValueError, match="damaged"):
            load_state(path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_state(tmp_path / "nothing")
    with pytest.raises(DamagedFile, match=f"{tmp_path.name} is no regular file"):
        load_state(tmp_path)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "runs" / "1" / "state"
    save_state(path, {"step": 1})

    def fails(tensors, filename, metadata):
        Path(filename).write_bytes(b"half of")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", fails)
        with pytest.raises(OSError, match="disk full"):
            save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1}
    save_state(path, {"step": 3})
    assert load_state(path) == {"step": 3}
    assert [each.name for each in path.parent.iterdir()] == ["state"]


def test_checkpoint_of_a_run(tmp_path):
    learner, source = DQN.tiny(0)
    list(run(learner, source, 10, compile=False))
    save_checkpoint(tmp_path / "c", learner, source, {"best": 3.5, "history": [torch.ones(2)]})
    again, source_again = DQN.tiny(1)
    extra = load_checkpoint(tmp_path / "c", again, source_again)
    assert extra["best"] == 3.5
    assert torch.equal(extra["history"][0], torch.ones(2))
    assert difference(copied(dict(learner.state_dict())), copied(dict(again.state_dict()))) is None
    assert difference(copied(dict(source.state_dict())), copied(dict(source_again.state_dict()))) is None
    assert source_again.clock == source.clock
    assert len(source_again.buffer) == len(source.buffer)
    save_checkpoint(tmp_path / "c", learner, source)
    assert load_checkpoint(tmp_path / "c", again, source_again) == {}


def test_checkpoint_that_does_not_fit(tmp_path):
    learner, source = DQN.tiny(0)
    save_checkpoint(tmp_path / "c", learner, source)
    other, other_source = DQN.tiny(0)
    other.policy.head = nn.Linear(16, 3)
    with pytest.raises(ValueError, match=r"(?s)does not fit the learner DQN.*policy\.head"):
        load_checkpoint(tmp_path / "c", other, other_source)

    class Other(DQN):
        pass

    with pytest.raises(ValueError, match=r"a checkpoint of DQN, not of .*Other"):
        load_checkpoint(tmp_path / "c", *Other.tiny(0))
    save_state(tmp_path / "c", {"something": "else"})
    with pytest.raises(ValueError, match="no checkpoint"):
        load_checkpoint(tmp_path / "c", learner, source)


# Configs -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    rate: Schedule
    count: int = 1
    name: str = "x"
    flag: bool = False
    limit: float | None = 10.0
    sizes: tuple[int, ...] | None = None
    pair: tuple[float, float] = (0.9, 0.999)
    kind: Literal["a", "b", 3] = "a"
    plan: Linear | Cosine = Linear(1.0, 0.0)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    "config",
    [
        Config(rate=0.1),
        Config(rate=1),
        Config(rate=Linear(1.0, 0.1, over=0.5), plan=Cosine(0.9, 1.0), sizes=(64, 64), limit=None),
        Config(rate=Cosine(1e-3), sizes=(), pair=(1.0, 2.0), kind=3, inner=Inner(width=7), flag=True, name=""),
        DQNConfig(),
        DQNConfig(net_arch=(256, 256), learning_rate=Linear(1e-3, 0.0), max_grad_norm=None, loss="mse"),
    ],
)
def test_config_round_trip(config):
    text = json.dumps(config_to_json(config), allow_nan=False)
    back = config_from_json(type(config), json.loads(text))
    assert back == config
    assert json.dumps(config_to_json(back)) == json.dumps(config_to_json(config)).replace('"rate": 1,', '"rate": 1.0,')
    middle = Clock(5, 5, 0.5)
    rates = [at(getattr(c, "rate", None) or c.learning_rate, middle) for c in (config, back)]
    assert rates[0] == rates[1]


def test_config_fields_that_are_left_out_have_their_defaults():
    assert config_from_json(Config, {"rate": 2}) == Config(rate=2.0)
    assert config_from_json(DQNConfig, {}) == DQNConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 0.1}, "Config has no field 'rat'; close matches: rate"),
        ({"zzz": 0.1}, "Config has no field 'zzz'; known: rate, count"),
        ({}, "Config needs a value for rate"),
        ({"rate": "fast"}, r"Config\.rate is 'fast', but must be a number or a schedule \(Linear, Cosine"),
        ({"rate": 1, "count": 1.5}, r"Config\.count is 1\.5, but must be int"),
        ({"rate": 1, "count": True}, r"Config\.count is True, but must be int"),
        ({"rate": True}, r"Config\.rate is True"),
        ({"rate": 1, "flag": 1}, r"Config\.flag is 1, but must be bool"),
        ({"rate": 1, "name": None}, r"Config\.name is None, but must be str"),
        ({"rate": 1, "limit": "1"}, r"Config\.limit is '1', but must be a number or None"),
        ({"rate": 1, "sizes": 64}, r"Config\.sizes is 64, but must be tuple\[int, \.\.\.\] or None"),
        ({"rate": 1, "sizes": [64, "x"]}, r"Config\.sizes\[1\] is 'x', but must be int"),
        ({"rate": 1, "pair": [1]}, r"Config\.pair is \[1\]"),
        ({"rate": 1, "kind": "c"}, r"Config\.kind is 'c', but must be 'a' or 'b' or 3"),
        ({"rate": {"schedule": "Linar", "start": 1}}, r"Config\.rate: unknown schedule 'Linar'; close matches: Linear"),
        ({"rate": {"schedule": "Linear", "start": 1}}, r"Config\.rate: Linear needs a value for end"),
        ({"rate": {"schedule": "Cosine", "start": "a"}}, r"Config\.rate: Cosine\.start is 'a'"),
        ({"rate": {"start": 1}}, r"Config\.rate is \{'start': 1\}"),
        ({"rate": 1, "inner": {"widht": 1}}, "Inner has no field 'widht'; close matches: width"),
        ([1], "described by a dict"),
    ],
)
def test_config_errors(values: Any, message):
    with pytest.raises(ValueError, match=message):
        config_from_json(Config, values)


def test_configs_that_json_cannot_hold():
    with pytest.raises(TypeError, match=r"Config\.rate is a function, .* Linear, Cosine"):
        config_to_json(Config(rate=lambda clock: 0.1))
    with pytest.raises(TypeError, match=r"Config\.limit is inf"):
        config_to_json(Config(rate=1, limit=math.inf))
    with pytest.raises(TypeError, match="dataclass"):
        config_to_json({"rate": 1})


@pytest.mark.parametrize("name", ["../../secret.safetensors", "00000001.pickle", "x" * 3000, "00000001.safetensors\n"])
def test_segments_with_other_names_than_ours_are_refused(name):
    with pytest.raises(ValueError, match=r"^a segment is called .{1,200}$"):
        segments_from_json([[name, [], "0"]])
