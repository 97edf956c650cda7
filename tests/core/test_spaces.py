"""Observations of any space as lists of arrays and back, spaces as JSON and back, and what is refused."""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agentlib.core.spaces import flatten, leaf_dtype, leaf_spaces, space_from_json, space_to_json, to_batch, unflatten

quick = partial(settings, deadline=None, derandomize=True)

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3)
FLOATS, INTEGERS = [np.float16, np.float32, np.float64], [np.int8, np.uint8, np.int32, np.int64]


@st.composite
def boxes(draw) -> spaces.Box:
    shape = draw(shapes)
    if draw(st.booleans()):
        dtype = draw(st.sampled_from(INTEGERS))
        # Gymnasium cannot sample between the bounds of int64.
        bounds = st.integers(max(np.iinfo(dtype).min, -(2**40)), min(np.iinfo(dtype).max, 2**40))
    else:
        dtype = draw(st.sampled_from(FLOATS))
        width = np.dtype(dtype).itemsize * 8
        finite = st.floats(-1000, 1000, width=width)
        bounds = draw(st.sampled_from([finite, st.sampled_from([-np.inf, 0.0, np.inf])]))
    one, other = (draw(hnp.arrays(dtype, shape, elements=bounds)) for _ in range(2))
    low, high = np.minimum(one, other), np.maximum(one, other)
    low, high = np.where(low == np.inf, 0, low).astype(dtype), np.where(high == -np.inf, 0, high).astype(dtype)
    return spaces.Box(low, high, shape, dtype)


@st.composite
def multi_discretes(draw) -> spaces.MultiDiscrete:
    shape = draw(hnp.array_shapes(max_dims=2, max_side=3))
    nvec = draw(hnp.arrays(np.int64, shape, elements=st.integers(1, 9)))
    start = draw(hnp.arrays(np.int64, shape, elements=st.integers(-5, 5)))
    return spaces.MultiDiscrete(nvec, draw(st.sampled_from([np.int64, np.int32])), start=start)


leaf = (
    boxes()
    | multi_discretes()
    | st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-5, 5))
    | st.builds(spaces.MultiBinary, st.integers(1, 4) | st.lists(st.integers(1, 3), min_size=1, max_size=3))
)
keys = st.sampled_from(["a", "b", "image", "", "Ω", "10", "9"])
any_space = st.recursive(
    leaf,
    lambda parts: (
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple)
        | st.dictionaries(keys, parts, min_size=1, max_size=3).map(spaces.Dict)
        | st.lists(st.tuples(keys, parts), min_size=1, max_size=3).map(lambda p: spaces.Dict(OrderedDict(p)))
    ),
    max_leaves=5,
)


def sample(space: spaces.Space, seed: int):
    space.seed(seed)
    return space.sample()


def batch_of(space: spaces.Space, samples: list):
    out = create_empty_array(space, len(samples))
    assert out is not None
    return concatenate(space, samples, out)


def assert_equal_trees(one: Any, other: Any) -> None:
    assert isinstance(one, dict | tuple) == isinstance(other, dict | tuple)
    if isinstance(one, dict):
        assert list(one) == list(other)  # the order too
        one, other = tuple(one.values()), tuple(other.values())
    if isinstance(one, tuple):
        assert len(one) == len(other)
        for part, counterpart in zip(one, other, strict=True):
            assert_equal_trees(part, counterpart)
    else:
        np.testing.assert_array_equal(one, other)


@quick(max_examples=60)
@given(any_space, st.integers(0, 99), st.integers(1, 3))
def test_unflatten_is_the_inverse_of_flatten(space, seed, n):
    """Single values and batches; each leaf lies where its space does."""
    value = sample(space, seed)
    flat = flatten(space, value)
    assert_equal_trees(unflatten(space, flat), value)
    for part, of in zip(flat, leaf_spaces(space), strict=True):
        assert of.contains(np.asarray(part, of.dtype) if isinstance(of, spaces.Box) else part)
    batch = batch_of(space, [value] * n)
    assert_equal_trees(unflatten(space, flatten(space, batch)), batch)
    assert [np.shape(part) for part in flatten(space, batch)] == [(n, *(of.shape or ())) for of in leaf_spaces(space)]


@quick(max_examples=60)
@given(any_space, st.integers(0, 99), st.integers(1, 3))
def test_to_batch_tells_one_observation_from_several(space, seed, n):
    """One observation becomes a batch of one; a batch stays as it is, also a batch of one."""
    samples = [sample(space, seed + i) for i in range(n)]
    parts, single = to_batch(space, samples[0])
    assert single
    assert_equal_trees(tuple(parts), tuple(flatten(space, batch_of(space, samples[:1]))))
    batch = batch_of(space, samples)
    parts, single = to_batch(space, batch)
    assert not single
    assert_equal_trees(tuple(parts), tuple(flatten(space, batch)))


def assert_same_space(one: spaces.Space, other: spaces.Space) -> None:
    """Equality without the tolerance and the blindness for order of Gymnasium's own."""
    assert type(one) is type(other)
    assert one == other
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        assert list(one.spaces) == list(other.spaces)
    for of, counterpart in zip(leaf_spaces(one), leaf_spaces(other), strict=True):
        assert (of.shape, of.dtype) == (counterpart.shape, counterpart.dtype)
        if isinstance(of, spaces.Box) and isinstance(counterpart, spaces.Box):
            np.testing.assert_array_equal(of.low, counterpart.low)
            np.testing.assert_array_equal(of.high, counterpart.high)


@quick(max_examples=100)
@given(any_space)
def test_a_space_survives_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert_same_space(space_from_json(json.loads(text)), space)


@quick(max_examples=20)
@given(any_space)
def test_the_space_of_a_stack_of_frames_survives_json(space):
    assert_same_space(
        space_from_json(json.loads(json.dumps(space_to_json(batch_space(space, 3))))), batch_space(space, 3)
    )


def test_a_discrete_space_of_another_dtype_survives_json():
    try:
        space = spaces.Discrete(4, dtype=np.int32)
    except TypeError:
        pytest.skip("this Gymnasium has int64 only")
    assert_same_space(space_from_json(json.loads(json.dumps(space_to_json(space)))), space)


def test_the_largest_integers_survive_json():
    space = spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64)
    assert_same_space(space_from_json(json.loads(json.dumps(space_to_json(space)))), space)


def test_an_image_space_is_short_in_json():
    """Bounds that are all the same are one number."""
    assert len(json.dumps(space_to_json(spaces.Box(0, 255, (4, 84, 84), np.uint8)))) < 100


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"type": "Sphere"},
        {"type": "Box"},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0.0], "high": [1.0, 2.0]},
        {"type": "Discrete", "n": "many", "start": 0},
        {"type": "Dict", "spaces": [1]},
        {"type": "Tuple", "spaces": {"a": 1}},
        [],
    ],
)
def test_what_describes_no_space_is_a_value_error(description):
    with pytest.raises(ValueError, match=r"\w"):
        space_from_json(description)


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Sequence(spaces.Discrete(2))])
@pytest.mark.parametrize("function", [leaf_spaces, space_to_json])
def test_spaces_without_fixed_shape_are_refused(space, function):
    for whole in (space, spaces.Dict(a=spaces.Discrete(2), b=space)):
        with pytest.raises(TypeError, match=f"{type(space).__name__} spaces have no fixed shape: wrap the environment"):
            function(whole)


def test_float64_is_stored_as_float32_and_all_else_as_it_is():
    assert leaf_dtype(spaces.Box(0, 1, (), np.float64)) == np.float32
    for dtype in (np.float32, np.float16, np.uint8, np.int64):
        assert leaf_dtype(spaces.Box(0, 1, (), dtype)) == dtype


CART = spaces.Box(-np.inf, np.inf, (4,), np.float32)
PIXELS = spaces.Box(0, 255, (2, 2), np.uint8)
PAIR = spaces.Tuple([CART, spaces.Dict(n=spaces.Discrete(3))])
BOTH = spaces.Dict(cart=CART, n=spaces.Discrete(3))


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (CART, np.zeros(4)),
        (spaces.Discrete(3), 1),
        (BOTH, {"cart": np.zeros(4), "n": 1}),
        (spaces.Tuple([CART, spaces.Discrete(3)]), (np.zeros(4), 1)),
        (PAIR, (np.zeros(4), {"n": 1})),
    ],
)
def test_the_pair_that_reset_returns_is_refused(space, observation):
    with pytest.raises(TypeError, match=r"pair \(observation, info\) that env.reset\(\) returns"):
        to_batch(space, (observation, {}))
    to_batch(space, observation)  # alone it is fine, also where it looks like such a pair


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (CART, np.zeros(3)),
        (CART, np.zeros((2, 3))),
        (CART, np.zeros((1, 2, 4))),
        (CART, 0.0),
        (PIXELS, np.zeros(2, np.uint8)),
        (spaces.Discrete(3), np.zeros((2, 2), int)),
        (BOTH, {"cart": np.zeros((2, 4)), "n": 1}),
        (BOTH, {"cart": np.zeros(4), "n": np.array([1])}),
    ],
)
def test_a_wrong_shape_is_refused_with_the_right_ones(space, observation):
    with pytest.raises(
        ValueError, match=r"of shape \(.*\) does not fit .*: give shape \(.*\), or \(n,.*\) for a batch"
    ):
        to_batch(space, observation)


def test_parts_of_different_lengths_are_no_batch():
    with pytest.raises(ValueError, match=r"the parts of the batch have different lengths: \[2, 3\]"):
        to_batch(BOTH, {"cart": np.zeros((2, 4)), "n": np.array([1, 2, 0])})


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (PIXELS, np.zeros((2, 2))),
        (PIXELS, np.zeros((2, 2), np.int64)),
        (spaces.Discrete(3), 1.0),
        (CART, np.array(["a"] * 4)),
        (CART, None),
        (CART, [None] * 4),
        (CART, np.zeros(4, complex)),
    ],
)
def test_a_wrong_dtype_is_refused(space, observation):
    with pytest.raises(TypeError, match=r"an observation of dtype \S+ does not fit"):
        to_batch(space, observation)


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (BOTH, np.zeros(4)),
        (BOTH, {"cart": np.zeros(4)}),
        (PAIR, (np.zeros(4),)),
        (PAIR, np.zeros(4)),
        (PAIR, 3),
    ],
)
def test_a_wrong_structure_is_refused(space, observation):
    with pytest.raises(TypeError, match="does not have the structure of"):
        to_batch(space, observation)


@pytest.mark.parametrize("observation", [[0, 0, np.nan, 0], np.full((2, 4), np.nan)])
def test_nan_is_refused(observation):
    with pytest.raises(ValueError, match="contains NaN"):
        to_batch(CART, observation)
    with pytest.raises(ValueError, match="contains NaN"):
        to_batch(
            spaces.Dict(n=spaces.Discrete(3), b=CART),
            {"n": np.zeros(np.shape(observation)[:-1], int), "b": observation},
        )


def test_infinity_is_an_observation():
    assert np.isinf(to_batch(CART, [0, 0, np.inf, 0])[0]).any()


@pytest.mark.parametrize(
    ("space", "observation"),
    [(CART, [[1, 2, 3, 4], [1, 2]]), (CART, [[1.0], 2.0, 3.0, 4.0]), (PAIR, (([0.0], {}), {"n": 1}))],
)
def test_ragged_lists_are_refused(space, observation):
    with pytest.raises((TypeError, ValueError), match="fit"):
        to_batch(space, observation)


def test_plain_numbers_and_lists_are_observations():
    """What a program has at hand: lists, Python numbers, float64, smaller integers."""
    assert to_batch(CART, [1, 2, 3, 4])[1]
    assert to_batch(CART, [[1.0, 2, 3, 4]])[1] is False
    assert to_batch(spaces.Discrete(3), 2)[1]
    assert to_batch(spaces.Discrete(3), np.uint8(2))[1]
    assert to_batch(spaces.MultiBinary(2), [True, False])[1]
