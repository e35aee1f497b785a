#!/bin/bash

#SBATCH --job-name=parsl.one.block-0
#SBATCH --output=RUN/parsl/000/submit_scripts/parsl.one.block-0.stdout
#SBATCH --error=RUN/parsl/000/submit_scripts/parsl.one.block-0.stderr
#SBATCH --nodes=2
#SBATCH --time=240
#SBATCH --ntasks-per-node=1
#SBATCH --constraint=a100
#SBATCH --no-requeue
#SBATCH --exclusive
#SBATCH --partition=gpu
#SBATCH --account=project
#SBATCH --qos=high
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32

export OMP_NUM_THREADS=8
export MKL_NUM_THREADS=8
export OPENBLAS_NUM_THREADS=8
export NUMEXPR_NUM_THREADS=8
export NUMBA_NUM_THREADS=8
export VECLIB_MAXIMUM_THREADS=8
export ALFLOW_DEADLINE=$(( $(date +%s) + 14280 ))
module load cuda
export PARSL_CORES=32


export JOBNAME="parsl.one.block-0"

set -e
export CORES=$SLURM_CPUS_ON_NODE
export NODES=$SLURM_JOB_NUM_NODES

[[ "1" == "1" ]] && echo "Found cores : $CORES"
[[ "1" == "1" ]] && echo "Found nodes : $NODES"
WORKERCOUNT=2
SCRIPT_DIR="RUN/parsl/000/submit_scripts"
[[ -d $SCRIPT_DIR ]] || SCRIPT_DIR=""

cat << SLURM_EOF > ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$SLURM_JOB_NAME.sh
PYTHON -m alflow.runtime.process_worker_pool  --max_workers_per_node=4 -a ib0 -p 0 -c 0.001 -m None --poll 10 --port=PORT --cert_dir RUN/parsl/000/one/certificates --logdir=RUN/parsl/000/one --logconf=None --block_id=0 --hb_period=15  --hb_threshold=120 --drain_period=$(( ALFLOW_DEADLINE - $(date +%s) - 900 )) --cpu-affinity block  --mpi-launcher=mpiexec --available-accelerators 0 1 2 3
SLURM_EOF
chmod a+x ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$SLURM_JOB_NAME.sh

srun --ntasks 2 -l --cpus-per-task=32 --cpu-bind=none bash ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$SLURM_JOB_NAME.sh

[[ "1" == "1" ]] && echo "Done"
