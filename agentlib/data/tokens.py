"""From text to numbers and back: characters, bytes, pairs of bytes that were joined (Sennrich et al. 2016), or words.

A tokenizer is saved with the model as JSON. Tokens such as `</s>`, which stand for no text, come first in a vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentlib.backbones.files import read
from agentlib.core.names import close_matches, shown

Tokens = NDArray[Any]
"""`(N,)` whole numbers."""
UNKNOWN = "<unk>"
"""The special token of what has none; a vocabulary without it refuses such text."""
WORD = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")
"""A word or a mark, with the space before it; a text is its words one after another."""


class Tokenizer(ABC):
    """A vocabulary: `special` tokens, then those of text."""

    kind: str
    special: tuple[str, ...]
    text_size: int
    """Tokens that stand for text."""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.special) + self.text_size

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest type that holds all tokens."""
        return np.uint8 if self.size <= 1 << 8 else np.uint16 if self.size <= 1 << 16 else np.uint32

    def encode(self, text: str) -> Tokens:
        """The tokens `(N,)` of a text.

        Raises:
            ValueError: a part of the text has no token.
        """
        found = self._encode(text) + len(self.special)
        if UNKNOWN in self.special:
            return np.where(found < len(self.special), self.special.index(UNKNOWN), found).astype(self.dtype)
        if len(found) and found.min() < len(self.special):
            character = text[int(found.argmin())]
            raise ValueError(f"the model has no token for {character!r}, which was not in the text that it learned")
        return found.astype(self.dtype)

    def decode(self, tokens: Any) -> str:
        """The text of tokens `(N,)`, without special ones."""
        numbers = np.asarray(tokens, np.int64) - len(self.special)
        return self._decode(numbers[numbers >= 0])

    @abstractmethod
    def _encode(self, text: str) -> NDArray[np.int64]:
        """Numbers from 0, or -1 for a character that has none."""

    @abstractmethod
    def _decode(self, numbers: NDArray[np.int64]) -> str: ...

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What `tokenizer_from_json` takes."""

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode(), usedforsecurity=False).hexdigest()


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8: no text is unknown to it."""

    kind, text_size = "bytes", 256

    def __init__(self, special: Sequence[str] = ()) -> None:
        self.special = tuple(special)

    def _encode(self, text: str) -> NDArray[np.int64]:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def _decode(self, numbers: NDArray[np.int64]) -> str:
        return numbers.astype(np.uint8).tobytes().decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "special": list(self.special)}


class Characters(Tokenizer):
    """The characters that a text has, in the order of Unicode."""

    kind = "characters"

    def __init__(self, characters: Iterable[str], special: Sequence[str] = ()) -> None:
        self.characters = "".join(sorted(set(characters)))
        if not self.characters:
            raise ValueError("a vocabulary needs at least one character, and the text is empty")
        self.codes, self.special, self.text_size = _codes(self.characters), tuple(special), len(self.characters)

    def _encode(self, text: str) -> NDArray[np.int64]:
        codes = _codes(text)
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return np.where(self.codes[places] == codes, places, -1 - len(self.special)).astype(np.int64)

    def _decode(self, numbers: NDArray[np.int64]) -> str:
        return "".join(self.characters[number] for number in numbers)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "special": list(self.special), "characters": self.characters}


class BytePairs(Tokenizer):
    """Byte-pair encoding by Hugging Face's `tokenizers`; no text is unknown to it.

    Args:
        saved: the JSON that `tokenizers` writes.

    Raises:
        ImportError: `tokenizers` is absent; the message names the extra.
        ValueError: it is no such JSON.
    """

    kind = "bpe"

    def __init__(self, saved: str, special: Sequence[str] = ()) -> None:
        self.saved, self.special = saved, tuple(special)
        try:
            self.tokenizer = _tokenizers().Tokenizer.from_str(saved)
        except ImportError:
            raise
        except Exception as error:  # of its own kind
            raise ValueError(f"this is no tokenizer of the package tokenizers: {error}") from None
        self.tokenizer.no_truncation()  # a saved one may cut or fill texts to some length
        self.tokenizer.no_padding()
        self.text_size = self.tokenizer.get_vocab_size()

    @classmethod
    def trained(cls, pieces: Iterable[str], size: int, special: Sequence[str] = ()) -> BytePairs:
        """Merges of bytes, as GPT-2 has them, until there are `size` tokens, the special ones among them.

        Raises:
            ValueError: that leaves no pair: the bytes and the special tokens alone are as many.
        """
        package, alone = _tokenizers(), 256 + len(special)
        if size <= alone:
            raise ValueError(
                f"{size} tokens leave no pair of bytes: single bytes and special tokens are {alone}; give a "
                'vocabulary_size above that, or tokenizer="bytes"'
            )
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        alphabet = package.pre_tokenizers.ByteLevel.alphabet()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size - len(special), initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(pieces, trainer)
        return cls(tokenizer.to_str(), special)

    def _encode(self, text: str) -> NDArray[np.int64]:
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def _decode(self, numbers: NDArray[np.int64]) -> str:
        return str(self.tokenizer.decode(numbers.tolist(), skip_special_tokens=False))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "special": list(self.special), "saved": self.saved}


class Words(Tokenizer):
    """Words and marks, each with the space before it; a word that is none of them becomes `<unk>`.

    Raises:
        ValueError: no words, or `special` without `<unk>`.
    """

    kind = "words"

    def __init__(self, words: Iterable[str], special: Sequence[str]) -> None:
        self.words, self.special = sorted(set(words)), tuple(special)
        if not self.words or UNKNOWN not in self.special:
            raise ValueError(f"a vocabulary of words has at least one word, and {UNKNOWN} among its special tokens")
        self.numbers, self.text_size = {word: number for number, word in enumerate(self.words)}, len(self.words)

    @classmethod
    def of(cls, texts: Iterable[str], special: Sequence[str]) -> Words:
        """The words of texts."""
        return cls({word for text in texts for word in WORD.findall(text)}, special)

    def _encode(self, text: str) -> NDArray[np.int64]:
        return np.array([self.numbers.get(word, -1 - len(self.special)) for word in WORD.findall(text)], np.int64)

    def _decode(self, numbers: NDArray[np.int64]) -> str:
        return "".join(self.words[number] for number in numbers)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "special": list(self.special), "words": self.words}


KINDS = ("characters", "bytes", "bpe")


def tokenizer_from_json(saved: Any) -> Tokenizer:
    """The tokenizer that `to_json` described.

    Raises:
        ValueError: it is none.
        ImportError: it needs `tokenizers`; the message names the extra.
    """
    try:
        kind, special = saved["kind"], tuple(map(str, saved["special"]))
        if kind == "bytes":
            return Bytes(special)
        if kind == "characters":
            return Characters(str(saved["characters"]), special)
        if kind == "bpe":
            return BytePairs(str(saved["saved"]), special)
        if kind == "words":
            return Words(map(str, saved["words"]), special)
    except (KeyError, TypeError):
        pass
    raise ValueError(f"a tokenizer is described by its kind ({', '.join(KINDS)}) and vocabulary, not by {shown(saved)}")


def tokenizer_in(path: str) -> Tokenizer:
    """The tokenizer of a trained model (its file, or the folder of its run), or in a file of `tokenizers` (.json).

    Raises:
        ValueError: there is none; the message has the kinds that can be asked for by name.
    """
    place = Path(path, "model.safetensors") if Path(path).is_dir() else Path(path)
    if not place.is_file():
        known = f"{close_matches(path, KINDS)}; or give the file of a tokenizer or of a model"
        raise ValueError(f"unknown tokenizer {shown(path)}{known}")
    if place.suffix == ".json":
        return BytePairs(place.read_text(encoding="utf-8"))
    description, _ = read(place, "agentlib model", 1)
    try:
        return tokenizer_from_json(description["model"]["arguments"]["tokenizer"])
    except (KeyError, TypeError):
        raise ValueError(f"{place} is a model without a tokenizer") from None


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise ImportError("byte-pair encoding needs tokenizers: pip install 'agentlib-rl[text]'") from None
    return tokenizers
