"""Pairs of texts: the forms in which they come, batches in a few shapes, and what is wrong with some."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from agentlib.core.source import Source
from agentlib.data import ParallelText, parallel_parts, parallel_text
from agentlib.data.parallel import END, PAD, SPECIAL, START, ParallelBatches, reversal
from agentlib.data.tokens import Characters

ENGLISH, GERMAN = ["a cat", "two dogs", "a man", "süß", ""], ["eine Katze", "zwei Hunde", "ein Mann", "sweet", "x"]


def write(folder, name="train", english=ENGLISH, german=GERMAN):
    for language, lines in (("en", english), ("de", german)):
        (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_pairs_are_files_in_three_forms(tmp_path):
    write(tmp_path)
    rows = list(zip(ENGLISH, GERMAN, strict=True))
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    objects = [{"source": a, "target": b, "translation": {"en": a, "de": b}} for a, b in rows]
    (tmp_path / "hub.jsonl").write_text("\n".join(map(json.dumps, objects)))
    plain = [{"source": a, "target": b} for a, b in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, plain)))
    forms = [rows, f"{tmp_path}/train#en-de", f"{tmp_path}/pairs.tsv", f"{tmp_path}/hub.jsonl#en-de"]
    for data in [*forms, f"{tmp_path}/pairs.jsonl"]:
        found = parallel_text(data)
        assert (list(found.source), list(found.target)) == (ENGLISH, GERMAN), data
        assert found.digest == parallel_text(rows).digest
    backwards = parallel_text(f"{tmp_path}/train#de-en")
    assert list(backwards.source) == GERMAN
    assert backwards.digest != parallel_text(rows).digest


def test_marks_of_the_byte_order_are_no_text_and_empty_files_no_pairs(tmp_path):
    for language in ("en", "de"):
        (tmp_path / f"marked.{language}").write_bytes(b"\xef\xbb\xbfa\r\n\nb\n")
        (tmp_path / f"empty.{language}").write_bytes(b"")
    assert list(parallel_text(f"{tmp_path}/marked#en-de").source) == ["a", "", "b"]
    (tmp_path / "empty.tsv").write_bytes(b"")
    for data in (f"{tmp_path}/empty#en-de", f"{tmp_path}/empty.tsv"):
        with pytest.raises(ValueError, match="there are no pairs of texts"):
            parallel_text(data)


def test_a_folder_has_its_parts(tmp_path):
    for name, n in (("train", 3), ("val", 1), ("test", 2)):
        write(tmp_path, name, ENGLISH[:n], GERMAN[:n])
    assert [len(part) for part in parallel_parts(f"{tmp_path}#en-de")] == [3, 1, 2]
    (tmp_path / "val.en").unlink()
    (tmp_path / "val.de").unlink()
    with pytest.raises(ValueError, match=r"no file validation\.\* or valid\.\* or val\.\* or dev\.\*"):
        parallel_parts(f"{tmp_path}#en-de")


def test_parts_are_random_and_share_nothing():
    parts = parallel_parts("reversal", seed=1)
    assert [len(part) for part in parts] == [2400, 300, 300]
    again, other = parallel_parts("reversal", seed=1), parallel_parts("reversal", seed=2)
    assert parts.test.digest == again.test.digest != other.test.digest
    everything = sorted(word for part in parts for word in part.source)
    assert everything == sorted(reversal().source)
    assert len(set(everything)) == 3_000
    with pytest.raises(ValueError, match="2 pairs of texts are too few"):
        parallel_parts([("a", "b")] * 2)


def test_some_of_the_pairs_are_random_ones():
    data = reversal(50)
    some = data.sampled(20)
    places = [data.source.index(word) for word in some.source]
    assert len(set(places)) == 20
    assert places == sorted(places) != list(range(20))
    assert some.digest == data.sampled(20).digest
    assert data.sampled(50) is data


def test_what_is_wrong_says_in_which_line(tmp_path):
    write(tmp_path, german=GERMAN[:3])
    with pytest.raises(ValueError, match=r"train.en has 5 lines and .*train.de 3: line 4 of .*train.en has no other"):
        parallel_text(f"{tmp_path}/train#en-de")
    with pytest.raises(ValueError, match="5 sources and 3 targets: source 4 has no other side"):
        ParallelText(ENGLISH, GERMAN[:3])
    (tmp_path / "pairs.tsv").write_text("a\tb\nc\n")
    with pytest.raises(ValueError, match=r"pairs.tsv, line 2: there is no tab"):
        parallel_text(tmp_path / "pairs.tsv")
    for line in ('{"source": "a"}', "[", '"text"', '{"source": "a", "target": 3}', "[" * 100_000, "3"):
        (tmp_path / "pairs.jsonl").write_text('{"source": "a", "target": "b"}\n' + line)
        with pytest.raises(ValueError, match=r"pairs.jsonl, line 2: this is no JSON object with texts under 'source'"):
            parallel_text(tmp_path / "pairs.jsonl")
    (tmp_path / "train.de").write_bytes(b"gut\ns\xfc\xdf\n")
    with pytest.raises(ValueError, match=r"train.de is no UTF-8 at byte 1 of line 2"):
        parallel_text(f"{tmp_path}/train#en-de")
    with pytest.raises(FileNotFoundError, match=r"no file .*train.fr"):
        parallel_text(f"{tmp_path}/train#en-fr")
    with pytest.raises(ValueError, match="such as train#en-de"):
        parallel_text(f"{tmp_path}/train#english")
    with pytest.raises(FileNotFoundError, match="no pairs of texts 'revers'; close matches: reversal; or give"):
        parallel_text("revers")
    for data in ([], [("a", 3)], 3, [("a", "b", "c")]):
        with pytest.raises(ValueError, match="pairs of texts"):
            parallel_text(data)


def test_batches_have_few_shapes_and_each_pair_comes_once_in_an_epoch():
    data = reversal(160)
    tokenizer = Characters("abcdefghij", SPECIAL)
    source = ParallelBatches(data, tokenizer, 4, 64, seed=3)
    assert isinstance(source, Source)
    seen, shapes = list[str](), dict[Any, tuple[int, ...]]()
    for _ in range(400):
        source.advance()
        batch = source.sample()
        shape = (*batch.source.shape, *batch.target.shape)
        assert shapes.setdefault(source.phase, shape) == shape
        assert batch.target[:, 0].eq(START).all()
        for ours, theirs in zip(batch.source, batch.target, strict=True):
            assert (ours == END).sum() == (theirs == END).sum() == 1
            word = tokenizer.decode(ours)
            assert tokenizer.decode(theirs) == word[::-1]
            assert ours[len(word)] == END
            assert ours[len(word) + 1 :].eq(PAD).all()
            seen.append(word)
    assert len(shapes) == len(set(shapes.values())) <= 8
    counts = np.unique(np.array([seen.count(word) for word in set(seen)]))
    assert set(seen) == set(data.source)
    assert counts.min() >= 6  # 10 epochs, more or less by the draws of the buckets
    again = ParallelBatches(data, tokenizer, 4, 64, seed=3)
    again.load_state_dict(source.state_dict())
    source.advance()
    again.advance()
    assert torch.equal(source.sample().source, again.sample().source)
    with pytest.raises(ValueError, match=r"pair \d+ has 13 tokens on a side, more than max_length=12"):
        ParallelBatches(data, tokenizer, 4, 12)
