"""Small programs: their tests, their draws, and how often one of several is right."""

from typing import Any

import pytest
import torch
from torch import nn

from agentlib.core.recipe import Problem
from agentlib.data.programs import STEPS, program_tasks
from agentlib.data.text import text_of
from agentlib.data.tokens import Bytes
from agentlib.runs import programs
from agentlib.runs.plan import job_of
from agentlib.runs.programs import drawn_programs, solve_rates
from agentlib.runs.sandbox import Outcome


def run_here(program: str, function: str, arguments: Any, **_: Any) -> Outcome:
    """As `run_function`, of programs of this file."""
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - of this file
    return Outcome([names[function](*each) for each in arguments])


def test_solutions_pass_their_tests_and_other_numbers_do_not():
    for task in program_tasks(50):
        found = run_here(task.prompt + task.solution, "f", [[given] for given, _ in [*task.visible, *task.hidden]])
        assert found.values == [made for _, made in [*task.visible, *task.hidden]]
        assert all(f"# {given} -> {made}\n" in task.prompt for given, made in task.visible)
        assert not any(f"{given} -> " in task.prompt for given, _ in task.hidden if given not in dict_of(task.visible))


def dict_of(examples: Any) -> list[Any]:
    return [given for given, _ in examples]


def test_orders_that_are_held_out_are_in_no_other_task():
    def orders(held_out: bool) -> set[str]:
        tasks = program_tasks(500 if held_out else 1_500, held_out=held_out)
        return {task.prompt.split("\n")[0] for task in tasks}

    ours, theirs = orders(False), orders(True)
    assert not ours & theirs
    assert len(ours | theirs) == len(STEPS) + len(STEPS) ** 2
    with pytest.raises(ValueError, match="no orders of up to 1 steps are held out"):
        program_tasks(1, most_steps=1, held_out=True)


def test_a_program_ends_before_the_next_comment():
    class Writer(nn.Module):
        """Writes the same again and again."""

        text, line = Bytes(), b"    return x\n# next"

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.step(tokens[:, -1], torch.full((len(tokens),), -1))

        def step(self, token: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            place = (state + 1) % len(self.line)
            logits = torch.full((len(token), 256), -100.0)
            return logits.scatter(1, torch.tensor([*self.line])[place][:, None], 100.0), place

    found = drawn_programs(Writer(), "def f(x):\n", 2, length=40)
    assert found == ["def f(x):\n    return x\n"] * 2


def test_rates_count_draws_and_filters(monkeypatch):
    """Of four draws one is right, one agrees with the examples alone, and it was drawn twice."""
    task = program_tasks(1)[0]._replace(visible=[([1], [2])], hidden=[([2], [4])])
    right, lucky, wrong = ("def f(x): return [n * 2 for n in x]", "def f(x): return [2]", "def f(x): return x")
    monkeypatch.setattr(programs, "drawn_programs", lambda *_, **__: [lucky, right, lucky, wrong])
    monkeypatch.setattr(programs, "run_function", run_here)
    rates = solve_rates(nn.Linear(1, 1), [task], draws=4, ks=(1, 2), run_generated_code=True)
    assert rates == {"pass@1": 0.25, "pass@2": 0.5, "filtered@1": 0.0, "filtered@2": 1.0}


def test_without_the_word_nothing_is_run():
    sizes: dict[str, Any] = {"context_length": 8, "embed_dim": 8, "n_layers": 1, "n_heads": 1}
    model = job_of("gpt", Problem(data=["a" * 99], steps=1), tokenizer="bytes", **sizes).product
    with pytest.raises(PermissionError, match="run_generated_code=True"):
        solve_rates(model, program_tasks(1), draws=1, ks=(1,), length=3)


@pytest.mark.slow
def test_the_library_of_python_is_a_text(tmp_path, monkeypatch):
    text = text_of("python", "bytes")
    assert len(text) > 1_000_000
    assert b"def namedtuple(" in text.tokens.tobytes()
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="no sources of Python's library"):
        text_of("python", "bytes")
