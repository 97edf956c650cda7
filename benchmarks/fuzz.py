"""Feeds files made to do harm to each reader, guided by coverage: a part of `make test-long`.

    python benchmarks/fuzz.py [--target agent] [--inputs 1000000] [--seed 0] [--keep FOLDER]

A reader gives what is in the file, or one ValueError: its message is one line of less than a thousand characters that
names the file. Anything else is a finding: another exception, more than a second, memory far beyond the file's size,
any other file opened. Findings are printed, and kept as files with --keep; the exit code is then 1.

The inputs start from valid files (every network and kind of policy, demonstrations, models of Stable-Baselines3,
checkpoints, all configs, files of the zoo) and are changed by structure: values in the JSON of the metadata, rows of
the table of tensors, nodes of the YAML, texts of spaces; lengths, offsets and checksums are made right again, and the
weights are made to fit the changed network, so that changes get past the first check. Some are changed as raw bytes.
The inputs that reached something new are replayed at the end to print which lines and branches of each reader they
reach.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SECONDS = 1.0
MEMORY = 512 << 20
"""Bytes by which one input may raise the most that the process has ever had; the largest observations take so much."""
LONGEST = 1000
"""Characters of a message, without the path."""
READERS = {
    "agent": {
        "agent": "load",
        "backbones/files": "load_backbone|header|read|rebuilt|_built|_form|_bytes|__init__|__torch_function__"
        "|_without_repetition",
        "backbones/specs": "from_spec|build",
        "core/spaces": "space_from_json|_space|_dtype|_bound_from_json",
        "shell/inspect": "inspected|_described|_as_text|_network|_brief",
    },
    "demonstrations": {
        "experience/demonstrations": "load|load_state",
        "experience/demonstration_files": "load_demonstrations",
    },
    "sb3": {
        "sb3/files": "\\w+",
        "sb3/conversion": "(?!look_at)\\w+",
    },
    "checkpoint": {
        "runs/checkpoints": "load_checkpoint|_name_of|load_state|_covered|_check_version|segments_named|decode"
        "|_stored_ring",
        "runs/segments": "copy_to|checksum|segments_from_json",
    },
    "config": {
        "runs/folder": "record|config_file",
        "runs/options": "read_record",
        "runs/train": "_resumed",
        "core/config": "(?!config_to_json|_to_json)\\w+",
    },
    "zoo": {
        "sb3/zoo": "\\w+",
        "sb3/zoo_file": "(?!schedule_to_text)\\w+",
    },
}
"""Modules, and the functions in them that read: those whose coverage is shown."""
UNREACHABLE = """\
What no input can reach: another path than a file's; PyYAML not installed; a file longer than the fuzzer writes; a
config that is no mapping, or has a field of any type or a config inside (none of ours); DQN without normalization;
tensors that are not contiguous (those of a file are)."""
INSTRUMENTED = {
    "agent": [
        "agentlib.agent",
        "agentlib.backbones",
        "agentlib.policies",
        "agentlib.core.spaces",
        "agentlib.shell.inspect",
    ],
    "demonstrations": ["agentlib.experience", "agentlib.backbones.files", "agentlib.core.spaces"],
    "sb3": ["agentlib.sb3", "agentlib.core.spaces"],
    "checkpoint": ["agentlib.runs", "agentlib.experience", "agentlib.data"],
    "config": ["agentlib.runs", "agentlib.families", "agentlib.core.config", "agentlib.learners"],
    "zoo": ["agentlib.sb3.zoo", "agentlib.sb3.zoo_file", "agentlib.core.config"],
}
"""What guides the fuzzer: more than is shown."""
SHARE = {"agent": 0.05, "demonstrations": 0.05, "sb3": 0.05, "checkpoint": 0.1, "config": 0.5, "zoo": 0.25}
"""Of the inputs: an agent takes milliseconds, settings a tenth of one."""
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
SIZES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 255, 2**31, 2**63, -(2**63), 10**6, 10**9, 10**12, 10**400, 0.5, -0.0, 1e9,
    1e308, float("inf"), float("-inf"), float("nan"), "", "0", "nan", "inf", "1e400", "x" * 3000, "\ud800", "\0", "..",
    ".", "/etc/passwd", "../x", [], {}, [[]], [None], [10**9] * 3, [[["x"]]], {"": {}},
    {"name": "mlp", "arguments": {}}, "object", "S1000000000", "U1000000000", "V1000000000", "M8[s]", "f4,f4",
    "float16", "complex64", "uint64", "int8", "bool", "<deep list 300>", "<deep list 900>", "<deep dict 300>",
    "<deep dict 900>", "<deep dict 5000>", "<digits>", "<twice>", {"schedule": "Linear", "start": 1.0},
    {"schedule": []}, {"tensor": []}, {"array": "x"}, {"float": "x"}, {"float": "nan"}, {"ring": {}},
    {"dict": [[[], 1]]}, {"dict": [["a", 1]]}, {"list": 3}, {"tuple": [1]}, {"type": "Discrete", "n": 2, "start": 0},
    {"type": "Box", "shape": [2], "dtype": "float32", "low": 0, "high": 1}, {"type": "MultiBinary", "n": [2, 2]},
    {"type": "MultiDiscrete", "nvec": [2, 3], "start": [0, 0]}, {"type": "Dict", "spaces": {}},
]  # fmt: skip
"""Values that take the place of others; some strings stand for text that JSON's writer would not write."""
SNIPPETS = [
    "!!float x", "!!float .inf", "!!int ''", "!!int 0b", "!!int 1:99", "!!int '0o9'", "!!bool x", "!!timestamp x",
    "!!binary '='", "!!null x", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!str {a: 1}", "!!seq x", "!!map x",
    "2001-99-99", "2001-01-01T00:00:00+99:99", "0001-01-01T00:00:00+10:00", "&a [*a]", "&a {*a : 1}", "&a {b: *a}",
    "*a", "1:2:3", ".inf", ".nan", "1e400", "1e309", "-.inf", "9" * 5000, "0x" + "f" * 5000, "lin_1", "lin_1_0_1_0",
    "lin_", "cos_1_2", "lin_inf", "lin_nan_1", "lin_1_0_0", "lin_0.4_1.0", "'dict(a=1)'", "'dict(net_arch=[64])'",
    "dict(net_arch=[1e9])", "'{**a}'", "'[" + "(" * 90 + "'", "'" + "[" * 5000 + "'", "[" * 3000,
    "'[" + "-" * 9000 + "1]'", "'dict(a=[0]*9)'", "'{1: 2, a: 3}'", "'{[]: 1}'", "'(1'", "'[nn.ReLU]'",
    "'[" + "a." * 3000 + "b]'", "'[9" + "9" * 5000 + "]'", "'[\\0]'", '"[\\0]"', '"[\\ud800]"', "[1, step]",
    "[1, episode]", "[]", "{}", "{a: b}", "{1: 2, a: 3}", "{[a]: b}", "? [a, b]\n  : c", "!!python/name:os.system",
    "!!python/object/apply:os.system [true]", "!x y", "true", "auto", "''", "0", "-1", "2.5", "1e5", "!!float 1e5",
    "nn.ReLU", "{norm_obs: true, norm_reward: false}", "{norm_obs: false, norm_reward: false, 1: 2, a: 3}",
    "[a, {b: c}]", "{net_arch: [8]}", "{net_arch: {pi: [8]}}", "{net_arch: [true]}", "MlpPolicy", "CnnPolicy",
    "NormalActionNoise", "{handle_timeout_termination: true}",
]  # fmt: skip
OURS = (
    "double: true", "gamma: 0.9", "normalize: {norm_obs: true, norm_reward: false}",
    "replay_buffer_kwargs: {handle_timeout_termination: true}",
    "n_envs: 1", "env_kwargs: {a: 1}", "train_freq: [4, step]", "learning_starts: 1e3", "verbose: 1",
    "policy: MlpPolicy", "callback: ''", "policy_kwargs: {net_arch: [8]}", "learning_rate: lin_0.1",
)  # fmt: skip
"""Lines of a section that is followed to its end."""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)

# -- Changing files ----------------------------------------------------------------------------------------------------


def paths_in(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where all values of a tree are."""
    found = [path]
    items: Iterable[Any] = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items:
        found += paths_in(item, (*path, key))
    return found


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def changed(rng: random.Random, tree: Any, other: Any) -> Any:
    """The tree with something else in it; `other` lends parts."""
    tree = [json.loads(json.dumps(tree))]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        path = rng.choice(paths_in(tree)[1:] or [(0,)])
        parent, key, old = at(tree, path[:-1]), path[-1], at(tree, path)
        kind = rng.randrange(9)
        if kind == 0 and len(path) > 1:
            del parent[key]
        elif kind == 1 and isinstance(old, int | float) and not isinstance(old, bool):
            parent[key] = rng.choice((old + 1, old - 1, -old, 2 * old, float(old), str(old), 1000 * old + 1, old == 1))
        elif kind == 2 and isinstance(old, str):
            parent[key] = rng.choice((old[1:], old + "x", old[::-1], old.upper(), [old]))
        elif kind == 3 and isinstance(old, dict):
            names = [path[-1] for path in paths_in(other) if path and isinstance(path[-1], str)]
            old[rng.choice([*names, "x"])] = rng.choice(ODD)
        elif kind == 4 and isinstance(old, list) and old:
            parent[key] = rng.choice((old * 2, old[::-1], old[1:], [*old, rng.choice(ODD)]))
        elif kind == 5:
            parent[key] = at(other, rng.choice(paths_in(other)))
        elif kind == 6:
            parent[key] = at(tree, rng.choice(paths_in(tree)))  # a part of itself
        else:
            parent[key] = rng.choice(ODD)
        tree = json.loads(json.dumps(tree))
    return tree[0]


def dumped(tree: Any) -> str:
    """JSON, with what JSON's writer would not write."""
    text = json.dumps(tree, separators=(",", ":"))
    for kind, begin, end in (("list", "[", "]"), ("dict", '{"a":[', "]}")):
        text = re.sub(f'"<deep {kind} (\\d+)>"', lambda n, b=begin, e=end: b * int(n[1]) + e * int(n[1]), text)
    text = text.replace('"<digits>"', "9" * 5000)
    return text.replace('"<twice>"', '{"a":1,"a":2}')


Parts = tuple[dict[str, str], dict[str, tuple[str, list[int], bytes]]]
"""The metadata of a safetensors file; and the dtype, shape and bytes of its tensors."""


def parts_of(data: bytes) -> Parts:
    """Raises whatever comes, where it is no such file."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    return metadata, {
        name: (row["dtype"], row["shape"], body[slice(*row["data_offsets"])]) for name, row in header.items()
    }


def joined(parts: Parts) -> bytes:
    """The file, with right lengths and offsets."""
    metadata, tensors = parts
    header: dict[str, Any] = {"__metadata__": metadata}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def numbers(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def other_table(rng: random.Random, tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors with one of them other than it was."""
    tensors = dict(tensors)
    name = rng.choice([*tensors, "x"])
    dtype, shape, data = tensors.pop(name, ("F32", [1], bytes(4)))
    kind = rng.randrange(6)
    if kind == 0:
        return tensors
    if kind == 1:
        name = rng.choice((name + "x", "", "..", *tensors, "__metadata__"))
    if kind == 2:
        dtype = rng.choice([*SIZES, "OBJECT", "F4"])
    if kind == 3:
        shape = rng.choice(([], [0], [1], [*shape, 1], shape[1:], shape[::-1], [2**40, 0], [3, 3], [2**20]))
    if kind == 4:
        data = rng.choice((b"\xff", b"\x00", b"\x7f\xc0", b"\x01")) * len(data)
    if kind == 5:
        data = data[: rng.randrange(len(data) + 1)]
    size = SIZES.get(dtype, 1) * numbers(shape)
    if kind != 5 and 0 <= size <= 1 << 16:
        data = (data + bytes(size))[:size]
    return {**tensors, name: (dtype, shape, data)}


def fitting(description: dict[str, Any]) -> dict[str, Any] | None:
    """Weights of zeros that fit the network that a file describes; None where that is none, or a large one."""
    import torch

    from agentlib.backbones.files import _Budget
    from agentlib.backbones.specs import from_spec
    from agentlib.policies import POLICIES

    names = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.bool: "BOOL", torch.uint8: "U8"}
    try:
        with _Budget(3000), torch.device("meta"):
            state = from_spec(description.get("policy", description.get("backbone")), POLICIES).state_dict()
        if sum(tensor.numel() for tensor in state.values()) > 1 << 12:
            return None
        forms = {name: (names[tensor.dtype], list(tensor.shape)) for name, tensor in state.items()}
    except Exception:
        return None
    return {name: (dtype, shape, bytes(SIZES[dtype] * numbers(shape))) for name, (dtype, shape) in forms.items()}


def with_checksum(rng: random.Random, text: str, tensors: dict[str, Any]) -> str:
    """The description with a right checksum, most times."""
    import safetensors.torch

    from agentlib.backbones.files import checksum

    if rng.random() < 0.9:
        with suppress(Exception):  # no such file is valid
            description = dict(json.loads(text))
            description.pop("checksum", None)
            loaded = safetensors.torch.load(joined(({}, tensors)))
            return json.dumps({**description, "checksum": checksum(json.dumps(description), loaded)})
    return text


def other_agent(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Another agent, backbone or file with demonstrations."""
    (metadata, tensors), (lent, _) = parts_of(data), parts_of(other)
    kind = rng.randrange(10)
    text = metadata["agentlib"]
    if kind < 7:
        description = changed(rng, json.loads(text), json.loads(lent["agentlib"]))
        if kind < 2 and isinstance(description, dict):
            tensors = fitting(description) or tensors
        text = dumped(description)
    elif kind < 9:
        tensors = other_table(rng, tensors)
    else:
        return joined((changed(rng, metadata, lent), tensors))
    return joined(({"agentlib": with_checksum(rng, text, tensors)}, tensors))


LONG = ("[", "'\\", "-", "[1 ", "(", "9", "{", "\"'", "[]", "a.", "Box(", "1e", " ", "\x1b[2J", "...", "[1. 2.]")
"""What texts of spaces are made long by."""


def other_sb3(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Another model of Stable-Baselines3: its settings, the texts of its spaces, its weights."""
    entries, lent = ({name: zipped.read(name) for name in zipped.namelist()} for zipped in map(unzipped, (data, other)))
    kind = rng.randrange(10)
    if kind < 4:
        description = changed(rng, json.loads(entries["data"]), json.loads(lent["data"]))
        entries["data"] = dumped(description).encode()
    elif kind < 7:
        description = json.loads(entries["data"])
        space = description[rng.choice(("observation_space", "action_space"))]
        name = rng.choice([name for name in space if name != ":serialized:"])
        old, count = str(space[name]), rng.choice((1, 3, 300, 100_000))
        place = rng.randrange(len(old) + 1)
        space[name] = old[:place] + rng.choice(LONG) * count + old[place + rng.randrange(3) :]
        entries["data"] = json.dumps(description).encode()
    elif kind < 8:
        entries["policy.pth"] = lent["policy.pth"]
    elif kind < 9:
        weights = bytearray(entries["policy.pth"])
        for _ in range(rng.choice((1, 3, 30))):
            weights[rng.randrange(len(weights))] = rng.randrange(256)
        entries["policy.pth"] = bytes(weights)
    else:
        entries[rng.choice(list(entries))] = rng.choice((b"", b"\xff", bytes(3000), b"[" * 3000, b"{}", b"[]"))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def unzipped(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


def other_checkpoint(rng: random.Random, data: bytes, other: bytes) -> bytes:
    import safetensors.torch

    from agentlib.backbones.files import checksum
    from agentlib.runs.checkpoints import _covered

    (metadata, tensors), (lent, _) = parts_of(data), parts_of(other)
    kind = rng.randrange(10)
    if kind < 7:
        metadata["tree"] = dumped(changed(rng, json.loads(metadata["tree"]), json.loads(lent["tree"])))
    elif kind < 8:
        tensors = other_table(rng, tensors)
    else:
        metadata = changed(rng, metadata, lent)
    if isinstance(metadata, dict) and rng.random() < 0.95:
        with suppress(Exception):  # no such file is valid
            metadata["checksum"] = checksum(_covered(metadata), safetensors.torch.load(joined((metadata, tensors))))
    return joined((metadata, tensors))


def other_config(rng: random.Random, data: bytes, other: bytes) -> bytes:
    record, lent = json.loads(data), json.loads(other)
    if rng.random() < 0.7 and isinstance(record.get("config"), dict):
        return dumped({**record, "config": changed(rng, record["config"], lent.get("config"))}).encode()
    return dumped(changed(rng, record, lent)).encode()


def other_zoo(rng: random.Random, data: bytes, other: bytes) -> bytes:
    text, lent = data.decode(), other.decode()
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = text.split("\n")
        place = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind < 4:
            lines[place] = f"{lines[place].partition(':')[0]}: {rng.choice(SNIPPETS)}"
        elif kind == 4:
            lines.insert(place, rng.choice(lent.split("\n")))
        elif kind == 5:
            del lines[place]
        elif kind == 6:
            lines.insert(
                place,
                rng.choice(("  <<: *a", "default: &a {n_envs: 2}", "  1: 2", "  ~: 3", "  x: &a", "---", "%YAML 9")),
            )
        elif rng.random() < 0.1:
            name = rng.choice(
                ("policy_kwargs", "env_kwargs", "net_arch", "gamma", "policy", "train_freq", "callback", "x")
            )
            lines = [*BOMB.split("\n"), *lines, "CartPole-v1:", f"  {name}: *{rng.choice('bdhlm')}"]
        text = "\n".join(lines)
    return text.encode()


# -- What is read ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A reader, what it is tried on, and how that is changed."""

    file: str
    seeds: Callable[[Path], list[bytes]]
    change: Callable[[random.Random, bytes, bytes], bytes]
    readers: Callable[[], list[Callable[[Path], Any]]]


def agent_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    from gymnasium import spaces

    from agentlib import Agent, policies
    from agentlib.backbones import CNN, GRU, LSTM, MLP, Chain, RunningNorm, save_backbone
    from agentlib.runs.checkpoints import save_state
    from tests.backbones.examples import EXAMPLES

    vector, image = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(0, 255, (1, 8, 8), np.uint8)
    nested = spaces.Dict({"a": vector, "action_mask": spaces.MultiBinary(2), "b": spaces.Tuple([spaces.Discrete(3)])})
    few, box, many = (
        spaces.Discrete(2),
        spaces.Box(-1.0, np.array([1.0, 2.0], np.float32), (2,)),
        spaces.MultiDiscrete([2, 3]),
    )

    def mlp() -> Any:
        return MLP(3, (2,))

    made: list[tuple[Any, Any, Any]] = [
        (policies.QPolicy(mlp(), 2), vector, few),
        (policies.QPolicy(mlp(), 2, dueling=True, noisy=True, hidden=(2,)), vector, few),
        (policies.QPolicy(mlp(), [2, 3], distributional="c51", n_atoms=3), vector, many),
        (policies.QPolicy(mlp(), 2, distributional="quantile", n_atoms=3), nested, few),
        (policies.QPolicy(CNN((1, 8, 8), (2, "max"), 4), 2), image, few),
        (policies.QPolicy(LSTM(3, 2), 2), vector, few),
        (policies.QPolicy(Chain([RunningNorm((3,)), mlp()]), 2), vector, few),
        (policies.policy_for(box, mlp(), squashed=True), vector, box),
        (policies.policy_for(few, mlp()), vector, few),
        (policies.policy_for(many, GRU(3, 2)), vector, many),
        (policies.policy_for(spaces.MultiBinary(2), mlp()), vector, spaces.MultiBinary([2])),
        (policies.DeterministicPolicy(mlp(), box, limit=3.0), vector, box),
        (policies.DiffusionPolicy(mlp(), box, (2,), 4, 2), vector, box),
        (policies.Predictor(mlp(), 2), vector, box),
        (policies.EnsemblePolicy([policies.QPolicy(mlp(), 2) for _ in range(2)], "majority"), vector, few),
    ]
    with tempfile.TemporaryDirectory() as place:
        files = [Agent(*each).save(Path(place, f"agent {i}")) for i, each in enumerate(made)]
        networks = [(f"network {i}", example.build()) for i, example in enumerate(EXAMPLES.values())]
        files += [save_backbone(network, Path(place, name)) for name, network in networks if size_of(network) < 1 << 10]
        save_state(Path(place, "state"), {"a": 1})  # none of them
        return [path.read_bytes() for path in (*files, Path(place, "state"))]


def size_of(network: Any) -> int:
    return sum(tensor.numel() for tensor in network.state_dict().values())


def agent_readers() -> list[Callable[[Path], Any]]:
    from agentlib import Agent
    from agentlib.backbones import load_backbone
    from agentlib.shell.inspect import inspected

    def load(path: Path) -> Any:
        return load_backbone(path) if b"agentlib backbone" in path.read_bytes() else Agent.load(path)

    return [load, inspected]


def demonstration_seeds(folder: Path) -> list[bytes]:
    from tests.experience.test_demonstrations import ACTIONS, OBSERVATIONS, some

    pairs = [(each, ACTIONS["discrete"]) for each in OBSERVATIONS.values()]
    pairs += [(OBSERVATIONS["vector"], each) for each in ACTIONS.values()]
    with tempfile.TemporaryDirectory() as place:
        return [some(*each)[0].save(Path(place, f"{i}")).read_bytes() for i, each in enumerate(pairs)]


def demonstration_readers() -> list[Callable[[Path], Any]]:
    from agentlib.experience import Demonstrations

    return [Demonstrations.load]


def sb3_seeds(folder: Path) -> list[bytes]:
    from tests.sb3.test_conversion import model_of

    names = ("dqn, linear", "dqn, categories", "ppo, networks", "ppo, several", "ppo, squashed", "sac, linear")
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, f"{i}.zip") for i in range(len(names))]
        for name, file in zip(names, files, strict=True):
            model_of(name).save(file)
        return [file.read_bytes() for file in files]


def sb3_readers() -> list[Callable[[Path], Any]]:
    from agentlib import Agent

    return [Agent.from_sb3]


CONTROL: dict[str, Any] = {
    "net_arch": (4,),
    "learning_starts": 20,
    "batch_size": 4,
    "train_freq": 4,
    "gradient_steps": 1,
}
SEQUENCES = {"batch_size": 2, "burn_in": 2, "sequence_length": 4, "sequence_period": 4, "buffer_size": 40}
DAGGER = {"rounds": 2, "epochs": 1, "rollout_round_min_timesteps": 20, "rollout_round_min_episodes": 1}
ACTING: dict[str, Any] = {"env": "CartPole-v1", "steps": 80}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dqn": (ACTING, {"prioritized": True, "buffer_size": 40, **CONTROL}),
    "recurrent_dqn": (ACTING | {"backbone": "gru"}, {"net_arch": (4,), "learning_starts": 20, **SEQUENCES}),
    "dagger": ({"env": "CartPole-v1", "expert": "scripted"}, {"net_arch": (4,), **DAGGER}),
    "vae": ({"data": "digits", "steps": 3}, {"net_arch": (4,), "latent_dim": 2}),
}
"""Small runs: what each learns from, and its hyperparameters."""


def checkpoint_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    import torch
    import torch._subclasses.schema_check_mode  # torch imports it late, which would look like a finding

    import agentlib.runs.checkpoints
    from agentlib.runs.checkpoints import save_state
    from agentlib.runs.segments import Segments

    with tempfile.TemporaryDirectory() as place:
        state = {
            "a": [torch.zeros(2), np.arange(3), float("nan"), 1.5, (None, True, "x")],
            3: {"b": torch.ones(1, dtype=torch.bool)},
        }
        save_state(Path(place, "state.safetensors"), state, Segments(Path(place, "none")))

        def train(name: str, out: str) -> None:
            problem, settings = RUNS[name]
            agentlib.train(name, **problem, **settings, out=Path(place, out), progress=False, compile=False)

        for name in RUNS:
            train(name, name)
        agentlib.runs.checkpoints.SMALL = 1  # the replay memory of the next one goes into segments
        train("recurrent_dqn", "with segments")
        shutil.copytree(Path(place, "with segments", "replay"), folder / "replay")
        files = [*Path(place).glob("*.safetensors"), *Path(place).glob("*/checkpoints/*.safetensors")]
        return [path.read_bytes() for path in sorted(files)]


def checkpoint_readers() -> list[Callable[[Path], Any]]:
    from agentlib.core.recipe import Problem
    from agentlib.runs.checkpoints import load_checkpoint, load_state, segments_named
    from agentlib.runs.plan import job_of
    from agentlib.runs.segments import Segments

    made = [job_of(name, Problem(**problem), **settings) for name, (problem, settings) in RUNS.items()]
    jobs = {type(job.learner).__qualname__.encode(): job for job in made}

    def load(path: Path) -> Any:
        data = path.read_bytes()
        job = next((job for name, job in jobs.items() if b'\\"' + name + b'\\"' in data), None)
        segments = Segments(path.parent / "replay")
        if job is None and len(data) % 2:
            job = next(iter(jobs.values()))
        if job is None or len(data) % 4 == 0:
            return load_state(path, segments if len(data) % 3 else None)
        return load_checkpoint(path, job.learner, job.source, segments)

    return [load, segments_named]


def config_seeds(folder: Path) -> list[bytes]:
    from agentlib.catalog import LEARNERS, recipe_of
    from agentlib.core import Cosine, InverseSquareRoot, Linear, Warmup
    from agentlib.runs.options import RunOptions, record_of
    from agentlib.runs.plan import settings_of

    found = []
    schedules: Any = [Linear(1.0, 0.1), Cosine(1.0, 0.1), InverseSquareRoot(1.0), Warmup(1.0, updates=10), 1e-3]
    for i, recipe in enumerate(map(recipe_of, LEARNERS)):
        given = {"learning_rate": schedules[i % 5]} if "learning_rate" in recipe.config.__dataclass_fields__ else {}
        options = RunOptions(
            env="CartPole-v1",
            env_kwargs={"a": [1]},
            steps=100,
            expert=len if i == 1 else None,  # a function, which has to be given again
            backbone={"name": "mlp", "arguments": {"input_dim": 4}} if i % 2 else "auto",
            device="cpu",
            eval_every=10,
            threads="auto",
            config=settings_of(recipe.name, None, given).config,
        )
        found.append(json.dumps(record_of(recipe, options) | {"has_own_recipe": i == 0}).encode())
    return found


def config_readers() -> list[Callable[[Path], Any]]:
    import agentlib.runs.train as training

    training._trained = lambda *arguments: arguments  # `resume` reads all, and stops where the run would begin
    return [lambda path: training.train(resume=path.parent)]


def zoo_seeds(folder: Path) -> list[bytes]:
    from tests.sb3 import test_zoo, test_zoo_file

    ours = "".join(f"  {line}\n" for line in OURS)
    whole = [test_zoo.FILE, test_zoo_file.FILE, f"CartPole-v1:\n{ours}", "default:\n  env_kwargs: {a: 1}\n"]
    return [text.encode() for text in dict.fromkeys([*whole, *whole[0].split("\n\n"), *whole[1].split("\n\n")])]


def zoo_readers() -> list[Callable[[Path], Any]]:
    from agentlib.catalog import recipe_of
    from agentlib.sb3.zoo import read_zoo
    from agentlib.sb3.zoo_file import read_zoo_section

    names = ("CartPole-v1", "ALE/Pong-v5", "Pendulum-v1", "MountainCarContinuous-v0", "CarRacing-v3")

    def env(path: Path) -> str:
        data = path.read_bytes()
        return names[hashlib.sha256(data).digest()[0] % 5]

    def read(path: Path) -> Any:
        if path.stat().st_size % 2:
            return read_zoo(path, env(path), recipe_of("dqn"))
        return read_zoo_section(path, env(path))

    return [read]


TARGETS = {
    "agent": Target("x.safetensors", agent_seeds, other_agent, agent_readers),
    "demonstrations": Target("x.safetensors", demonstration_seeds, other_agent, demonstration_readers),
    "sb3": Target("x.zip", sb3_seeds, other_sb3, sb3_readers),
    "checkpoint": Target("x.safetensors", checkpoint_seeds, other_checkpoint, checkpoint_readers),
    "config": Target("config.json", config_seeds, other_config, config_readers),
    "zoo": Target("x.yml", zoo_seeds, other_zoo, zoo_readers),
}

# -- Judging -----------------------------------------------------------------------------------------------------------


class Watch:
    """Whatever is opened, started or removed besides the one file, while `path` is set."""

    EVENTS = ("open", "exec", "os.", "subprocess.", "socket.", "shutil.", "ctypes.dlopen", "pickle.", "import")

    def __init__(self) -> None:
        self.path: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: Any) -> None:
        if self.path is None or not event.startswith(self.EVENTS):
            return
        if event == "exec" and sys._getframe(1).f_code.co_filename.endswith("typing.py"):
            return  # annotations of ours
        path, self.path = self.path, None
        if not (arguments and str(arguments[0]) == str(path)):
            self.seen.append(f"{event} {str(arguments)[:200]}")
        self.path = path


class Hang(BaseException):
    """Raised in a reader that does not come to an end."""


def stop(*_: object) -> None:
    raise Hang


def most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def judged(read: Callable[[Path], Any], path: Path, watch: Watch | None) -> str | None:
    """What is wrong with how a reader took a file; None where nothing is."""
    wrong = None
    before, began = most(), time.process_time()
    if watch is not None:
        watch.seen.clear()
        watch.path = path
    signal.setitimer(
        signal.ITIMER_PROF, 3 * SECONDS
    )  # of the process's time; the fuzzer's own is for what this cannot stop
    try:
        try:
            read(path)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except ValueError as error:
        if watch is not None:
            watch.path = None
        text = str(error)
        if str(path.parent) not in text or "\n" in text or len(text.replace(str(path), "")) > LONGEST:
            wrong = f"unclear {place_of(error)}: {text[:300]!r}"
        elif "allocate" in text:
            wrong = f"asks for memory {place_of(error)}: {text[:300]!r}"
    except BaseException as error:
        if watch is not None:
            watch.path = None
        wrong = f"{type(error).__name__} {place_of(error)}: {str(error)[:300]!r}"
    if watch is not None:
        watch.path = None
        if watch.seen:
            wrong = f"does {watch.seen[0]}"
    if time.process_time() - began > SECONDS:
        wrong = f"slow, {time.process_time() - began:.1f} s; {wrong}"
    if most() - before > MEMORY:
        wrong = f"memory, {(most() - before) >> 20} MiB; {wrong}"
    return wrong


def place_of(error: BaseException) -> str:
    """Where in the library an error came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[-60:] if "agentlib" in f.filename]
    return f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"


def kind_of(wrong: str) -> str:
    """Findings of one kind are one finding."""
    return re.sub(r"[\d.]+ (s|MiB)|/\S+|'[^']*'|\"[^\"]*\"", "", wrong)[:90]


def fuzz(name: str, inputs: int, seed: int, place: Path) -> None:
    """One target, in a process of its own: the fuzzer ends it."""
    import atheris

    path = place / "input" / TARGETS[name].file
    corpus = place / "corpus"
    for made in (path.parent, corpus, place / "findings"):
        made.mkdir()
    with atheris.instrument_imports(include=INSTRUMENTED[name], enable_loader_override=False):
        target = TARGETS[name]
        seeds, readers = target.seeds(path.parent), target.readers()
    signal.signal(signal.SIGPROF, stop)
    watch = Watch()
    for i, data in enumerate(seeds):
        path.write_bytes(data)
        for read in readers:
            if problem := judged(read, path, None):
                print(f"seed {i}: {problem}", file=sys.stderr)
        (corpus / f"seed {i:03d}").write_bytes(data)
    resource.setrlimit(resource.RLIMIT_AS, (memory_now() + (4 << 30),) * 2)
    found: set[str] = set()

    def one(data: bytes) -> None:
        path.write_bytes(data)
        for read in readers:
            wrong = judged(read, path, watch)
            if wrong is not None and kind_of(wrong) not in found and len(found) < 200:
                found.add(kind_of(wrong))
                digest = hashlib.sha256(data).hexdigest()[:12]
                (place / "findings" / f"{name}-{digest}").write_bytes(data)
                with (place / "findings.txt").open("a") as log:
                    log.write(f"{name}-{digest}: {wrong}\n")

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() > 0.05:
            for _ in range(3):
                try:
                    return target.change(rng, data, rng.choice(seeds))[:size]
                except Exception:
                    data = rng.choice(seeds)  # what was changed too much to be changed by its structure
        return atheris.Mutate(data, size)

    largest = max(map(len, seeds)) + 20_000
    options = [
        f"-runs={inputs}",
        f"-seed={seed + 1}",
        f"-max_len={largest}",
        "-timeout=86400",  # `judged` has the limit that counts: of work, not of waiting
        "-mutate_depth=1",
        "-rss_limit_mb=8192",
    ]
    options += [
        "-print_final_stats=1",
        "-len_control=0",
        "-verbosity=1",
        f"-artifact_prefix={place}/crash-",
        "-use_value_profile=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def memory_now() -> int:
    """Bytes of addresses that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def cover(name: str, place: Path) -> None:
    """Replays the corpus, and prints what of each reader it reaches."""
    import coverage

    files = {str(ROOT / "agentlib" / f"{module}.py"): f"({names})" for module, names in READERS[name].items()}
    watched = coverage.Coverage(branch=True, include=list(files), data_file=None, config_file=False)
    watched.start()
    target = TARGETS[name]
    path = place / "input" / target.file
    signal.signal(signal.SIGPROF, stop)
    readers = target.readers()
    for entry in sorted((place / "corpus").iterdir()):
        path.write_bytes(entry.read_bytes())
        for read in readers:
            judged(read, path, None)
    watched.stop()
    for file, names in files.items():
        watched.clear_exclude()
        watched.exclude(rf"def (?!{names}\()|class _Writer|import |__init__\(self, policy")
        analysis = watched._analyze(file)
        counts, missing = analysis.numbers, analysis.missing_formatted(branches=True)
        print(
            f"  {Path(file).relative_to(ROOT)}: lines {counts.n_executed} of {counts.n_statements}, "
            f"branches {counts.n_executed_branches} of {counts.n_branches}; not reached: {missing or 'none'}"
        )


def run(name: str, what: str, *options: object) -> tuple[int, str]:
    command = [sys.executable, __file__, what, name, *map(str, options)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    return done.returncode, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where findings are kept")
    arguments = parser.parse_args()
    names = list(TARGETS) if arguments.target == "all" else [arguments.target]
    total, findings = 0, []
    for name in names:
        inputs = int(arguments.inputs * SHARE[name]) if arguments.target == "all" else arguments.inputs
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            began = time.monotonic()
            code, text = run(name, "--fuzz", inputs, arguments.seed, place)
            done = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
            if code or not done:
                print(text[-3000:], file=sys.stderr)
                findings.append(f"{name}: the fuzzer stopped with code {code}")
            log = place / "findings.txt"
            here = log.read_text().splitlines() if log.exists() else []
            count = int(done[1]) if done else 0
            total += count
            findings += here
            print(f"{name}: {count:,} inputs in {time.monotonic() - began:.0f} s, {len(here)} findings")
            for line in here:
                print(f"  {line}")
            if arguments.keep is not None:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                for file in [*(place / "findings").glob("*"), *place.glob("crash-*")]:
                    (arguments.keep / file.name).write_bytes(file.read_bytes())
            print(run(name, "--cover", place)[1], flush=True)
    print(UNREACHABLE)
    print(f"{total:,} inputs, {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # gymnasium's, on bounds
    if sys.argv[1:2] == ["--fuzz"]:
        fuzz(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    elif sys.argv[1:2] == ["--cover"]:
        cover(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
