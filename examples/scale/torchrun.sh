#!/bin/sh
# Two processes share out each batch; the first one writes runs/digits. The second line goes on to a new length.
set -e
torchrun --standalone --nproc-per-node=2 -m agentlib train classifier --data digits --batch-size 128 --steps "${1:-500}" --out runs/digits
torchrun --standalone --nproc-per-node=2 -m agentlib train --resume runs/digits --steps "${2:-1000}"
