#!/bin/bash

#BSUB -W 2160
#BSUB -J parsl.one.block-0
#BSUB -o RUN/parsl/000/submit_scripts/parsl.one.block-0.submit.stdout
#BSUB -e RUN/parsl/000/submit_scripts/parsl.one.block-0.submit.stderr

#BSUB -q pbatch
#BSUB -nnodes 2


export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export NUMEXPR_NUM_THREADS=1
export NUMBA_NUM_THREADS=1
export VECLIB_MAXIMUM_THREADS=1
export ALFLOW_DEADLINE=$(( $(date +%s) + 129480 ))

export JOBNAME="parsl.one.block-0"

PYTHON -m alflow.runtime.process_worker_pool  --max_workers_per_node=4 -a 10.1.1.1 -p 0 -c 0.001 -m None --poll 10 --port=PORT --cert_dir RUN/parsl/000/one/certificates --logdir=RUN/parsl/000/one --logconf=None --block_id=0 --hb_period=15  --hb_threshold=120 --drain_period=$(( ALFLOW_DEADLINE - $(date +%s) - 900 )) --cpu-affinity none  --mpi-launcher=mpiexec --available-accelerators
