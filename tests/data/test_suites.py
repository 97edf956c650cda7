"""Suites: rows as GLUE, ANLI and MMLU are published, answers of the made ones by hand, and what a run says of them."""

import json
from typing import Any

import pytest

from agentlib.core.recipe import Problem
from agentlib.data.parallel import parallel_parts
from agentlib.data.suites import MADE, OPTIONS, SUITES, suite_measures, write_suite
from agentlib.metrics.agreement import pearson
from agentlib.runs.plan import job_of

PUBLISHED = {
    "cola": ("", "gj04|1||Our friends.", ("cola sentence: Our friends.", "acceptable")),
    "sst2": ("sentence|label", "hide new secretions|0", ("sst2 sentence: hide new secretions", "negative")),
    "mrpc": (
        "\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String",
        '1|70|71|He "said" so .|So he said .',
        ('mrpc sentence1: He "said" so . sentence2: So he said .', "equivalent"),
    ),
    "qqp": (
        "id|qid1|qid2|question1|question2|is_duplicate",
        "1|2|3|Why?|Why not?|0",
        ("qqp question1: Why? question2: Why not?", "not_duplicate"),
    ),
    "stsb": (
        "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
        "0|m|f|2012|1|n|n|A plane.|An air plane.|4.750",
        ("stsb sentence1: A plane. sentence2: An air plane.", "4.8"),
    ),
    "qnli": ("index|question|sentence|label", "0|Who?|He.|entailment",
             ("qnli question: Who? sentence: He.", "entailment")),
    "rte": ("index|sentence1|sentence2|label", "0|A.|B.|not_entailment",
            ("rte sentence1: A. sentence2: B.", "not_entailment")),
}  # fmt: skip
"""The first line, a row and the pair that it is; | is a tab."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_of_glue(name, tmp_path):
    header, row, expected = PUBLISHED[name]
    text = "\n".join([header] * bool(header) + [row] * 20).replace("|", "\t") + "\n"
    for file in SUITES[name].files:
        (tmp_path / file).write_text(text, encoding="utf-8")
    parts = parallel_parts(f"{tmp_path}#{name}")
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [18, 2, 20]
    for part in parts:
        assert {*zip(part.source, part.target, strict=True)} == {expected}
        assert {*part.published} == ({"4.750"} if name == "stsb" else set())


def test_rows_of_anli_and_mmlu(tmp_path):
    row = {"uid": "1", "context": "It is so.", "hypothesis": "It is not.", "label": "c", "reason": ""}
    for file in ("train", "dev", "test"):
        (tmp_path / f"{file}.jsonl").write_text(json.dumps(row) + "\n")
    found = parallel_parts(f"{tmp_path}#anli")
    for part in (found.train, found.validation, found.test):
        assert (part.source, part.target) == (["anli context: It is so. hypothesis: It is not."], ["contradiction"])
    for folder in ("dev", "val", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"logic_{folder}.csv").write_text('"One,\nor two?",1,2,"both, or none",3,C\n')
    found = parallel_parts(f"{tmp_path}#mmlu")
    assert found.test.source == ["mmlu question: One,\nor two? A: 1 B: 2 C: both, or none D: 3"]
    assert found.test.target == ["C"]


@pytest.mark.parametrize("name", MADE)
def test_the_answers_of_made_questions_are_right(name, tmp_path):
    parts = parallel_parts(f"{write_suite(name, tmp_path, 200)}#{name}")
    assert len(set(parts.train.target)) > 1
    for source, answer in zip(parts.train.source, parts.train.target, strict=True):
        words = source.split()
        if name == "cola":
            subject, verb = words[3:5]
            assert (answer == "acceptable") == (subject.endswith("s") != verb.endswith("s"))
        elif name == "rte":
            pairs = {(words[2], words[6]), (words[8], words[12])}
            a, b = words[15], words[19]
            follows = any({(a, c), (c, b)} == pairs for c in ("tom", "ann", "bob", "eve", "jim"))
            assert (answer == "entailment") == follows
        elif name == "stsb":
            assert float(answer) == sum(one == other for one, other in zip(words[2:7], words[8:], strict=True))
        else:
            options = dict(zip(OPTIONS, words[8::2], strict=True))
            assert int(options[answer]) == int(words[2]) + int(words[4])


def test_the_numbers_of_a_suite():
    found, true = ["equivalent", "nonsense", "not_equivalent", "equivalent"], ["equivalent"] * 3 + ["not_equivalent"]
    of_mrpc = {one.name: (one.value, one.reference) for one in suite_measures("mrpc", found, true, true)}
    assert of_mrpc == {"test/accuracy": (0.25, 0.75), "test/f1": (pytest.approx(2 / 5), pytest.approx(6 / 7))}
    for one in suite_measures("stsb", ["1.0", "no number", "4.0"], ["1.0", "0.0", "4.0"], ["5.0"]):
        assert one.value == pytest.approx(1.0)
        assert one.reference == 0.0


def test_a_run_ends_with_them(tmp_path):
    data = f"{write_suite('rte', tmp_path, 40)}#rte"
    sizes: Any = {"embed_dim": 8, "n_layers": 1, "n_heads": 1, "max_length": 128, "batch_size": 4}
    job = job_of("seq2seq", Problem(data=data, steps=1, device="cpu"), **sizes)
    measures = {measure.name: measure for measure in job.judge.finish()}
    assert measures["test/accuracy"].whose == "always the most frequent answer"
    assert measures["test/accuracy"].value == measures["test/exact"].value == 0.0  # it writes letters at random


def test_scores_are_learned_rounded_and_judged_as_published(tmp_path, monkeypatch):
    """Of 1.0 and 1.07, both "1.0", the order is known to the judge."""
    folder = write_suite("stsb", tmp_path, 40)
    head, *rows = (folder / "dev.tsv").read_text().splitlines()
    scores = [1.0, 1.07, 3.0, 3.08]
    lines = ["\t".join([*row.split("\t")[:-1], f"{score}"]) for row, score in zip(rows, scores, strict=False)]
    (folder / "dev.tsv").write_text("\n".join([head, *lines]) + "\n")
    sizes: Any = {"embed_dim": 8, "n_layers": 1, "n_heads": 1, "max_length": 128, "batch_size": 4}
    job: Any = job_of("seq2seq", Problem(data=f"{folder}#stsb", steps=1, device="cpu"), **sizes)
    assert job.judge.parts.test.target == ["1.0", "1.0", "3.0", "3.0"]
    found = ["1.0", "2.0", "4.0", "5.0"]

    def translate(source, length):
        assert length == 4  # no answer has more than three characters and its end
        return found

    monkeypatch.setattr(job.product, "translate", translate)
    measures = {measure.name: measure.value for measure in job.judge.finish()}
    assert measures["test/spearman"] == pytest.approx(1.0)
    assert measures["test/pearson"] == pytest.approx(pearson([float(one) for one in found], scores))


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*train.tsv"):
        parallel_parts(f"{tmp_path}#rte")
    for label, message in (("maybe", "line 2: the label is 'maybe', and not entailment or"), ("2", "the label is '2'")):
        (tmp_path / "train.tsv").write_text(f"index\tsentence1\tsentence2\tlabel\n0\tA\tB\t{label}\n")
        with pytest.raises(ValueError, match=message):
            parallel_parts(f"{tmp_path}#rte")
    (tmp_path / "train.tsv").write_text("index\tsentence1\tlabel\n0\tA\tentailment\n")
    with pytest.raises(ValueError, match="line 2: there is no 'sentence2', which rte has"):
        parallel_parts(f"{tmp_path}#rte")
    (tmp_path / "train.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match="line 1: this is no JSON object"):
        parallel_parts(f"{tmp_path}#anli")
    with pytest.raises(FileNotFoundError, match=r"no .csv files"):
        parallel_parts(f"{tmp_path}#mmlu")
    with pytest.raises(ValueError, match="questions are made for cola, rte, stsb, mmlu, not for 'qqp'"):
        write_suite("qqp", tmp_path)
