"""A code specialist: a model of Python's library, fine-tuned on small programs, which are filtered by running them."""

from typing import Any

import agentlib
from agentlib.core import Cosine, Warmup
from agentlib.data.programs import program_tasks
from agentlib.runs.programs import solve_rates
from benchmarks.experiments import Claim, Experiment

SIZES: dict[str, Any] = {"context_length": 224, "embed_dim": 96, "n_layers": 3, "n_heads": 4, "batch_size": 8}
BEFORE, UPDATES, LEARNED, TASKS, DRAWS = 2_000, 3_000, 3_000, 60, 20
"""Updates of pretraining and of fine-tuning; tasks to learn from and to judge by; and draws of each."""

NOTE = (
    "About 20 minutes of one core a seed. Tried first, on seed 100 of a smaller one (2 layers of 64, 200 and 1,200 "
    "updates, 20 tasks): pass@1 .01, pass@10 .13, and .25 for filtered programs at either k."
)


def programs(
    seed: int, before: int = BEFORE, updates: int = UPDATES, tasks: int = TASKS, **sizes: Any
) -> dict[str, float]:
    """Solve rates on orders of steps that no task to learn from has, of a pretrained model and one from scratch."""

    def trained(text: Any, steps: int, rate: float, **more: Any) -> Any:
        schedule, shape = Warmup(Cosine(rate, 0.1 * rate), updates=100), SIZES | sizes
        return agentlib.train(
            "gpt", data=text, tokenizer="bytes", steps=steps, learning_rate=schedule, compile=False, seed=seed,
            progress=False, **shape, **more,
        )  # fmt: skip

    text = ["\n".join(task.prompt + task.solution for task in program_tasks(LEARNED, seed))]
    library = trained("python", before, 2e-3)
    models = {
        "pretrained": trained(text, updates, 2e-3, backbone=library.model.backbone),
        "scratch": trained(text, updates, 2e-3),
    }
    judged = program_tasks(tasks, seed, held_out=True)
    found = {"library": library.measures["test/bits_per_character"]}
    for name, result in models.items():
        rates = solve_rates(result.model, judged, draws=DRAWS, seed=seed, run_generated_code=True)
        found |= {f"{name}_{rate.replace('@', '_')}": value for rate, value in rates.items()}
        found[f"{name}_loss"] = result.measures["test/loss"]
    return found | {f"gain_{k}": found[f"pretrained_filtered_{k}"] - found[f"pretrained_pass_{k}"] for k in (1, 10)}


EXPERIMENTS = [
    Experiment(
        name="programs",
        family="Language",
        data="Python's own library, 9 MB, 2,000 updates; then 3,000 small programs, 3,000 updates of 8 windows of 224 "
        "bytes; 3 layers of 96; 60 tasks of steps in orders that no program to learn from has, 20 draws each",
        measure=programs,
        seeds=3,
        first_seed=200,
        claims=(
            Claim("pretrained_pass_1", "GPT of Python's library, one program is right: pass@1"),
            Claim("pretrained_pass_10", "one of ten is right: pass@10"),
            Claim("pretrained_filtered_1", "the program drawn most often among those that agree with the examples"),
            Claim("pretrained_filtered_10", "one of the ten drawn most often among these"),
            Claim("gain_1", "the filter's gain at k = 1", statistic="mean", at_least=0.01, of="interval"),
            Claim("gain_10", "the filter's gain at k = 10", statistic="mean"),
            Claim("scratch_pass_1", "the same network from scratch, pass@1"),
            Claim("scratch_pass_10", "its pass@10"),
            Claim("scratch_filtered_1", "its filtered program"),
            Claim("scratch_filtered_10", "one of its ten filtered programs"),
            Claim("library", "bits per character of the last tenth of the library"),
        ),
        note=NOTE,
    ),
]
