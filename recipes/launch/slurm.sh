#!/bin/bash
# One training stage on several nodes of a Slurm cluster; everything after the script's name goes to openqwen:
#   sbatch --nodes 4 recipes/launch/slurm.sh pretrain --tokens out/tokens --tokenizer out/tokenizer \
#       --recipe qwen-7b --parallel.strategy hybrid --parallel.group_size 8 --out out/base
# The output folder must be on a file system that all nodes see.
#SBATCH --job-name=openqwen
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

# --signal: SIGTERM five minutes before the time limit makes the run save and end; --requeue starts it again, and the
# same command continues from the checkpoint.
set -euo pipefail

main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=290 # torchrun kills its processes 30 s after SIGTERM if it is not told to wait

exec srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$main:29500" \
    -m openqwen "$@"
