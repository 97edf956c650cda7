"""Settings files of the RL Baselines3 Zoo (YAML), read as literals: nothing in them is evaluated or looked up.

A file belongs to one algorithm of Stable-Baselines3. It holds a section for each environment, "atari" for all Atari
games, and sometimes "default".
"""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlib.catalog import is_atari
from agentlib.core.names import close_matches, one_line, shown
from agentlib.core.schedules import schedule_from_text

WHOLE_NUMBERS = (
    "batch_size", "buffer_size", "frame_stack", "gradient_steps", "learning_starts", "n_envs", "n_epochs", "n_steps",
    "n_timesteps", "policy_delay", "sde_sample_freq", "seed", "target_update_interval", "train_freq",
)  # fmt: skip
"""Keys whose whole numbers YAML may give as 1e5."""

LARGEST_FILE = 1 << 17
"""Bytes; those of the zoo have a tenth of it."""
LARGEST_TREE = 1 << 16
"""Largest number of values in a file; a value that is referred to (`*name`) counts each time."""

RUN_KEYS: tuple[str, ...] = ("callback", "vec_env_wrapper", "vec_env_kwargs", "monitor_kwargs")
"""Keys that are no arguments of an algorithm and have no field of their own in `ZooSection`."""


ATARI_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
"""Its work is done by `agentlib.envs.making.make_env` for every Atari game."""
ATARI_ARGUMENTS: dict[str, Any] = {
    "noop_max": 30, "frame_skip": 4, "screen_size": 84, "terminal_on_life_loss": True, "clip_reward": True,
    "action_repeat_probability": 0.0,
}  # fmt: skip
"""The arguments of that wrapper that describe `make_env`; they are also its defaults."""
ATARI_FRAMES = 4
"""Observations that `make_env` stacks for Atari games."""


class Named(str):
    """A name that a file mentions, such as nn.ReLU."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class ZooSection:
    """The content of a section, as plain values; schedules are ours, and classes and functions are `Named`."""

    section: str
    """Its name."""
    hyperparameters: dict[str, Any]
    """Arguments of the algorithm of SB3: numbers, booleans, strings, schedules."""
    policy: str | None = None
    """SB3's name of the kind of network."""
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the policy."""
    steps: int | None = None
    """`n_timesteps`."""
    n_envs: int = 1
    """Environments side by side."""
    normalize: dict[str, Any] | None = None
    """Arguments of `VecNormalize`; None where nothing is normalized."""
    noise_type: str | None = None
    """"normal" or "ornstein-uhlenbeck", of the actions while learning."""
    noise_std: float = 0.0
    """Its standard deviation."""
    frame_stack: int | None = None
    """Observations that are stacked."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """For the environment's constructor."""
    wrappers: tuple[tuple[str, dict[str, Any]], ...] = ()
    """`env_wrapper`: names of classes and their arguments, the innermost first."""
    others: dict[str, Any] = field(default_factory=dict)
    """Keys that are about the run and not among the above, such as `callback`."""

    def environment_changes(self, env_id: str | None) -> list[str]:
        """Wrappers and `frame_stack=N` that the section asks for and `agentlib.envs.making.make_env` doesn't apply."""
        atari = env_id is not None and is_atari(env_id)
        changes = []
        for name, arguments in self.wrappers:
            if not (atari and name == ATARI_WRAPPER and arguments.items() <= ATARI_ARGUMENTS.items()):
                changes.append(f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
        if self.frame_stack not in ((None, ATARI_FRAMES) if atari else (None, 0, 1)):
            changes.append(f"frame_stack={self.frame_stack}")
        return changes


def read_zoo_section(path: str | Path, env_id: str) -> ZooSection:
    """The settings for an environment in the file of any algorithm.

    Raises:
        ImportError: PyYAML is absent; the message names the extra.
        FileNotFoundError: no such file.
        ValueError: the file is no such file or has no section for the environment, or a value is no literal.
    """
    content = _sections(path)
    candidates = [env_id, "atari", "default"] if is_atari(env_id) else [env_id, "default"]
    name = next((name for name in candidates if name in content), None)
    if name is None:
        raise ValueError(f"{path} has no settings for {env_id!r}{close_matches(env_id, map(str, content))}")
    try:
        values = {str(key): _plain(str(key), value) for key, value in content[name].items()}
        return _zoo_section(name, values)
    except ValueError as error:
        raise ValueError(f"{path}, section {name}: {error}") from None


def _zoo_section(name: str, values: dict[str, Any]) -> ZooSection:
    normalize = values.pop("normalize", None)
    if isinstance(normalize, bool):
        normalize = {} if normalize else None
    plain = ("policy", "n_envs", "noise_type", "noise_std", "frame_stack")
    given: dict[str, Any] = {key: values.pop(key) for key in plain if key in values}
    if given.get("noise_std") and given.get("noise_type") is None:
        raise ValueError(
            f"noise_std: {shown(given['noise_std'])} has no effect without noise_type; give both or neither"
        )
    given |= {key: _mapping(key, values.pop(key)) for key in ("policy_kwargs", "env_kwargs") if key in values}
    return ZooSection(
        section=name,
        steps=values.pop("n_timesteps", None),
        normalize=None if normalize is None else _mapping("normalize", normalize),
        wrappers=_wrappers(values.pop("env_wrapper", None)),
        others={key: values.pop(key) for key in RUN_KEYS if key in values},
        hyperparameters=values,
        **given,
    )


def _plain(key: str, value: Any) -> Any:
    """A value as it is meant: YAML knows 1e-3 as a string and 1e5 as a float, schedules and dicts as strings."""
    if isinstance(value, str) and key != "policy":
        if value.lstrip().startswith(("dict(", "{", "[", "(")):
            value = literal(value, names=key == "policy_kwargs")
        elif value.startswith(("lin_", "cos_")):
            value = schedule_from_text(value)
        elif key.endswith("_class"):
            value = Named(value)
        else:
            with suppress(ValueError):  # such as ent_coef: auto
                value = float(value)
    if isinstance(value, float | str) and key in WHOLE_NUMBERS:
        if isinstance(value, str) or not value.is_integer():
            raise ValueError(f"{key} must be a whole number, not {shown(value)}")
        return int(value)
    return tuple(value) if isinstance(value, list) and key == "train_freq" else value


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise ValueError(f"{key} must be a mapping, not {shown(value)}")
    return dict(value or {})


def _wrappers(value: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
    """A name, `{name: arguments}`, or a list of such."""
    found: list[tuple[str, dict[str, Any]]] = []
    for part in value if isinstance(value, list) else [value] if value else []:
        if not isinstance(part, str | dict):
            raise ValueError(f"env_wrapper: {shown(part)} is neither a name nor a name with its arguments")
        named = {part: {}} if isinstance(part, str) else part
        found += [(str(name), _mapping("env_wrapper", arguments)) for name, arguments in named.items()]
    return tuple(found)


def _sections(path: str | Path) -> dict[str, Any]:
    """The sections of a file, by name."""
    try:
        import yaml
    except ImportError:
        raise ImportError("reading the zoo's files needs PyYAML: pip install 'agentlib-rl[zoo]'") from None
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no settings file at {path}")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is no settings file of the zoo: it has more than {LARGEST_FILE:,} bytes")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        reading = loader(path.read_text(encoding="utf-8"))
        try:
            node = reading.get_single_node()
            _size_of(node, {})
            content = None if node is None else reading.construct_document(node)
        finally:
            reading.dispose()
    except Exception as error:  # PyYAML raises anything, such as IndexError for `!!int ""`
        reason = error if isinstance(error, ValueError | yaml.YAMLError) else repr(error)
        raise ValueError(f"{path} is no YAML file that can be read safely: {one_line(reason)}") from None
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise ValueError(f"{path} is no settings file of the zoo: it must hold a section for each environment")
    return content


def _size_of(node: Any, known: dict[int, int]) -> int:
    """How many values a node of YAML stands for; a few lines of references to references can stand for millions."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise ValueError("a part of it contains itself")
        return known[id(node)]
    known[id(node)] = 0
    parts = node.value if isinstance(getattr(node, "value", None), list) else []
    size = 1 + sum(_size_of(part, known) for each in parts for part in (each if isinstance(each, tuple) else (each,)))
    if size > LARGEST_TREE:
        raise ValueError(f"it holds more than {LARGEST_TREE:,} values")
    known[id(node)] = size
    return size


def literal(value: Any, names: bool = False) -> Any:
    """The value of a string as a Python literal, where `dict(a=1)` stands for `{"a": 1}`; other values as they are.

    With `names` a name in it, such as nn.ReLU, becomes a `Named`.

    Raises:
        ValueError: it is no literal; nothing is ever evaluated.
    """
    if not isinstance(value, str):
        return value
    try:
        return _value_of(ast.parse(value.strip(), mode="eval").body, names)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"{shown(value)} is not a literal such as dict(net_arch=[64, 64]), and is never evaluated"
        ) from None


def _value_of(node: ast.expr, names: bool) -> Any:
    if names and isinstance(node, ast.Name | ast.Attribute):
        return Named(_dotted(node))
    if isinstance(node, ast.Call):
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args or None in keywords:
            raise ValueError("only dict(name=value, ...) is read")
        return {name: _value_of(part, names) for name, part in keywords.items()}
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(key or node): _value_of(part, names)
            for key, part in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.List | ast.Tuple):
        parts = [_value_of(part, names) for part in node.elts]
        return parts if isinstance(node, ast.List) else tuple(parts)
    return ast.literal_eval(node)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError("only names and dots are read")
