"""A GPT-2 of Hugging Face, by its Trainer: seconds of one update, once warm, and the most memory.

python transformers_gpt.py '{"seed": 0, "threads": 2, "updates": 8, "warm_up": 3}'
"""

import json
import resource
import sys
import tempfile
import time

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

CONTEXT, BATCH, VOCABULARY = 256, 8, 65


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
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=384, n_layer=6, n_head=6, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(given["seed"])
    tokens = torch.randint(VOCABULARY, (updates * BATCH, CONTEXT), generator=generator)
    data = [{"input_ids": row, "labels": row} for row in tokens]
    callback = Ends()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=updates,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            weight_decay=0.1,
            seed=given["seed"],
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    seconds = np.diff(callback.ends)[given["warm_up"] - 1 :]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"seconds": float(np.median(seconds)), "bytes": peak, "weights": weights}))


if __name__ == "__main__":
    main()
