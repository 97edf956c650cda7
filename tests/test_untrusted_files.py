"""Files made to do harm give one clear error: no code runs, nothing else is touched, no memory is hoarded."""

import gc
import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import time
import zipfile
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP, from_spec, load_backbone, save_backbone
from agentlib.backbones.files import checksum, rebuilt
from agentlib.catalog import recipe_of
from agentlib.experience import Demonstrations, record_episodes
from agentlib.learners import DQN
from agentlib.policies import POLICIES, QPolicy
from agentlib.runs.checkpoints import load_checkpoint, load_state, save_state
from agentlib.runs.folder import RunFolder
from agentlib.runs.options import RunOptions, read_record, record_of
from agentlib.sb3.zoo import read_zoo
from agentlib.sb3.zoo_file import read_zoo_section
from agentlib.shell.inspect import inspected
from agentlib.shell.main import main
from tests.tiny import tiny_run

PARTS = 80_000
"""Of the longest descriptions."""


@pytest.fixture(autouse=True)
def light_memory():
    """The collector looks through what is made in a test, and not through all that was made before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@cache
def patience():
    """Seconds of the processor that a refusal may take: four readings of the longest description here.

    A refusal reads and writes it once, which takes half of that; what is prevented took 30 to 300 of them.
    """
    text = json.dumps({str(i): {"type": "Discrete", "n": 2, "start": 0} for i in range(PARTS)})
    started = time.process_time()
    json.loads(text, object_pairs_hook=dict)
    return 4.0 * (time.process_time() - started)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the file ran code')",))


def parts_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["agentlib"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def raw(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def pickled(value):
    return pickle.dumps(value)


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def headers(kind="agentlib agent"):
    """Files that are no honest safetensors at all, as bytes."""
    metadata = {"__metadata__": {"agentlib": json.dumps({"file": kind, "version": 1})}}
    yield "empty", b""
    yield "one byte", b"\x00"
    yield "pickle", pickled(Bomb())
    yield "pickle in a list", pickled([1, 2, Bomb()])
    yield "zip with a pickle", zipped({"archive/data.pkl": pickled(Bomb()), "archive/version": "3"})
    yield "zip bomb", zipped({"data": bytes(50_000_000)})
    yield "path traversal", zipped({"../../../../tmp/agentlib_was_here": "x"})
    yield "numpy archive of objects", zipped({"x.npy": b"\x93NUMPY\x01\x00" + pickled(Bomb())})
    yield "header of a terabyte", raw(b"{}", length=1 << 40)
    yield "header of all there is", raw(b"{}", length=(1 << 64) - 1)
    yield "header longer than the file", raw(b"{}", length=100)
    yield "header is no JSON", raw(b"import os; os.abort()")
    yield "header is a list", raw(b"[]")
    yield "header is deep", raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    yield "header is not unicode", raw(b'{"\xff\xfe": 1}')
    yield "no metadata", raw(b"{}")
    yield (
        "tensor of a terabyte",
        raw(json.dumps({"x": entry(shape=(1 << 38,), offsets=(0, 1 << 40)), **metadata}).encode()),
    )
    yield "shape that overflows", raw(json.dumps({"x": entry(shape=(1 << 62, 1 << 62)), **metadata}).encode(), bytes(4))
    yield "shape beyond its bytes", raw(json.dumps({"x": entry(shape=(1 << 20,)), **metadata}).encode(), bytes(4))
    yield "negative shape", raw(json.dumps({"x": entry(shape=(-1,)), **metadata}).encode(), bytes(4))
    yield "negative offsets", raw(json.dumps({"x": entry(offsets=(-4, 0)), **metadata}).encode(), bytes(4))
    yield "offsets outside", raw(json.dumps({"x": entry(offsets=(100, 104)), **metadata}).encode(), bytes(4))
    overlapping = {"x": entry(), "y": entry(), **metadata}
    yield "tensors over each other", raw(json.dumps(overlapping).encode(), bytes(4))
    yield "unknown dtype", raw(json.dumps({"x": entry(dtype="OBJECT"), **metadata}).encode(), bytes(4))
    yield "hidden bytes at the end", raw(json.dumps(metadata).encode(), bytes(1000))
    yield "metadata is a list", raw(b'{"__metadata__": ["agentlib"]}')
    yield "metadata is long and no text", raw(json.dumps({"__metadata__": "x" * 3000}).encode())
    yield "metadata is deep", raw(json.dumps({"__metadata__": {"agentlib": '{"a":' * 20_000}}).encode())
    yield "metadata is no JSON", raw(json.dumps({"__metadata__": {"agentlib": "__import__('os').abort()"}}).encode())
    yield "metadata is a number", raw(json.dumps({"__metadata__": {"agentlib": "1"}}).encode())


def changed(good):
    """Well-formed agent files with something wrong in them, as (description, tensors)."""

    def with_(**changes):
        return {**good[0], **changes}

    def policy(name, **arguments):
        return {"name": name, "arguments": arguments}

    def mlp(**arguments):
        return policy("q", backbone=policy("mlp", **{"input_dim": 4, "hidden": [16], **arguments}), n_actions=2)

    tensors = good[1]
    first = next(iter(tensors))
    yield "another kind", with_(file="agentlib virus"), tensors
    yield "a newer version", with_(version=99), tensors
    yield "no number for a version", with_(version="1; rm -rf"), tensors
    yield "nothing about the policy", {k: v for k, v in good[0].items() if k != "policy"}, tensors
    yield "unknown network", with_(policy=policy("os.system", command="true")), tensors
    yield "network by its path", with_(policy=policy("agentlib.shell.main.main", argv=["list"])), tensors
    yield "attribute of a network", with_(policy=policy("__init__")), tensors
    yield "policy is text", with_(policy="QPolicy(MLP(4))"), tensors
    yield "arguments that do not exist", with_(policy=mlp(target="/etc/passwd")), tensors
    yield "a million millions of inputs", with_(policy=mlp(input_dim=10**12)), tensors
    yield "more than a number holds", with_(policy=mlp(input_dim=10**400)), tensors
    yield "a wide layer", with_(policy=mlp(hidden=[10**9, 10**9])), tensors
    yield "a million layers", with_(policy=mlp(hidden=[1] * 1_000_000)), tensors
    yield "negative widths", with_(policy=mlp(hidden=[-5])), tensors
    yield "widths that are text", with_(policy=mlp(hidden="16")), tensors
    yield (
        "one category too many",
        with_(policy=policy("q", backbone=policy("one_hot", sizes=[10**12]), n_actions=2)),
        tensors,
    )
    nested = policy("mlp", input_dim=4, hidden=[4])
    for _ in range(300):
        nested = policy("chain", stages=[nested])
    yield "a deep network", with_(policy=policy("q", backbone=nested, n_actions=2)), tensors
    yield (
        "a huge observation",
        with_(observation_space={"type": "Box", "shape": [10**6, 10**6], "dtype": "float32", "low": 0, "high": 1}),
        tensors,
    )
    yield (
        "an observation of objects",
        with_(observation_space={"type": "Box", "shape": [4], "dtype": "object", "low": 0, "high": 1}),
        tensors,
    )
    yield "an unknown space", with_(observation_space={"type": "Text", "n": 3}), tensors
    yield (
        "an observation of very long texts",
        with_(observation_space={"type": "Box", "shape": [1], "dtype": "S1000000000", "low": 0, "high": 1}),
        tensors,
    )
    box = {"type": "Box", "shape": [1 << 22], "dtype": "float64", "low": 0, "high": 1}
    yield "a type of numbers that is evaluated", with_(observation_space={**box, "dtype": "0000000001V"}), tensors
    returns = QPolicy(MLP(4, hidden=(16,)), n_actions=2, distributional="c51")
    beyond = policy("q", **{**returns.spec["arguments"], "v_max": 1e300})
    yield "returns beyond all numbers", with_(policy=beyond), returns.state_dict()
    yield "many large observations", with_(observation_space={"type": "Tuple", "spaces": [box] * 20}), tensors
    yield "an observation of less than nothing", with_(observation_space={**box, "shape": [-1, 0]}), tensors
    yield "an observation of so many lists", with_(observation_space={**box, "shape": [10**9, [0] * 1000]}), tensors
    yield "a space with a kind that is long", with_(observation_space={"type": ["x" * 3000]}), tensors
    yield "a network with a name that is no text", with_(policy=policy([1])), tensors
    yield "exploration beyond all numbers", with_(exploration_rate=10**400), tensors
    yield "weights with a name of many lines", good[0], {**tensors, "\n" * 500: torch.zeros(1)}
    yield "a space of no actions", with_(action_space={"type": "Discrete", "n": -3, "start": 0}), tensors
    yield "exploration that is text", with_(exploration_rate="lots"), tensors
    yield "weights with NaN", good[0], {**tensors, first: torch.full_like(tensors[first], float("nan"))}
    yield "weights that are infinite", good[0], {**tensors, first: torch.full_like(tensors[first], float("inf"))}
    bits = {"type": "MultiBinary", "n": [2, 10**8]}
    yield "switches without number", with_(action_space=bits), tensors
    yield "observations of switches without number", with_(observation_space=bits), tensors
    yield "switches of a length that is no number", with_(action_space={"type": "MultiBinary", "n": 2.5}), tensors
    many = {"type": "Dict", "spaces": {str(i): {"type": "Discrete", "n": 2, "start": 0} for i in range(PARTS)}}
    yield "an observation of very many parts", with_(observation_space=many), tensors
    nested = {"type": "Tuple", "spaces": []}
    yield (
        "an observation of very many empty parts",
        with_(observation_space={**nested, "spaces": [nested] * PARTS}),
        tensors,
    )
    yield "another observation space", with_(observation_space={**box, "shape": [5], "low": 0.0, "high": 1.0}), tensors
    yield "more actions than values", with_(action_space={"type": "Discrete", "n": 3, "start": 0}), tensors
    yield (
        "real actions of a policy of values",
        with_(action_space={**box, "shape": [1], "low": 0.0, "high": 1.0}),
        tensors,
    )
    yield (
        "several choices of a policy of one",
        with_(action_space={"type": "MultiDiscrete", "nvec": [2, 2], "start": [0, 0]}),
        tensors,
    )
    yield "exploration of more than everything", with_(exploration_rate=1.5), tensors
    yield "exploration that is no number", with_(exploration_rate=float("nan")), tensors
    yield "weights of another shape", good[0], {**tensors, first: torch.zeros(3, 3)}
    yield "weights that are integers", good[0], {**tensors, first: tensors[first].long()}
    yield "weights that are missing", good[0], {name: t for name, t in tensors.items() if name != first}
    yield "weights too many", good[0], {**tensors, "../../escape": torch.zeros(2)}


def written(path, description, tensors, text=None):
    """The file, with a right checksum."""
    description = {key: value for key, value in (description or {}).items() if key != "checksum"}
    whole = {**description, "checksum": checksum(json.dumps(description), tensors)}
    save_file(tensors, path, metadata={"agentlib": text or json.dumps(whole)})
    return path


@pytest.fixture(scope="module", autouse=True)
def honest(tmp_path_factory):
    """An honest file, which is loaded: what is imported late is imported before any time is measured."""
    path = tiny_run(env="CartPole-v1").save(tmp_path_factory.mktemp("honest") / "good")
    Agent.load(path)
    torch.linspace(0.0, 1.0, 2, device="meta")
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, honest):
    folder = tmp_path_factory.mktemp("zoo")
    good = parts_of(honest)
    files: dict[str, Any] = {}
    for name, content in headers():
        files[name] = folder / f"{len(files)}.safetensors"
        files[name].write_bytes(content)
    for name, description, tensors in changed(good):
        files[name] = written(folder / f"{len(files)}.safetensors", description, tensors)
    twice = json.dumps(good[0])[:-1] + ', "exploration_rate": 0.5}'
    files["a key twice"] = written(folder / f"{len(files)}.safetensors", None, good[1], twice)
    cut = honest.read_bytes()
    for share in (0.1, 0.5, 0.99):
        files[f"cut to {share:.0%}"] = folder / f"{len(files)}.safetensors"
        files[f"cut to {share:.0%}"].write_bytes(cut[: int(share * len(cut))])
    return files


def test_the_zoo_is_large(zoo):
    assert len(zoo) >= 50


def test_agents_are_refused_with_one_clear_error(zoo):
    for name, path in zoo.items():
        started = time.process_time()
        with pytest.raises(ValueError, match=r"\w{3}") as caught:
            Agent.load(path)
        assert str(path) in str(caught.value), f"{name}: the error does not say which file: {caught.value}"
        assert len(str(caught.value)) < 1000, name
        assert "\n" not in str(caught.value), name
        assert time.process_time() - started < patience(), f"{name} took too long"


def test_backbones_and_states_are_refused_too(zoo):
    for name, path in zoo.items():
        for load in (load_backbone, load_state):
            started = time.process_time()
            with pytest.raises(ValueError, match=r"\w{3}"):
                load(path)
            assert time.process_time() - started < patience(), name


def refused(path, load):
    """The message of the one clear error."""
    started = time.process_time()
    with pytest.raises(ValueError, match=r"\w{3}") as caught:
        load()
    message = str(caught.value)
    assert str(path) in message, message
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 1000
    assert time.process_time() - started < patience()
    return message


def test_deep_metadata_are_refused_by_inspect(tmp_path):
    path = tmp_path / "deep.safetensors"
    spec = '{"name":"q","arguments":' * 900 + "{}" + "}" * 900
    save_file({}, path, metadata={"agentlib": f'{{"file":"agentlib agent","version":1,"policy":{spec}}}'})
    refused(path, lambda: inspected(path))


def named(name, **arguments):
    return {"name": name, "arguments": arguments}


DENOISER = named("mlp_denoiser", shape=[2, 3], hidden=[8])
DECODER = named("mlp_decoder", input_dim=20_002, shape=[1], hidden=[1])
HOARDS = {
    "a schedule of a billion steps": named("diffusion", denoiser=DENOISER, shape=[2, 3], noise_steps=10**9),
    "a table of all pairs of classes": named("generator", decoder=DECODER, latent_dim=2, n_classes=20_000),
    "a memory of ten million steps": named("transformer_decoder", input_dim=4, dim=8, layers=1, heads=1, window=10**7),
    "a table of all windows": named(
        "swin", shape=[1, 4096, 4096], patch=1, dim=8, depths=[2], heads=[1], window=2, mlp_ratio=1
    ),
}


@pytest.mark.parametrize("name", HOARDS)
def test_networks_that_need_more_memory_than_their_weights_are_refused(name, tmp_path):
    with torch.device("meta"):
        weights = from_spec(HOARDS[name]).state_dict()
    tensors = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in weights.items()}
    path = written(tmp_path / "x", {"file": "agentlib backbone", "version": 1, "backbone": HOARDS[name]}, tensors)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more memory" in refused(path, lambda: load_backbone(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


ENDLESS = {
    "returns": named(
        "return_conditioned", encoder=named("mlp", input_dim=4, hidden=[8]), actions=2, dim=8, layers=1, context=10**6
    ),
    "patches": named("vit", shape=[1, 10**12, 10**12], patch=3, dim=8, layers=1, heads=2),
    "windows": named("swin", shape=[1, 10**12, 10**12], patch=2, dim=8, depths=[1], heads=[1]),
    "kernels": named("cnn", shape=[1, 4, 4], layers=[[4, 99, 99]] * 300),
    "choices": named("multi_categorical", backbone=named("mlp", input_dim=4, hidden=[4]), nvec=[10**9]),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_networks_that_take_long_to_refuse_are_refused_at_once(name, tmp_path):
    path = written(tmp_path / "x", {"file": "agentlib backbone", "version": 1, "backbone": ENDLESS[name]}, {})
    refused(path, lambda: rebuilt(path, ENDLESS[name], {}, POLICIES))


BOMB = "another:\n  a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"  {b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
SECTION = "CartPole-v1:\n  "


@pytest.mark.parametrize(
    "text",
    [
        f"{BOMB}{SECTION}net_arch: *i\n",
        f"{BOMB}{SECTION}callback: *i\n",
        f"{SECTION}net_arch: &a [*a]\n",
        f"{SECTION}gamma: {'[' * 3000}\n",
        f"{SECTION}gamma: !!int ''\n",
        f"{SECTION}gamma: !!bool x\n",
        f"{SECTION}gamma: !!int 0b\n",
        f"{SECTION}gamma: !!timestamp x\n",
        f"{SECTION}gamma: 2001-99-99\n",
        f"{SECTION}gamma: !!python/object/apply:os.system [true]\n",
        f"{SECTION}policy_kwargs: '{'[' * 5000}'\n",
        f"{SECTION}batch_size: .inf\n",
        f"{SECTION}batch_size: 0x{'f' * 5000}x\n",
        "x" * 200_000,
        "- a",
    ],
)
def test_settings_of_the_zoo_are_refused(text, tmp_path):
    path = tmp_path / "dqn.yml"
    path.write_text(text)
    refused(path, lambda: read_zoo(path, "CartPole-v1", recipe_of("dqn")))
    if "batch_size: 0x" not in text:  # a text, which another algorithm might take
        refused(path, lambda: read_zoo_section(path, "CartPole-v1"))


@pytest.mark.parametrize(
    "line",
    [
        "policy: {a: b}",
        "double: [1]",
        "double: {a: 1}",
        "gamma: .nan",
        "gamma: 2001-01-01",
        "1: 2",
        "policy_kwargs: {1: 2, a: 3}",
        "normalize: {norm_reward: false, 1: 2}",
        f"gamma: {'9' * 400}",
        f"learning_rate: {'x' * 3000}",
        f"callback: {'x' * 3000}",
    ],
)
def test_settings_that_do_not_fit_the_learner_are_refused(line, tmp_path):
    path = tmp_path / "dqn.yml"
    path.write_text(f"CartPole-v1:\n  {line}\n")
    refused(path, lambda: read_zoo(path, "CartPole-v1", recipe_of("dqn")))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [record],
        lambda record: "text",
        lambda record: {key: value for key, value in record.items() if key != "seed"},
        lambda record: {**record, "seed": "0"},
        lambda record: {**record, "what": "x" * 3000},
        lambda record: {**record, "backbone": 3},
        lambda record: {**record, "env_kwargs": [1]},
        lambda record: {**record, "objects": "env"},
        lambda record: {**record, "objects": ["nothing"]},
        lambda record: {**record, "precision": "float8"},
        lambda record: {**record, "config": []},
        lambda record: {**record, "config": {"gamma": 10**400}},
        lambda record: {**record, "config": {"gamma": "x" * 3000}},
        lambda record: {**record, "config": {"x" * 3000: 1}},
        lambda record: {**record, "config": {"learning_rate": {"schedule": []}}},
        lambda record: {**record, "config": {"batch_size": 10**400}},
        lambda record: {**record, "config": {"gamma": float("nan")}},
        lambda record: {**record, "n_envs": 10**6},
        lambda record: {**record, "n_envs": 10**400},
        lambda record: {**record, "steps": 10**400},
        lambda record: {**record, "steps": -5},
        lambda record: {**record, "n_eval_episodes": 10**400},
        lambda record: {**record, "threads": 10**6},
        lambda record: {**record, "device": "evil"},
        lambda record: {**record, "env": "\x1b[2Jhidden", "precision": "\x1b[2J"},
    ],
)
def test_the_record_of_a_run_is_refused(change, tmp_path):
    recipe, folder = recipe_of("dqn"), RunFolder(tmp_path)
    record = record_of(recipe, RunOptions(env="CartPole-v1", steps=10, config=recipe.config()))
    folder.config_file.write_text(json.dumps(record))
    assert read_record(folder)[2].config == recipe.config()
    folder.config_file.write_text(json.dumps(change(record)))
    refused(folder.config_file, lambda: read_record(folder))
    refused(folder.config_file, lambda: agentlib.train(resume=tmp_path))


def test_a_record_that_is_no_json_is_refused(tmp_path):
    twice = b'{"what": "dqn", "what": "dqn", "config": {}}'
    for content in (b"{", b"\xff", b"[" * 5000, b"9" * 5000, twice):
        (tmp_path / "config.json").write_bytes(content)
        refused(tmp_path, lambda: read_record(RunFolder(tmp_path)))


@pytest.mark.parametrize("device", ["meta", "xla"])
def test_a_device_that_computes_nothing_here_is_refused(device):
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"):
        tiny_run(device=device)


def saved_files(folder):
    """An agent, a backbone and demonstrations, with their readers."""
    agent = tiny_run(env="CartPole-v1", steps=30)
    demonstrations = record_episodes(agent, "CartPole-v1", episodes=2)
    yield agent.save(folder / "agent"), Agent.load
    yield save_backbone(agent.backbone, folder / "backbone"), load_backbone
    yield demonstrations.save(folder / "demonstrations"), Demonstrations.load


def test_every_flipped_bit_is_found(tmp_path):
    generator = np.random.default_rng(0)
    for path, load in saved_files(tmp_path):
        content = path.read_bytes()
        load(path)
        places = [*range(40), *generator.integers(len(content), size=200).tolist()]
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1 << int(generator.integers(8))
            path.write_bytes(changed)
            refused(path, lambda load=load, path=path: load(path))


def test_a_file_without_a_checksum_is_refused(tmp_path):
    for path, load in saved_files(tmp_path):
        description, tensors = parts_of(path)
        del description["checksum"]
        save_file(tensors, path, {"agentlib": json.dumps(description)})
        assert "checksum" in refused(path, lambda load=load, path=path: load(path))


def test_what_is_written_twice_is_the_same_twice(tmp_path):
    agent = tiny_run(steps=30)
    written = {agent.save(tmp_path / f"{number}").read_bytes() for number in range(20)}
    assert len(written) == 1


ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e"
"""Clears a terminal, names its window, and turns the text round."""


def test_a_terminal_is_not_told_what_to_do(honest, tmp_path, capsys):
    description, tensors = parts_of(honest)
    description["about"] = {"learner": ESCAPE, ESCAPE: 1}
    path = written(tmp_path / "shown.safetensors", description, {**tensors, ESCAPE: torch.zeros(1)})
    texts = [inspected(path), refused(path, lambda: Agent.load(path))]
    spec = {"name": "q", "arguments": {ESCAPE: 1}}
    written(path, {**description, "policy": spec}, tensors)
    texts.append(refused(path, lambda: Agent.load(path)))
    (tmp_path / "dqn.yml").write_text('"\\x1b[2J": {gamma: 0.9}\n')
    texts.append(refused(tmp_path, lambda: read_zoo(tmp_path / "dqn.yml", "CartPole-v1", recipe_of("dqn"))))
    table = tmp_path / "table.csv"
    table.write_text(f"a,b{ESCAPE}\n1,2\n1,x\n")
    assert main(["train", "classifier", "--data", f"{table}#c", "--out", str(tmp_path / "run")]) == 1
    texts.append(capsys.readouterr().err)
    for text in texts:
        assert text.replace("\n", "").isprintable(), text
        assert "\\x1b[2J" in text


def checkpoint_with(path, tree, version="1"):
    text = tree if isinstance(tree, str) else json.dumps(tree)
    metadata = {"format": "agentlib state", "version": version, "tree": text, "segments": "[]"}
    tensors = {"x": torch.zeros(2)}
    save_file(tensors, path, {**metadata, "checksum": checksum(version + " " + text + "[]", tensors)})


@pytest.mark.parametrize(
    "tree",
    [
        {"ring": {"counts": [float("inf")], "column": "x"}},
        {"ring": {"counts": [1], "column": ["x"]}},
        {"ring": []},
        {"tensor": {}},
        {"float": []},
        {"dict": [[[], 1]]},
        {"dict": 3},
        {"unknown": 1},
        {},
        '{"list":[' * 600 + "]}" * 600,
    ],
)
def test_trees_of_states_are_refused(tree, tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoint_with(path, tree)
    refused(path, lambda: load_state(path))


@pytest.mark.parametrize(
    "value", [10**400, -1, "x", None, [], {"list": []}, {"dict": []}, {"tensor": "x"}, {"float": "nan"}]
)
def test_checkpoints_that_do_not_fit_are_refused(value, tmp_path):
    learner, source = DQN.tiny()
    path = tmp_path / "state.safetensors"
    parts: list[list[Any]] = [
        ["learner_class", "DQN"],
        ["learner", {"dict": []}],
        ["source", {"dict": []}],
        ["extra", {"dict": []}],
    ]
    nested = json.loads('{"list":[' * 400 + "]}" * 400)  # refused for its name, in few words
    for part, other in ((0, value), (0, nested), (0, "x" * 10**5), (1, value), (2, value)):
        changed = [list(pair) for pair in parts]
        changed[part][1] = other
        checkpoint_with(path, {"dict": changed})
        refused(path, lambda: load_checkpoint(path, learner, source))


WATCHED = """
import resource, sys
import torch, numpy, gymnasium, safetensors, agentlib
from agentlib import Agent
Agent.load(sys.argv.pop()).act(numpy.zeros(4))  # what is imported late, is imported now
torch.linspace(0.0, 1.0, 2, device="meta")  # this, too, imports what is written as text
allowed, seen = set(sys.argv[1:]), []
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if str(path) not in allowed and not str(path).endswith((".py", ".pyc")):
            seen.append((event, str(path), mode))
    elif event in ("exec", "compile"):
        # Libraries import parts of themselves late; code from anywhere else is what we look for.
        file = getattr(arguments[0], "co_filename", None) or str(arguments[-1])
        if not file.startswith((sys.prefix, sys.base_prefix)):
            seen.append((event, file))
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork",
                   "pickle.find_class", "socket.connect", "os.remove", "os.rename", "os.mkdir", "ctypes.dlopen"):
        seen.append((event, str(arguments)[:100]))
resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + (6 << 30),) * 2)
sys.addaudithook(hook)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        Agent.load(path)
    except ValueError:
        continue
    seen.append(("loaded", path))
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(seen)
print(grown)
"""


@pytest.mark.slow
def test_nothing_else_is_opened_started_or_hoarded(zoo, honest, tmp_path):
    paths = [*map(str, zoo.values()), str(honest)]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *paths], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen, grown = done.stdout.strip().splitlines()[-2:]
    assert seen == "[]"
    assert float(grown) < 200  # MiB
    assert not list(tmp_path.iterdir())


def test_honest_files_still_load(tmp_path):
    agent = tiny_run(env="CartPole-v1")
    again = Agent.load(agent.save(tmp_path / "agent"))
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], value)
    backbone = load_backbone(save_backbone(agent.backbone, tmp_path / "backbone"))
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), agent.backbone.parameters(), strict=True))
    save_state(tmp_path / "state", {"a": np.arange(3), "nan": torch.tensor(float("nan"))})
    assert load_state(tmp_path / "state")["nan"].isnan()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
