"""A decision transformer of Hugging Face, by its Trainer: seconds of one update, once warm, and the most memory.

python transformers_decision.py '{"seed": 0, "threads": 2, "updates": 8, "warm_up": 3}'

Its model is for real-valued actions: it predicts two numbers, where the other sides predict two logits.
"""

import json
import resource
import sys
import tempfile
import time

import numpy as np
import torch
from transformers import (
    DecisionTransformerConfig,
    DecisionTransformerModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

LENGTH, BATCH = 64, 16


class Trainable(DecisionTransformerModel):
    """With a loss, as Hugging Face's course has it."""

    def forward(self, **inputs):
        """The loss of a batch."""
        predicted = super().forward(**inputs)[1]
        return {"loss": torch.nn.functional.mse_loss(predicted, inputs["actions"])}


class Ends(TrainerCallback):
    """Notes the time after each update."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_, **__):
        """Called by the Trainer."""
        self.ends.append(time.perf_counter())


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    updates = given["updates"] + given["warm_up"]
    config = DecisionTransformerConfig(state_dim=4, act_dim=2, hidden_size=384, n_layer=6, n_head=6, max_ep_len=500)
    model = Trainable(config)
    shapes = {"states": (LENGTH, 4), "actions": (LENGTH, 2), "rewards": (LENGTH, 1), "returns_to_go": (LENGTH, 1)}
    steps = {"timesteps": torch.arange(LENGTH), "attention_mask": torch.ones(LENGTH)}
    data = [{name: torch.rand(shape) for name, shape in shapes.items()} | steps for _ in range(updates * BATCH)]
    callback = Ends()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=updates,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            seed=given["seed"],
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    seconds = np.diff(callback.ends)[given["warm_up"] - 1 :]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"seconds": float(np.median(seconds)), "bytes": peak, "weights": weights}))


if __name__ == "__main__":
    main()
