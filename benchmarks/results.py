"""Measures what docs/results.md claims, writes that page and draws the documents' pictures: `make results`.

See benchmarks/evidence/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from agentlib.shell.memory import keep_memory
from benchmarks.experiments import RESULTS, ROOT, experiments, keep, load, noted, origin
from benchmarks.paper_data import missing
from benchmarks.pictures import draw
from benchmarks.results_page import page, seconds_of_a_seed

PAGE = ROOT / "docs" / "results.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="experiments; all of them by default")
    parser.add_argument("--seeds", type=int, help="how many, in place of each experiment's own number")
    parser.add_argument("--jobs", type=int, default=1, help="seeds measured side by side")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--page", action="store_true", help="only judge what was measured, write the page and draw")
    parser.add_argument("--list", action="store_true", help="name the experiments")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_memory()
    found = experiments()
    if arguments.one:
        name, seed = arguments.one
        numbers = {key: float(value) for key, value in found[name].measure(int(seed)).items()}
        print(json.dumps([numbers, time.process_time()]))
        return 0
    if arguments.list:
        print("\n".join(planned(one) for one in found.values()))
        return 0
    unknown = [name for name in arguments.names if name not in found]
    if unknown:
        print(f"no experiment called {', '.join(unknown)}; there are {', '.join(found)}", file=sys.stderr)
        return 2
    for name in arguments.names or list(found):
        why = missing(found[name].files)
        if arguments.page:
            if (RESULTS / f"{name}.json").is_file():
                known = load(name)
                keep(found[name], known["seeds"], known["measured"])
        elif why:
            print(f"{name} is skipped: {why}", flush=True)
        else:
            measure(found[name], arguments.seeds or found[name].seeds, arguments.jobs, arguments.fresh)
    PAGE.write_text(page(found))
    draw()
    return 0


def planned(experiment) -> str:
    """A line of `--list`: on what it is measured, and the minutes of one core that remain, as far as they are known."""
    kept = load(experiment.name)
    left, seconds = experiment.seeds - len(kept["seeds"]), seconds_of_a_seed(kept)
    time = f" (about {left * seconds / 60:.0f} minutes)" if seconds and left > 0 else ""
    return f"{experiment.name}: {experiment.data}; {experiment.seeds} seeds, {max(0, left)} left{time}"


def measure(experiment, seeds: int, jobs: int, fresh: bool) -> None:
    """Measures the seeds that are not measured yet, each in a process of its own, and keeps each at once."""
    found = {"seeds": {}, "measured": []} if fresh else load(experiment.name)
    known, measured = found["seeds"], found["measured"]
    names = [str(experiment.first_seed + index) for index in range(seeds)]
    missing = [seed for seed in names if seed not in known]
    if missing:
        print(f"{planned(experiment)}", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for seed, done in zip(missing, pool.map(lambda seed: one(experiment.name, seed), missing), strict=True):
            known[seed], seconds, of = done
            noted(measured, seed, of, seconds)
            keep(experiment, known, measured)
            print(f"{experiment.name}, seed {seed}: {known[seed]}, {seconds:.0f} s of the processor", flush=True)
    keep(experiment, {seed: known[seed] for seed in names}, measured)


def one(name: str, seed: str) -> tuple[dict[str, float], float, dict]:
    """The numbers of a seed, the seconds of the processor that it took, and by what it was measured."""
    of = origin()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, seed]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    numbers, seconds = json.loads(done.stdout.splitlines()[-1])
    return numbers, seconds, of


if __name__ == "__main__":
    sys.exit(main())
