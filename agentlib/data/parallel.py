"""Texts in two languages, pair by pair, and batches of them in a few fixed shapes."""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.names import close_matches, shown
from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.data.datasets import some_of
from agentlib.data.tokens import UNKNOWN, Tokenizer

PAD, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<s>", "</s>", UNKNOWN)
"""The first tokens of a vocabulary for pairs; the numbers of three of them are above."""
BUCKETS = 8
"""Shapes of batches, at most."""
PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Names of the files of a part."""


@dataclass(frozen=True, eq=False)
class ParallelText:
    """Pairs of texts, the first of which is to be turned into the second.

    Raises:
        ValueError: there are none, or more of one side; the message names the first that is alone.
    """

    source: Sequence[str]
    target: Sequence[str]
    suite: str = ""
    """The name of the suite of questions that they are, if they are one; see `agentlib.data.suites`."""
    published: Sequence[str] = ()
    """The targets before they were rounded, of questions whose answers are numbers."""

    def __post_init__(self) -> None:
        ours, theirs = len(self.source), len(self.target)
        if ours != theirs:
            longer = "source" if ours > theirs else "target"
            raise ValueError(
                f"there are {ours} sources and {theirs} targets: {longer} {min(ours, theirs) + 1} has no other side"
            )
        if not ours:
            raise ValueError("there are no pairs of texts")

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Any) -> ParallelText:
        """The pairs of these rows."""
        sides = self.source, self.target, self.published
        source, target, published = ([side[row] for row in rows] if len(side) else [] for side in sides)
        return ParallelText(source, target, self.suite, published)

    def sampled(self, most: int) -> ParallelText:
        """All pairs, or `most` random ones in their order, the same at each call."""
        if len(self) <= most:
            return self
        return self.take(some_of(len(self), most).tolist())

    @property
    def digest(self) -> str:
        """SHA-256 of all pairs."""
        text = json.dumps([list(self.source), list(self.target)])
        return hashlib.sha256(text.encode(), usedforsecurity=False).hexdigest()


class ParallelParts(NamedTuple):
    """Pairs in three parts: learn from the first, choose by the second, report the third."""

    train: ParallelText
    validation: ParallelText
    test: ParallelText


READERS: dict[str, Callable[[Path, int], ParallelParts]] = {}
"""Of a folder and a seed, by the name of its format behind "#"; `agentlib.data.suites` has those that there are."""


def reversal(n: int = 3_000, seed: int = 0) -> ParallelText:
    """Words of 3 to 12 letters, to be spelled backwards; each is there once, so that parts share none."""
    generator, words = np.random.default_rng(seed), dict[str, None]()
    while len(words) < n:
        letters = [generator.integers(10, size=size) for size in generator.integers(3, 13, size=n - len(words))]
        words |= dict.fromkeys("".join(chr(ord("a") + letter) for letter in word) for word in letters)
    return ParallelText([*words], [word[::-1] for word in words])


WORD_TASKS: dict[str, Callable[[str], str]] = {
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "shift": lambda word: "".join(chr(ord(letter) + 1) for letter in word),
}
"""What is to be done with a word, by name."""


def word_tasks(n: int = 6_000, seed: int = 0) -> ParallelText:
    """Words to be spelled backwards, sorted, or shifted by a letter, as the name of the task before each says."""
    words, names = reversal(n, seed).source, [*WORD_TASKS]
    chosen = [names[number % len(names)] for number in range(n)]
    targets = [WORD_TASKS[name](word) for name, word in zip(chosen, words, strict=True)]
    return ParallelText([f"{name} {word}" for name, word in zip(chosen, words, strict=True)], targets)


PARALLEL_TEXTS: dict[str, Callable[[], ParallelText]] = {"reversal": reversal, "word_tasks": word_tasks}
"""Pairs by name; `agentlib list data` prints the first line of each docstring."""


def parallel_parts(data: Any, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> ParallelParts:
    """The three parts of any pairs of texts; of data without parts of its own they are random.

    Args:
        data: `ParallelText` or `ParallelParts`; a list of pairs; a name of `PARALLEL_TEXTS`; or a path. `FILE.tsv` has
            source and target in its first two columns; `FILE.jsonl` an object in each line, with "source" and "target".
            `PATH#en-de` names the languages: of two aligned files PATH.en and PATH.de, of the keys of a `.jsonl`, or of
            the files in a folder, train, val and test; `FOLDER#rte` is a suite of questions (`agentlib.data.suites`).
        seed: of the random parts.
        validation, test: shares of the pairs.

    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: the data is none of these, or something in it does not fit; the message says where.
    """
    if isinstance(data, ParallelParts):
        return data
    if isinstance(data, str | Path) and str(data) not in PARALLEL_TEXTS:
        path, _, languages = str(data).partition("#")
        if languages in READERS:
            return READERS[languages](Path(path), seed)
        if Path(path).is_dir():
            return _parts_in(Path(path), languages)
    pairs = parallel_text(data)
    held_out = [max(round(share * len(pairs)), 1) for share in (validation, test)]
    order = np.random.default_rng([seed, 2]).permutation(len(pairs)).tolist()
    if sum(held_out) >= len(pairs):
        raise ValueError(f"{len(pairs)} pairs of texts are too few to learn from and to hold some out: give 3 at least")
    cuts = [order[: held_out[0]], order[held_out[0] : sum(held_out)], order[sum(held_out) :]]
    return ParallelParts(*(pairs.take(sorted(rows)) for rows in (cuts[2], cuts[0], cuts[1])))


def parallel_text(data: Any) -> ParallelText:
    """Pairs of texts in one part, as `parallel_parts` takes them.

    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: the data is none of these, or something in it does not fit; the message says where.
    """
    if isinstance(data, ParallelText):
        return data
    if isinstance(data, str) and data in PARALLEL_TEXTS:
        return PARALLEL_TEXTS[data]()
    if isinstance(data, str | Path):
        return _read(str(data))
    if isinstance(data, list) and all(_is_pair(pair) for pair in data):
        return ParallelText([pair[0] for pair in data], [pair[1] for pair in data])
    names = ", ".join(PARALLEL_TEXTS)
    raise ValueError(f"pairs of texts are a path, a name ({names}) or a list of pairs (source, target), "
                     f"not {shown(data)}")  # fmt: skip


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(side, str) for side in pair)


def _parts_in(folder: Path, languages: str) -> ParallelParts:
    found = []
    for part, names in PARTS.items():
        there = [name for name in names if any(folder.glob(f"{name}.*"))]
        if not there:
            raise ValueError(f"{folder} has no file {' or '.join(f'{name}.*' for name in names)}, for the {part} part")
        single = [folder / f"{there[0]}{suffix}" for suffix in (".tsv", ".jsonl") if not languages or suffix != ".tsv"]
        path = next((file for file in single if file.is_file()), folder / there[0])
        found.append(_read(f"{path}#{languages}" if languages else str(path)))
    return ParallelParts(*found)


def _read(text: str) -> ParallelText:
    name, _, languages = text.partition("#")
    sides, path = tuple(languages.split("-")) if languages else ("source", "target"), Path(name)
    if len(sides) != 2 or not all(sides):
        raise ValueError(f"two languages are named by PATH#SOURCE-TARGET, such as train#en-de, not {shown(text)}")
    if path.suffix == ".jsonl":
        return _from_jsonl(path, sides)
    if path.suffix == ".tsv":
        rows = [line.split("\t") for line in lines_of(path)]
        wrong = next((number for number, row in enumerate(rows, 1) if len(row) < 2), None)
        if wrong is not None:
            raise ValueError(f"{path}, line {wrong}: there is no tab between a source and a target")
        return ParallelText([row[0] for row in rows], [row[1] for row in rows])
    files = [path.with_name(f"{path.name}.{side}") for side in sides]
    if not languages and not any(file.is_file() for file in files):
        known = f"{close_matches(text, PARALLEL_TEXTS)}; or give FILE.tsv, FILE.jsonl, or two files by PATH#en-de"
        raise FileNotFoundError(f"no pairs of texts {shown(text)}{known}")
    source, target = map(lines_of, files)
    if len(source) != len(target):
        longer, first = files[len(target) > len(source)], min(len(source), len(target)) + 1
        counted = f"{files[0]} has {len(source)} lines and {files[1]} {len(target)}"
        raise ValueError(f"{counted}: line {first} of {longer} has no other side")
    return ParallelText(source, target)


def lines_of(path: Path) -> list[str]:
    """The lines of a file, without a byte order mark; only a new line parts them.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no UTF-8; the message says where.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    text, lines = path.read_bytes().removeprefix(BOM_UTF8), list[str]()
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n") if text else [], 1):
        try:
            lines.append(line.decode().removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no UTF-8 at byte {error.start} of line {number}: convert it") from None
    return lines


def _from_jsonl(path: Path, sides: tuple[str, ...]) -> ParallelText:
    pairs = []
    for number, line in enumerate(lines_of(path), 1):
        try:
            found = json.loads(line)
            found = found.get("translation", found)
            pairs.append([found[side] for side in sides])
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
            pairs.append([])
        if not _is_pair(pairs[-1]):
            keys = " and ".join(map(repr, sides))
            raise ValueError(f"{path}, line {number}: this is no JSON object with texts under {keys}")
    return ParallelText([pair[0] for pair in pairs], [pair[1] for pair in pairs])


class ParallelBatch(NamedTuple):
    """A batch of pairs, padded; the shape is that of its bucket."""

    source: Tensor
    """`(B, S)` int64: the source, `</s>`, and padding."""
    target: Tensor
    """`(B, T + 1)` int64: `<s>`, the target, `</s>`, and padding."""
    clock: Clock


def padded(rows: Sequence[Any], length: int | None = None) -> Tensor:
    """Rows of tokens as `(N, length)` int64, filled up by padding; by default as long as the longest."""
    table = np.full((len(rows), max(map(len, rows)) if length is None else length), PAD, np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)


def encoded(texts: Sequence[str], tokenizer: Tokenizer, start: bool = False) -> list[Any]:
    """The tokens of texts, each with `</s>` behind it, and `<s>` before it if asked for."""
    return [[*[START] * start, *tokenizer.encode(text).tolist(), END] for text in texts]


def longest_sides(
    source: Sequence[Any], target: Sequence[Any], most: int, part: str = "", limit: str = "max_length="
) -> NDArray[np.int64]:
    """The number of tokens of each pair's longer side `(N,)`, as `encoded` has them; `<s>` does not count.

    Raises:
        ValueError: one is above `most`; the message says which, of which part, and whose limit it is.
    """
    lengths = np.array([max(len(one), len(two) - 1) for one, two in zip(source, target, strict=True)])
    if lengths.max() > most:
        worst = int(lengths.argmax())
        raise ValueError(
            f"pair {worst + 1}{part} has {lengths[worst]} tokens on a side, more than {limit}{most}: raise it, "
            "or leave the pair out"
        )
    return lengths


class ParallelBatches(Source):
    """Batches of pairs of about the same length, so that little is padding.

    Pairs are parted into buckets by the longer of their sides, and a bucket's batches have one shape. The bucket of
    each update is drawn by the number of its pairs; inside, each pair comes once in an epoch of the bucket.

    Args:
        data: the pairs.
        tokenizer: whose first tokens are `SPECIAL`.
        batch_size: pairs in a batch.
        max_length: tokens of a side, its end among them, that a model can read.
        seed: of buckets and orders.
        limit: the words of the error for `max_length`.

    Raises:
        ValueError: a pair is longer than `max_length`; the message says which.
    """

    rows: Tensor

    def __init__(
        self, data: ParallelText, tokenizer: Tokenizer, batch_size: int, max_length: int, seed: int = 0,
        limit: str = "max_length=",
    ) -> None:  # fmt: skip
        super().__init__(seed)
        self.data_digest = f"{tokenizer.digest}{data.digest}"
        source, target = encoded(data.source, tokenizer), encoded(data.target, tokenizer, start=True)
        lengths = longest_sides(source, target, max_length, limit=limit)
        limits = np.unique(np.quantile(lengths, np.arange(1, BUCKETS + 1) / BUCKETS, method="higher"))
        self.bucket_of = np.searchsorted(limits, lengths)
        sizes = np.bincount(self.bucket_of, minlength=len(limits))
        self.shares, self.queues = sizes / sizes.sum(), [np.zeros(0, np.int64) for _ in limits]
        for bucket in range(len(limits)):
            inside = np.flatnonzero(self.bucket_of == bucket)
            self.register_buffer(f"source_{bucket}", padded([source[row] for row in inside]), persistent=False)
            self.register_buffer(f"target_{bucket}", padded([target[row] for row in inside]), persistent=False)
        self.register_buffer("rows", torch.zeros(batch_size, dtype=torch.int64))
        self.phase = 0

    def fingerprint(self) -> str:
        return self.data_digest

    def advance(self) -> None:
        self.phase = bucket = int(self.generator.choice(len(self.shares), p=self.shares))
        queue, size = self.queues[bucket], len(getattr(self, f"source_{bucket}"))
        while len(queue) < len(self.rows):
            queue = np.concatenate([queue, self.generator.permutation(size)])
        self.rows.copy_(torch.from_numpy(queue[: len(self.rows)]))
        self.queues[bucket] = queue[len(self.rows) :]

    def sample(self) -> ParallelBatch:
        source, target = (getattr(self, f"{side}_{self.phase}")[self.rows] for side in ("source", "target"))
        return ParallelBatch(source, target, self.batch_clock)

    def get_extra_state(self) -> dict[str, Any]:
        """Counters, generators, and the rest of each bucket's epoch."""
        return super().get_extra_state() | {"queues": self.queues}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.queues = [np.asarray(queue).copy() for queue in state["queues"]]
