"""Text as a row of tokens, and windows of it as batches. What is large stays on the disk, in a memory map."""

from __future__ import annotations

import codecs
import hashlib
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agentlib.core.names import close_matches, shown
from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.data.mapped import without_name
from agentlib.data.tokens import KINDS, BytePairs, Bytes, Characters, Tokenizer, Tokens, tokenizer_in

PIECE, LARGE = 1 << 24, 1 << 26
"""Bytes that are read at a time, and bytes of text from which on its tokens are kept in a file."""
HELD_OUT = 0.1
"""The share of a text, its end, that nothing is learned from."""
MARKOV = np.random.default_rng(0).dirichlet([0.3] * 8, 8)
"""Probabilities of the next of eight letters, by the present one, of the text "markov"."""


@dataclass(frozen=True, eq=False)
class Text:
    """A text as tokens.

    Raises:
        ValueError: there are no tokens, or one is not in the vocabulary.
    """

    tokens: Tokens
    """`(N,)` whole numbers, in memory or in a memory map."""
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        if not len(self.tokens):
            raise ValueError("the text is empty")
        pieces = [self.tokens[start : start + PIECE] for start in range(0, len(self), PIECE)]
        least, most = min(int(piece.min()) for piece in pieces), max(int(piece.max()) for piece in pieces)
        if least < 0 or most >= self.tokenizer.size:
            wrong = least if least < 0 else most
            raise ValueError(f"token {wrong} is none of the {self.tokenizer.size} tokens of the vocabulary")

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, share: float = HELD_OUT) -> tuple[Text, Text]:
        """The text, and its end, a share that is held out."""
        cut = len(self) - max(round(share * len(self)), 1)
        if cut < 1:
            raise ValueError("the text has one token: nothing can be held out")
        return Text(self.tokens[:cut], self.tokenizer), Text(self.tokens[cut:], self.tokenizer)

    def counts(self) -> Tokens:
        """How often each token is there, `(V,)` float64."""
        pieces = [self.tokens[start : start + PIECE] for start in range(0, len(self), PIECE)]
        size = self.tokenizer.size
        return sum((np.bincount(piece, minlength=size) for piece in pieces), np.zeros(size))

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and the tokens."""
        found = hashlib.sha256(self.tokenizer.digest.encode(), usedforsecurity=False)
        for start in range(0, len(self), PIECE):
            found.update(np.ascontiguousarray(self.tokens[start : start + PIECE]).data)
        return found.hexdigest()


def markov(n: int = 200_000, seed: int = 0) -> str:
    """Letters of which each depends on the one before, with an entropy rate of 1.424 nats.

    Args:
        n: number of letters.
        seed: of the letters; their probabilities are always `MARKOV`.
    """
    generator, edges, letter, found = np.random.default_rng(seed), MARKOV.cumsum(1), 0, np.empty(n, np.uint8)
    for place, number in enumerate(generator.random(n)):
        letter = found[place] = min(int(edges[letter].searchsorted(number)), 7)
    return (found + ord("a")).tobytes().decode()


def entropy_rate(transition: Any) -> float:
    """Nats per step of a Markov chain with these probabilities `(K, K)`, row by row."""
    p = np.asarray(transition, np.float64)
    values, vectors = np.linalg.eig(p.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary = stationary / stationary.sum()
    return float(-(stationary[:, None] * np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)).sum())


def python_library() -> str:
    """The library of the Python that runs, all of its modules but tests, as programs to learn from.

    Raises:
        FileNotFoundError: this Python has come without their sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(folder.rglob("*.py")) if not NO_PROGRAMS & {*file.relative_to(folder).parts}]
    if not files:
        raise FileNotFoundError(f"no sources of Python's library in {folder}")
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


NO_PROGRAMS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "encodings",
               "pydoc_data", "ensurepip"}  # fmt: skip
"""Folders of the library that are left out: tests, tables, and packages of others."""
TEXTS: dict[str, Callable[[], str]] = {"markov": markov, "python": python_library}
"""Texts by name; `agentlib list data` prints the first line of each docstring."""


def text_of(
    data: Any,
    tokenizer: str | Tokenizer = "characters",
    vocabulary_size: int = 4096,
    special: tuple[str, ...] = (),
) -> Text:
    """Any text as tokens.

    Args:
        data: a `Text`; a name of `TEXTS`; the path of a file, or of a folder, whose files are read in the order of
            their names; "hf:NAME", a data set of Hugging Face with a column `text`; or a list of documents.
        tokenizer: "characters", "bytes" or "bpe", whose vocabulary the text makes, that of "bpe" without its last
            tenth, which `Text.split` holds out; the file of a model or a tokenizer; or a tokenizer.
        vocabulary_size: tokens of "bpe".
        special: tokens that stand for no text, of a tokenizer that is made.

    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: the text is empty, is no UTF-8, or has characters that the tokenizer does not know.
        ImportError: an extra is needed; the message names it.
    """
    if isinstance(data, Text):
        return data
    if isinstance(tokenizer, str) and tokenizer not in KINDS:
        tokenizer = tokenizer_in(tokenizer)
    size, pieces = _pieces_of(data, as_bytes=tokenizer == "bytes" or isinstance(tokenizer, Bytes))
    if not size:
        raise ValueError("the text is empty")
    if isinstance(tokenizer, str):
        tokenizer = _tokenizer(tokenizer, pieces, vocabulary_size, special)
    is_path = isinstance(data, str | Path) and data not in TEXTS
    if isinstance(tokenizer, Bytes) and not tokenizer.special and size > LARGE and is_path and Path(data).is_file():
        return Text(np.memmap(data, np.uint8, "r"), tokenizer)

    def encoded() -> Iterator[Tokens]:
        for piece in pieces():
            if isinstance(piece, bytes):
                yield (np.frombuffer(piece, np.uint8) + np.int64(len(tokenizer.special))).astype(tokenizer.dtype)
            else:
                yield tokenizer.encode(piece)

    if size <= LARGE:
        return Text(np.concatenate(list(encoded())), tokenizer)
    with without_name() as file:
        for tokens in encoded():
            tokens.tofile(file)
        file.flush()
        return Text(np.memmap(file, tokenizer.dtype, "r"), tokenizer)


def _tokenizer(
    name: str, pieces: Callable[[], Iterator[Any]], vocabulary_size: int, special: tuple[str, ...]
) -> Tokenizer:
    if name == "bytes":
        return Bytes(special)
    if name == "bpe":
        learned = round((1.0 - HELD_OUT) * sum(map(len, pieces())))
        return BytePairs.trained(_beginning(pieces(), learned), vocabulary_size, special)
    characters = set[str]()
    for piece in pieces():  # one at a time is in memory
        characters.update(piece)
    return Characters(characters, special)


def _beginning(pieces: Iterator[str], characters: int) -> Iterator[str]:
    """Pieces up to a number of characters."""
    for piece in pieces:
        if characters <= 0:
            return
        yield piece[:characters]
        characters -= len(piece)


def _pieces_of(data: Any, as_bytes: bool) -> tuple[int, Callable[[], Iterator[Any]]]:
    """Bytes in the whole text, about, and a function that gives it piece by piece, as often as it is called."""
    if isinstance(data, str) and data in TEXTS:
        data = [TEXTS[data]()]
    elif isinstance(data, str) and data.startswith("hf:"):
        data = _from_hugging_face(data.removeprefix("hf:"))
    if isinstance(data, list) and all(isinstance(piece, str) for piece in data):
        joined = "\n".join(data)
        return len(joined), lambda: iter([joined.encode() if as_bytes else joined])
    if not isinstance(data, str | Path):
        raise ValueError(f"text is a path, a name ({', '.join(TEXTS)}), hf:NAME, a Text or a list of documents, "
                         f"not {type(data).__name__}")  # fmt: skip
    path = Path(data)
    hint = "" if "/" in str(data) or path.suffix else f"{close_matches(str(data), TEXTS)}; or give a path"
    try:
        is_there = path.exists()
    except OSError:  # longer than any name of a file
        is_there, hint = False, ": a text itself is given as a list of documents, [text]"
    if not is_there:
        raise FileNotFoundError(f"no text {shown(str(data))}{hint}")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files), lambda: _read(files, as_bytes)


def _read(files: list[Path], as_bytes: bool) -> Iterator[Any]:
    """The content of files, a new line between each and the next, as bytes or as text.

    Raises:
        ValueError: a file is no UTF-8; it says where.
    """
    for number, path in enumerate(files):
        if number:
            yield b"\n" if as_bytes else "\n"
        decoder, place, line = codecs.getincrementaldecoder("utf-8")(), 0, 1
        with open(path, "rb") as file:
            is_over = False
            while not is_over:
                piece = file.read(PIECE)
                is_over = not piece
                if as_bytes:
                    yield piece
                    continue
                waiting = decoder.getstate()[0]
                try:
                    yield decoder.decode(piece, final=is_over)
                except UnicodeDecodeError as error:
                    line += (waiting + piece)[: error.start].count(b"\n")
                    where = f"byte {place - len(waiting) + error.start}, line {line}"
                    raise ValueError(f"{path} is no UTF-8 at {where}: convert it, or give tokenizer='bytes'") from None
                place, line = place + len(piece), line + piece.count(b"\n")


def _from_hugging_face(name: str) -> list[str]:
    try:
        import datasets
    except ImportError:
        raise ImportError(f"hf:{name} needs datasets: pip install 'agentlib-rl[datasets]'") from None
    found = datasets.load_dataset(name, split="train")
    if "text" not in found.column_names:
        raise ValueError(f"hf:{name} has no column text; it has {', '.join(found.column_names)}")
    return list(found["text"])


class TextWindow(NamedTuple):
    """A batch of windows of a text."""

    tokens: Tensor
    """`(B, T + 1)` int64: T tokens, and those that follow each."""
    clock: Clock


class Windows(Source):
    """Windows of a text from places that are drawn at random.

    Args:
        text: the text; it stays where it is, and only windows go to a device.
        context: T, tokens that are read.
        batch_size: windows per batch.
        seed: of the places.

    Raises:
        ValueError: the text is not longer than a window.
    """

    tokens: Tensor

    def __init__(self, text: Text, context: int, batch_size: int, seed: int = 0) -> None:
        super().__init__(seed)
        if len(text) <= context:
            raise ValueError(
                f"the text has {len(text)} tokens to learn from, too few for a context_length of {context}: give more "
                "text, or a shorter one"
            )
        self.text, self.steps = text, np.arange(context + 1)
        self.register_buffer("tokens", torch.zeros(batch_size, context + 1, dtype=torch.int64))

    def fingerprint(self) -> str:
        return self.text.digest

    def advance(self) -> None:
        starts = self.generator.integers(len(self.text) - len(self.steps) + 1, size=len(self.tokens))
        windows = self.text.tokens[starts[:, None] + self.steps]  # (B, T + 1)
        self.tokens.copy_(torch.from_numpy(windows.astype(np.int64)))

    def sample(self) -> TextWindow:
        return TextWindow(self.tokens.clone(), self.batch_clock)
