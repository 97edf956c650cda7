"""Configs as JSON, checked field by field."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from agentlib.core.names import close_matches, shown
from agentlib.core.schedules import (
    Clock,
    Cosine,
    InverseSquareRoot,
    Linear,
    Schedule,
    Warmup,
    schedule_from_text,
)

AnyConfig = TypeVar("AnyConfig")

SCHEDULES: dict[str, type[Any]] = {
    schedule.__name__: schedule for schedule in (Linear, Cosine, Warmup, InverseSquareRoot)
}
"""The schedules that JSON can name."""


class Range(NamedTuple):
    """The range of a number, in the type of a field: `Annotated[int, Range(1)]`."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f"at least {self.low:g}" if self.high == math.inf else f"between {self.low:g} and {self.high:g}"


Count = Annotated[int, Range(1)]
"""A whole number from 1."""
Whole = Annotated[int, Range(0)]
"""A whole number from 0."""
Unit = Annotated[float, Range(0, 1)]
"""A number between 0 and 1."""
NonNegative = Annotated[float, Range(0)]
"""A number from 0."""
Rate = Annotated[Schedule, Range(0)]
"""A number from 0, or a schedule that starts there."""
Share = Annotated[Schedule, Range(0, 1)]
"""A number between 0 and 1, or a schedule that starts there."""


class Config:
    """The base of configs: a frozen dataclass whose numbers stay in the ranges that their types name."""

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, if a number, or the first value of a schedule, is out of its range."""
        cls: Any = type(self)
        for name, (hint, allowed) in _types_of(cls).items():
            if allowed is None:
                continue
            value, where = getattr(self, name), f"{cls.__name__}.{name}"
            if isinstance(value, str):  # a schedule, such as lin_1e-3
                value = _from_json(value, hint, where)
                object.__setattr__(self, name, value)
            if callable(value):
                try:
                    value = float(value(Clock(0, 0, 0.0)))
                except Exception as error:
                    raise ValueError(
                        f"{where} is a number, a schedule such as Linear(1e-3, 0.0), or a function of the clock, such "
                        f"as lambda clock: 1e-3 * (1.0 - clock.fraction); it raised {type(error).__name__}: {error}"
                    ) from error
            if isinstance(value, int | float) and not allowed.low <= value <= allowed.high:
                raise ValueError(f"{where} must be {allowed}, not {value}")


@lru_cache(maxsize=256)
def _types_of(cls: type[Any]) -> dict[str, tuple[Any, Range | None]]:
    """The type of each field of a config, and its range, if any; kept, since Python evaluates types each time."""
    ranges = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        extras = [extra for part in (hint, *get_args(hint)) for extra in getattr(part, "__metadata__", ())]
        ranges[name] = next((extra for extra in extras if isinstance(extra, Range)), None)
    return {name: (hint, ranges[name]) for name, hint in get_type_hints(cls).items()}


def config_to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as a JSON-able dict of its fields.

    Numbers, strings, bools and None stay what they are, tuples become lists, a schedule becomes
    `{"schedule": "Linear", "start": 1.0, ...}`, a config inside a config a dict.

    Raises:
        TypeError: not a dataclass, or a field that JSON cannot hold, such as a function; the message names it.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"a config is an instance of a dataclass, not {config!r}")
    name = type(config).__name__
    return {
        field.name: _to_json(getattr(config, field.name), f"{name}.{field.name}")
        for field in dataclasses.fields(config)
    }


def config_from_json(cls: type[AnyConfig], values: Mapping[str, Any]) -> AnyConfig:
    """The config that `config_to_json` described; fields that are not there get their defaults.

    Values may also be Python's own: schedules, tuples, and numpy's numbers.

    Raises:
        ValueError: an unknown field (the message has the close matches), a value of the wrong type, or a field
            without a default that is missing; each message names the field.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{cls.__name__} is described by a dict of its fields, not by {shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ValueError(f"{cls.__name__} has no field {shown(name)}{close_matches(str(name), fields)}")
    required = {name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING}
    if missing := ", ".join(sorted(required - set(values))):
        raise ValueError(f"{cls.__name__} needs a value for {missing}")
    kinds = _types_of(cls)  # type: ignore[arg-type]
    return cls(**{name: _from_json(value, kinds[name][0], f"{cls.__name__}.{name}") for name, value in values.items()})


def _to_json(value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{where} is {value}, which JSON cannot hold")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_to_json(item, where) for item in value]
    if type(value) in SCHEDULES.values():
        return {"schedule": type(value).__name__, **config_to_json(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_json(value)
    known = ", ".join(SCHEDULES)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold; schedules that it can hold: {known}")


def _from_json(value: Any, hint: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        found = _as(value, option, where)
        if found is not _NO:
            return found
    raise ValueError(f"{where} is {shown(value)}, but must be {' or '.join(map(_described, options))}")


_NO = object()
"""Says that a value does not have a type; None is a value."""


def _as(value: Any, hint: Any, where: str) -> Any:
    """The value as one type, or `_NO`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if hint is type(None):
        return None if value is None else _NO
    if hint is float:  # a whole number is one too; True is not
        try:
            return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else _NO
        except OverflowError:  # a whole number beyond all floats
            return _NO
    if hint is int and type(value) is int and not -(2**63) <= value < 2**63:  # beyond the numbers of tensors
        return _NO
    if hint in (int, str, bool):
        return value if type(value) is hint else _NO
    if origin is Literal:
        return next((choice for choice in arguments if choice == value and type(choice) is type(value)), _NO)
    if origin is dict:
        return value if isinstance(value, dict) else _NO
    if hint is tuple:
        return tuple(value) if isinstance(value, list | tuple) else _NO
    if origin is tuple and isinstance(value, list | tuple):
        hints = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(hints) != len(value):
            return _NO
        return tuple([_from_json(value[i], hint, f"{where}[{i}]") for i, hint in enumerate(hints)])
    if hint in SCHEDULES.values() or hint is Callable or origin is Callable:
        return value if callable(value) else _schedule(value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_json(hint, value) if isinstance(value, Mapping) else _NO
    return _NO


def _schedule(value: Any, where: str) -> Any:
    """The schedule that JSON describes, or a text such as lin_1e-3, or `_NO`."""
    if isinstance(value, str):
        try:
            found = schedule_from_text(value)
        except ValueError:
            return _NO
        return found if callable(found) else _NO
    if not isinstance(value, Mapping) or "schedule" not in value:
        return _NO
    name = value["schedule"]
    if not isinstance(name, str) or name not in SCHEDULES:
        raise ValueError(f"{where}: unknown schedule {shown(name)}{close_matches(str(name), SCHEDULES)}")
    try:
        return config_from_json(SCHEDULES[name], {key: item for key, item in value.items() if key != "schedule"})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _described(hint: Any) -> str:
    """One type, in words."""
    if hint is type(None):
        return "None"
    if hint is float:
        return "a number"
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return str(hint).replace("typing.", "")
    if get_origin(hint) is Callable:
        return f"a schedule ({', '.join(SCHEDULES)})"
    return getattr(hint, "__name__", str(hint))
