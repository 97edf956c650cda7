"""Suites of questions about texts, read as GLUE, ANLI and MMLU are published, as pairs of texts for `seq2seq`.

    source      rte sentence1: tom is taller than ann . sentence2: ann is taller than tom .
    target      not_entailment

(Wang et al. 2018, arXiv:1804.07461; Nie et al. 2020, arXiv:1910.14599; Hendrycks et al. 2021, arXiv:2009.03300; as text
to text by Raffel et al. 2020, arXiv:1910.10683, appendix D). Where the labels of the test part are not published, as in
GLUE, the development part is the test, and a tenth of the training part is to choose by. A score is learned as a
multiple of 0.2, of which there are 26 texts, and judged by the score as it was published. `write_suite` makes files of
these formats from small grammars, of which every answer is known.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agentlib.core.names import shown
from agentlib.core.recipe import Measure
from agentlib.data.parallel import READERS, ParallelParts, ParallelText, lines_of
from agentlib.metrics.agreement import accuracy, f1, matthews, pearson, spearman


class Suite(NamedTuple):
    """The format of one set of questions."""

    columns: tuple[str, ...]
    """Names of the columns with texts, in the first line of a .tsv, or in the objects of a .jsonl."""
    label: str
    """That of the label."""
    answers: tuple[str, ...]
    """The words for labels 0, 1, ...; none for numbers."""
    metrics: tuple[str, ...] = ("accuracy",)
    files: tuple[str, ...] = ("train.tsv", "dev.tsv")
    """Training and test part, or training, validation and test part."""
    header: tuple[str, ...] = ()
    """Names of the columns of a file that does not begin with them."""


ENTAILMENT = ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
SENTENCES = ("sentence1", "sentence2")
OPTIONS = ("A", "B", "C", "D")
SUITES = {
    "cola": Suite(
        ("sentence",), "label", ("unacceptable", "acceptable"), ("matthews",),
        header=("source", "label", "mark", "sentence"),
    ),
    "sst2": Suite(("sentence",), "label", ("negative", "positive")),
    "mrpc": Suite(("#1 String", "#2 String"), "Quality", ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "qqp": Suite(("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "stsb": Suite(SENTENCES, "score", (), ("pearson", "spearman")),
    "mnli": Suite(SENTENCES, "gold_label", THREE, files=("train.tsv", "dev_matched.tsv")),
    "qnli": Suite(("question", "sentence"), "label", ENTAILMENT),
    "rte": Suite(SENTENCES, "label", ENTAILMENT),
    "wnli": Suite(SENTENCES, "label", ("different", "same")),
    "anli": Suite(("context", "hypothesis"), "label", THREE, files=("train.jsonl", "dev.jsonl", "test.jsonl")),
    "mmlu": Suite(
        ("question", *OPTIONS), "answer", OPTIONS, files=("dev", "val", "test"), header=("question", *OPTIONS, "answer")
    ),
}  # fmt: skip
"""By the name behind "#" in `data="FOLDER#rte"`."""


def suite_parts(name: str, folder: Path, seed: int = 0) -> ParallelParts:
    """A suite from the folder with its files; of MMLU, which has folders of them, all subjects.

    Raises:
        FileNotFoundError: a file is not there; the message names it.
        ValueError: a column or a label is missing or unknown; the message says in which line.
    """
    suite = SUITES[name]
    train, *middle, test = (_pairs_of(name, suite, folder / file) for file in suite.files)
    if middle:
        return ParallelParts(train, middle[0], test)
    order = np.random.default_rng([seed, 2]).permutation(len(train))
    cut = max(len(train) // 10, 1)
    if cut == len(train):
        raise ValueError(f"{folder} has one question to learn from, and none to choose by: give more")
    return ParallelParts(train.take(sorted(order[cut:])), train.take(sorted(order[:cut])), test)


def _pairs_of(name: str, suite: Suite, path: Path) -> ParallelText:
    rows = _csv_rows(path) if name == "mmlu" else _rows(suite, path)
    sources, targets, published = list[str](), list[str](), list[str]()
    for place, row in rows:
        missing = [column for column in (*suite.columns, suite.label) if not isinstance(row.get(column), str | int)]
        if missing and name == "qqp":
            continue  # a few rows of the published file break off
        if missing:
            raise ValueError(f"{place}: there is no {missing[0]!r}, which {name} has")
        label = str(row[suite.label])
        by_letter = {answer[0]: answer for answer in suite.answers}  # of ANLI
        answer = label if label in suite.answers else by_letter.get(label) if suite.files[0] == "train.jsonl" else None
        if answer is None and suite.answers and label.isdigit() and int(label) < len(suite.answers):
            answer = suite.answers[int(label)]
        if not suite.answers:
            answer = f"{round(5.0 * float(label)) / 5.0:.1f}" if _is_number(label) else None
        if answer is None:
            known = " or ".join(suite.answers) or "a number"
            raise ValueError(f"{place}: the label is {shown(label)}, and not {known}")
        texts = (f"{column.replace('#', 'sentence').split(' ')[0]}: {row[column]}" for column in suite.columns)
        sources.append(" ".join([name, *texts]))
        targets.append(answer)
        published += [label] * (not suite.answers)
    return ParallelText(sources, targets, name, published)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _rows(suite: Suite, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .tsv, whose quotation marks are text, or of a .jsonl, and where each is."""
    lines, header = lines_of(path), suite.header
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{place}: this is no JSON object")
            yield place, row
        elif not header:
            header = tuple(line.split("\t"))
        else:
            yield place, dict(zip(header, line.split("\t"), strict=False))


def _csv_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of all .csv files of a folder, in the order of their names."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"no .csv files in {folder}")
    for file in files:
        lines = (f"{line}\n" for line in lines_of(file))  # a question may have several
        for number, cells in enumerate(csv.reader(lines), 1):
            yield f"{file}, row {number}", dict(zip(SUITES["mmlu"].header, cells, strict=False))


def suite_measures(name: str, found: Sequence[str], true: Sequence[str], train: Sequence[str]) -> list[Measure]:
    """The numbers of a suite, each beside that of the most frequent answer of the training part.

    Args:
        name: of the suite.
        found: answers, of which those that are none count as wrong, or as 0.
        true: the true ones.
        train: those of the training part.
    """
    suite, measures = SUITES[name], list[Measure]()
    always = [Counter(train).most_common(1)[0][0]] * len(true)
    for metric in suite.metrics:
        values = []
        for answers in (found, always):
            if suite.answers:
                more = {"positive": suite.answers[1]} if metric == "f1" else {}
                values.append(_BY_WORDS[metric](answers, true, **more))
            else:
                numbers = [float(answer) if _is_number(answer) else 0.0 for answer in answers]
                values.append(_BY_NUMBERS[metric](numbers, [float(answer) for answer in true]))
        measures.append(Measure(f"test/{metric}", values[0], values[1], "always the most frequent answer"))
    return measures


_BY_WORDS: dict[str, Callable[..., float]] = {"accuracy": accuracy, "f1": f1, "matthews": matthews}
_BY_NUMBERS: dict[str, Callable[..., float]] = {"pearson": pearson, "spearman": spearman}

# Files of these formats, made from small grammars --------------------------------------------------------------------

NAMES, NOUNS, VERBS = ("tom", "ann", "bob", "eve", "jim"), ("cat", "dog", "bird", "fox"), ("see", "like", "hear")


def _acceptable(generator: Any) -> tuple[list[str], str]:
    """A subject in the singular or the plural, and a verb that agrees with it, or does not."""
    one, other = generator.choice(NOUNS, 2)
    is_plural, is_right = generator.integers(2, size=2)
    ending = "s" if is_plural != is_right else ""
    return [f"the {one}{'s' * is_plural} {generator.choice(VERBS)}{ending} the {other} ."], str(is_right)


def _entailed(generator: Any) -> tuple[list[str], str]:
    """Two comparisons, and a third one, which follows, or whose inverse does."""
    a, b, c = generator.permutation(NAMES)[:3]
    facts = generator.permutation([f"{a} is taller than {b}", f"{b} is taller than {c}"])
    is_true = generator.integers(2)
    tall, short = (a, c) if is_true else (c, a)
    return [f"{facts[0]} and {facts[1]} .", f"{tall} is taller than {short} ."], ENTAILMENT[1 - is_true]


def _alike(generator: Any) -> tuple[list[str], str]:
    """Five words, of which as many as the score says are in both sentences, in the same places."""
    words, others = (generator.choice([*NAMES, *NOUNS, *VERBS], 5) for _ in range(2))
    score = int(generator.integers(6))
    kept = generator.permutation(5)[:score]
    others = [word if place in kept else "x" for place, word in enumerate(others)]
    words = [others[place] if place in kept else word for place, word in enumerate(words)]
    return [" ".join(words), " ".join(others)], f"{score:.1f}"


def _sum(generator: Any) -> tuple[list[str], str]:
    """A sum of two digits, and four options."""
    a, b = generator.integers(10, size=2)
    options = generator.permutation([a + b, *generator.permutation([n for n in range(19) if n != a + b])[:3]])
    return [f"{a} + {b} = ?", *map(str, options)], OPTIONS[list(options).index(a + b)]


MADE = {"cola": _acceptable, "rte": _entailed, "stsb": _alike, "mmlu": _sum}


def write_suite(name: str, folder: str | Path, n: int = 2_000, seed: int = 0) -> Path:
    """Writes made questions in the format of "cola", "rte", "stsb" or "mmlu": n to learn from, a fifth to judge by.

    Raises:
        ValueError: none are made for this suite.
    """
    if name not in MADE:
        raise ValueError(f"questions are made for {', '.join(MADE)}, not for {shown(name)}")
    suite, folder, generator = SUITES[name], Path(folder), np.random.default_rng(seed)
    columns = suite.header or ("index", *suite.columns, suite.label)
    for number, file in enumerate(suite.files):
        path = folder / file / "made.csv" if name == "mmlu" else folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as opened:
            how: Any = {} if name == "mmlu" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            table = csv.writer(opened, lineterminator="\n", **how)
            if not suite.header:
                table.writerow(columns)
            for _ in range(n if number == 0 else max(n // 5, 1)):
                texts, label = MADE[name](generator)
                row = dict(zip(suite.columns, texts, strict=True)) | {suite.label: label}
                table.writerow([row.get(column, "-") for column in columns])
    return folder


READERS |= {name: partial(suite_parts, name) for name in SUITES}
