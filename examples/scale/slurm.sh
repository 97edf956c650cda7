#!/bin/sh
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@60
# Two machines with four processes each; the folder of the run is on a file system that both see.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint="$head:29500" \
    -m agentlib train gpt --data shakespeare.txt --batch-size 256 --steps 10000 --out runs/shakespeare
