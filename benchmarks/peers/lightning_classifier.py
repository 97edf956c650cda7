"""ResNet-18 on pictures of 32 by 32 by Lightning's Trainer: seconds of one update, once warm, and the most memory.

python lightning_classifier.py '{"seed": 0, "threads": 2, "updates": 8, "warm_up": 3}'
"""

import json
import resource
import sys
import time
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from agentlib.backbones import ResNet  # the network of the other sides


class Module(lightning.LightningModule):
    """A classifier as Lightning's users write it."""

    def __init__(self):
        super().__init__()
        backbone = ResNet((3, 32, 32), blocks=(2, 2, 2, 2))
        self.network, self.ends = nn.Sequential(backbone, nn.Linear(backbone.feature_dim, 10)), []

    def training_step(self, batch, number):
        """The loss of a batch."""
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self):
        """As the other sides have it."""
        return torch.optim.Adam(self.parameters(), lr=1e-4, fused=True)

    def on_train_batch_end(self, *_):
        """Notes the time."""
        self.ends.append(time.perf_counter())


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    lightning.seed_everything(given["seed"], verbose=False)
    data = torch.utils.data.TensorDataset(torch.rand(2_000, 3, 32, 32), torch.arange(2_000) % 10)
    loader = torch.utils.data.DataLoader(data, batch_size=128, shuffle=True, drop_last=True)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    module = Module()
    trainer = lightning.Trainer(max_steps=given["updates"] + given["warm_up"], accelerator="cpu", **quiet)
    trainer.fit(module, loader)
    seconds = np.diff(module.ends)[given["warm_up"] - 1 :]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": float(np.median(seconds)), "bytes": peak}))


if __name__ == "__main__":
    main()
