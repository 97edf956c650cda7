"""Text as tokens: its vocabularies, where it comes from, and what is wrong with some."""

import weakref
from typing import Any

import numpy as np
import pytest

from agentlib.data import text as module
from agentlib.data.text import MARKOV, Text, Windows, entropy_rate, markov, text_of
from agentlib.data.tokens import BytePairs, Bytes, Characters, tokenizer_from_json, tokenizer_in

WORDS = "Änderung: 猫 sat on the mat.\nThe mat sat on the cat.\n" * 20


@pytest.mark.parametrize("special", [(), ("<pad>", "</s>")])
@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_text_comes_back(kind, special):
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    made = {
        "characters": lambda: Characters(WORDS, special),
        "bytes": lambda: Bytes(special),
        "bpe": lambda: BytePairs.trained([WORDS], 300, special),
    }
    tokenizer = made[kind]()
    tokens = tokenizer.encode(WORDS)
    assert tokens.min() >= len(special)
    assert tokens.max() < tokenizer.size == len(special) + tokenizer.text_size
    assert tokenizer.decode(tokens) == WORDS
    assert tokenizer.decode([*range(len(special)), *tokens[:8]]) == tokenizer.decode(tokens[:8])
    again = tokenizer_from_json(tokenizer.to_json())
    assert np.array_equal(again.encode(WORDS), tokens)
    assert again.digest == tokenizer.digest


def test_pairs_of_bytes_are_joined_by_how_often_they_are_there():
    """ "aaabdaaabac" (minbpe's test): aa, then aaa or ab, so that three merges leave five tokens."""
    pytest.importorskip("tokenizers")
    tokenizer = BytePairs.trained(["aaabdaaabac"], 259)
    assert tokenizer.size == 259
    assert len(tokenizer.encode("aaabdaaabac")) == 5
    assert len(tokenizer.encode("xyz")) == 3  # no text is unknown


def test_a_vocabulary_without_room_for_a_pair_is_refused():
    """Single bytes are 256; seen: a size of 160 silently gave texts byte by byte."""
    pytest.importorskip("tokenizers")
    for size, special in ((256, ()), (258, ("<a>", "<b>"))):
        with pytest.raises(ValueError, match=f"^{size} tokens leave no pair of bytes.*are {size}; give"):
            BytePairs.trained(["aaabdaaabac"], size, special)
        assert BytePairs.trained(["aaabdaaabac"], size + 1, special).size == size + 1


def test_pairs_of_bytes_are_learned_before_the_end_that_is_held_out(tmp_path):
    """The word of the last tenth is there often enough to be a token, had it been read."""
    pytest.importorskip("tokenizers")
    (tmp_path / "text").write_text("ab" * 450 + "yz" * 50)
    for data in (tmp_path / "text", ["ab" * 450 + "yz" * 50]):
        text = text_of(data, "bpe", 400)
        assert (len(text.tokenizer.encode("abab")), len(text.tokenizer.encode("yzyz"))) == (1, 4)


def test_a_vocabulary_is_that_of_a_file():
    with pytest.raises(ValueError, match="unknown tokenizer 'charcters'; close matches: characters"):
        tokenizer_in("charcters")
    with pytest.raises(ValueError, match="no token for 'z'"):
        Characters("abc").encode("abz")
    assert Characters("abc", ("<unk>",)).encode("abz").tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="described by its kind"):
        tokenizer_from_json({"kind": "words"})


@pytest.mark.slow  # its import takes seconds
def test_texts_are_columns_of_hugging_faces_data_sets(monkeypatch):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["first", "second"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: {"me/words": table}[name])
    assert text_of("hf:me/words", "bytes").tokens.tobytes() == b"first\nsecond"
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table.rename_column("text", "words"))
    with pytest.raises(ValueError, match="hf:me/words has no column text; it has words"):
        text_of("hf:me/words")


def test_texts_are_files_folders_and_documents(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    for data in (tmp_path, str(tmp_path), ["first", "second"]):
        text = text_of(data)
        assert text.tokenizer.decode(text.tokens) == "first\nsecond"
    train, held_out = text.split(0.25)
    assert (len(train), len(held_out)) == (9, 3)
    assert train.tokenizer is text.tokenizer
    assert text.digest == text_of(tmp_path).digest != train.digest


def test_a_large_text_is_in_a_memory_map(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 100)
    monkeypatch.setattr(module, "PIECE", 7)  # cuts characters of several bytes
    (tmp_path / "text").write_text(WORDS)
    for kind in ("characters", "bytes"):
        text = text_of(tmp_path / "text", kind)
        assert isinstance(text.tokens, np.memmap)
        assert text.tokenizer.decode(text.tokens) == WORDS
        source = Windows(text, 5, 4)
        source.advance()
        windows = [text.tokenizer.decode(row) for row in source.sample().tokens]
        assert kind == "bytes" or all(window in WORDS for window in windows)


def test_a_vocabulary_needs_one_piece_at_a_time(tmp_path, monkeypatch):
    class Piece(str):
        pass

    def pieces(files, as_bytes):
        before = list[Any]()
        for _ in range(4):
            assert sum(one() is not None for one in before) <= 1
            piece = Piece("ab" * 50)
            before.append(weakref.ref(piece))
            yield piece

    monkeypatch.setattr(module, "_read", pieces)
    (tmp_path / "text").write_text("ab")
    assert len(text_of(tmp_path / "text")) == 400


def test_many_documents_are_no_path(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 100)
    text = text_of([WORDS] * 2, "bytes")
    assert text.tokenizer.decode(text.tokens) == f"{WORDS}\n{WORDS}"


def test_a_saved_tokenizer_does_not_cut_a_text(tmp_path):
    """Those of models for sentences are saved with a length that they cut texts to, and fill them up to."""
    pytest.importorskip("tokenizers")
    whole = BytePairs.trained([WORDS], 300)
    whole.tokenizer.enable_truncation(5)
    whole.tokenizer.enable_padding(length=10_000)
    (tmp_path / "tokenizer.json").write_text(whole.tokenizer.to_str())
    tokenizer = tokenizer_in(str(tmp_path / "tokenizer.json"))
    tokens = tokenizer.encode(WORDS)
    assert tokenizer.decode(tokens) == WORDS
    assert len(tokens) < len(WORDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo\n\xff", "no UTF-8 at byte 8, line 3: convert it, or give tokenizer='bytes'"),
        (b"one\n\xe7\x8c", "no UTF-8 at byte 4, line 2"),
        (b"", "the text is empty"),
    ],
)
@pytest.mark.parametrize("piece", [3, 1 << 20])
def test_what_is_wrong_with_a_text(tmp_path, monkeypatch, content, message, piece):
    monkeypatch.setattr(module, "PIECE", piece)
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        text_of(tmp_path / "text")
    if content:
        assert text_of(tmp_path / "text", "bytes").tokens.tobytes() == content


def test_other_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no text 'markow'; close matches: markov"):
        text_of("markow")
    with pytest.raises(ValueError, match="text is a path, a name"):
        text_of(3)
    with pytest.raises(ValueError, match="token 9 is none of the 3 tokens"):
        Text(np.array([0, 9]), Characters("abc"))
    with pytest.raises(ValueError, match="token -1 is none of the 3 tokens"):
        Text(np.array([0, -1]), Characters("abc"))
    with pytest.raises(FileNotFoundError, match=r"no text .*: a text itself is given as a list of documents"):
        text_of("to be or not to be " * 500)
    with pytest.raises(ValueError, match="6 tokens to learn from, too few for a context_length of 6"):
        Windows(text_of(["abcdef"]), 6, 2)


def test_windows_are_stretches_of_the_text_and_reach_its_ends():
    text = text_of(["abcdefgh"])
    source, seen = Windows(text, 3, 16), set[str]()
    for _ in range(10):
        source.advance()
        seen |= {text.tokenizer.decode(row) for row in source.sample().tokens}
    assert seen == {"abcd", "bcde", "cdef", "defg", "efgh"}


def test_the_entropy_rate_of_a_chain():
    assert entropy_rate([[0.5, 0.5], [0.5, 0.5]]) == pytest.approx(np.log(2))
    p, q = 0.2, 0.4  # stationary (2/3, 1/3)
    entropies = [-(a * np.log(a) + (1 - a) * np.log(1 - a)) for a in (p, q)]
    assert entropy_rate([[1 - p, p], [q, 1 - q]]) == pytest.approx(2 / 3 * entropies[0] + 1 / 3 * entropies[1])
    letters = np.frombuffer(markov(20_000).encode(), np.uint8) - ord("a")
    likelihood = -np.log(MARKOV[letters[:-1], letters[1:]])
    assert likelihood.mean() == pytest.approx(entropy_rate(MARKOV), abs=0.02)
    assert f"{entropy_rate(MARKOV):.3f}" in (markov.__doc__ or "")
