#!/bin/bash
# A circuit over many prompts on a Slurm cluster. SHARDS is how many jobs share the work:
#
#   SHARDS=16 ./submit.sh gpt2 --prompts train.jsonl --run /scratch/agreement
#
# Each of the three stages needs all shards of the one before. A shard that finds nothing to do ends at once, and one that
# was killed (by its time limit, or a preemption) loses one batch: submit again, and what is missing is done.
# `circuitlens runs FOLDER` says how far it is, and `circuitlens merge FOLDER -o FILE` writes the circuit at the end.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
after=()
for stage in nodes edges weighing; do
  job="$(sbatch --parsable --array="1-${SHARDS:-16}" --job-name="$stage" "${after[@]}" "$here/shard.sbatch" "$@")"
  after=(--dependency="afterok:$job")
  echo "stage $stage: job $job"
done
