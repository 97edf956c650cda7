"""Speed beside other libraries: `make bench`, or `python benchmarks/run.py dqn_warm act --pairs 5`.

Both sides of a row take turns, A B A B, on one thread where nothing else is said. What counts is the ratio of their
times: its median, and a 95% bootstrap interval over the pairs. Each row is kept in docs/benchmarks, and
docs/benchmarks.md is written from there. Nothing else may run meanwhile.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from agentlib.core.host import global_generators_kept
from agentlib.metrics import bootstrap_interval
from agentlib.plots.report import provenance
from benchmarks.experiments import ROOT, commit
from benchmarks.paper_data import missing
from benchmarks.sizes import WORKS
from benchmarks.speed import FIRST, NEEDS, ROWS, measured

KEPT = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows; all of them by default")
    parser.add_argument("--pairs", type=int, help="how many, in place of each row's own number")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--list", action="store_true", help="name the rows")
    arguments = parser.parse_args()
    rows = {row.name: row for row in ROWS}
    if arguments.list:
        print("\n".join(f"{row.name}: {row.work}, against {row.against}" for row in ROWS))
        return 0
    unknown = [name for name in arguments.names if name not in rows]
    if unknown:
        print(f"no row called {', '.join(unknown)}; there are {', '.join(rows)}", file=sys.stderr)
        return 2
    KEPT.mkdir(exist_ok=True)
    for name in [] if arguments.page else arguments.names or rows:
        why = missing(NEEDS.get(name, ()))
        if why:
            print(f"{name} is skipped: {why}", flush=True)
            continue
        with global_generators_kept():
            times = measured(rows[name], arguments.pairs)
        (KEPT / f"{name}.json").write_text(
            json.dumps({"name": name, "times": times, "commit": commit(), **provenance()}, indent=1) + "\n"
        )
        print(line(rows[name], times), flush=True)
    PAGE.write_text(page())
    return 0


def line(row, times) -> str:
    """One line of the page's table."""
    ours, theirs = np.array(times["ours"]), np.array(times["theirs"])
    ratio = ours / theirs if row.inverse else theirs / ours
    low, high = bootstrap_interval(ratio, np.median)
    median = float(np.median(ratio))
    met = median <= row.floor if row.inverse else median >= row.floor
    goal = "" if row.goal is None else f", goal {row.goal:g}x"
    asked = f"{'at most ' if row.inverse else ''}{row.floor:g}x{goal}: {'met' if met else '**not met**'}"
    unit, factor = row.unit
    share = f"{np.median(np.array(times['limit']) / ours):.0%}" if "limit" in times else ""
    shown = [f"{np.median(side) * factor:,.3g} {unit}" for side in (ours, theirs)]
    interval = "" if len(ratio) == 1 else f" [{low:.1f}, {high:.1f}]"
    return f"| {row.work} | {row.against} | {shown[0]} | {shown[1]} | {median:.1f}x{interval} | {asked} | {share} |"


def returns(times) -> str:
    pairs = zip(times["our_return"], times["their_return"], strict=True)
    return ", ".join(f"{ours:.0f} and {theirs:.0f}" for ours, theirs in pairs)


def gpu_lines() -> list[str]:
    path = KEPT / "gpu.json"
    if not path.is_file():
        return ["Rows for a GPU: not measured; `python benchmarks/gpu.py` fills them in.", ""]
    found = json.loads(path.read_text())
    columns = "work | against | ours | theirs | ratio [95%] | asked"
    return [f"On {found['gpu']}:", "", f"| {columns} |", "|---|---|---|---|---|---|", *found["rows"].values(), ""]


def table(rows) -> list[str]:
    columns = "work | against | ours | theirs | ratio [95%] | asked | limit / ours"
    return [f"| {columns} |", "|---|---|---|---|---|---|---|", *(line(row, one["times"]) for row, one in rows), ""]


def sizes(found) -> list[str]:
    """The other sides of the rows of sizes, and the most memory that each process had."""
    if not found:
        return []
    sides = ("ours", "plain", "interpreted", "compiled", "peer")
    lines = [
        "The same updates with all sides, in ms, and the most memory of each process, in MB: ours compiled and "
        "interpreted, plain PyTorch, PyTorch with `torch.compile` on its networks, and the trainer that people use "
        "(Lightning 2.6.6 for the classifier, Hugging Face's of transformers 5.24.0 for the decision transformer):",
        "",
        "| work | ours | plain | interpreted | torch.compile | trainer |",
        "|---|---|---|---|---|---|",
    ]
    for name, times in found.items():
        cells = [
            f"{np.median(times['theirs' if side == 'plain' else side]) * 1e3:,.0f} "
            f"({np.median(times[f'{side}_bytes']) / 1e6:,.0f})"
            for side in sides
            if f"{side}_bytes" in times
        ]
        cells += [""] * (len(sides) - len(cells))
        lines.append(f"| {WORKS[name.removeprefix('size_')][1]} | {' | '.join(cells)} |")
    return [*lines, ""]


def memory(rows) -> list[str]:
    """The most memory of a process on each side, of the rows that `benchmarks/memory.py` knows."""
    if not (KEPT / "memory.json").is_file():
        return []
    found, sides = json.loads((KEPT / "memory.json").read_text())["bytes"], ("compiling", "ours", "theirs")
    lines = [
        "The most memory of a process on each side, in MB (`python benchmarks/memory.py`); each is alone in its "
        "process, and a compiler that it starts, or the peer's interpreter, counts where it is the larger one:",
        "",
        "| work | against | ours, compiling | ours | theirs |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.work} | {row.against} | " + " | ".join(f"{found[row.name][side] / 1e6:,.0f}" for side in sides) + " |"
        for row in rows
        if row.name in found
    ]
    return [*lines, ""]


def page() -> str:
    kept = {
        row: json.loads((KEPT / f"{row.name}.json").read_text())
        for row in ROWS
        if (KEPT / f"{row.name}.json").is_file()
    }
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` from the files in `docs/benchmarks`; `python benchmarks/run.py --list` names the "
        "rows. Absolute numbers move from machine to machine, the ratios less.",
        "",
        "Times are medians; the ratio is theirs over ours (of prioritized sampling, ours over theirs), pair by pair, "
        "its median and 95% interval. One thread where nothing else is said, both sides in turns; on Pong each side "
        "has a process of its own ([why](performance.md#images-the-nature-cnn-batches-of-32)). The limit is what "
        "cannot be avoided: the environment's steps, one forward for each action and the updates' matrix products, "
        "each measured alone in the same run.",
        "",
        "One update of a learner's `tiny()` has a network of mostly 16 units in a layer: it measures what Python costs "
        "around the arithmetic, not the arithmetic. The other side of these rows is no other library but our own "
        "learner, done eagerly with `backward()` and the fused Adam of `torch.optim`. Networks of the size that people "
        "train have rows of their own, from ResNet-18 on.",
        "",
        *table([(row, one) for row, one in kept.items() if row.name in FIRST]),
        "All others:",
        "",
        *table([(row, one) for row, one in kept.items() if row.name not in FIRST]),
        *sizes({row.name: one["times"] for row, one in kept.items() if row.name.startswith("size_")}),
        *memory(ROWS),
        *gpu_lines(),
        "How cost grows (`python benchmarks/growth.py`); a dashed line would be cost in proportion to size:",
        "",
        "![cost against batch size, width, buffer, environments and episodes](pictures/growth.svg)",
        "",
        "Mean returns of the last episodes of training, ours and theirs, pair by pair:",
        "",
        *(f"- {row.work}: {returns(one['times'])}" for row, one in kept.items() if "our_return" in one["times"]),
        "",
    ]
    for one in list(kept.values())[-1:]:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        lines += [f"Versions: {versions}; {one['machine']['cores']} cores.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
