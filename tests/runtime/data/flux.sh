#!/bin/bash
#flux: --nodes=2
#flux: --exclusive
#flux: --time-limit=28800s
#flux: --job-name=parsl.one.block-0
#flux: --output=RUN/parsl/000/submit_scripts/parsl.one.block-0.stdout
#flux: --error=RUN/parsl/000/submit_scripts/parsl.one.block-0.stderr
#flux: --bank=bank
#flux: --queue=pbatch
export OMP_NUM_THREADS=16
export MKL_NUM_THREADS=16
export OPENBLAS_NUM_THREADS=16
export NUMEXPR_NUM_THREADS=16
export NUMBA_NUM_THREADS=16
export VECLIB_MAXIMUM_THREADS=16
export ALFLOW_DEADLINE=$(( $(date +%s) + 28680 ))
export JOBNAME="parsl.one.block-0"
cat << 'FLUX_EOF' > RUN/parsl/000/submit_scripts/cmd_$JOBNAME.sh
PYTHON -m alflow.runtime.process_worker_pool  --max_workers_per_node=4 -a 10.1.1.1 -p 0 -c 0.001 -m None --poll 10 --port=PORT --cert_dir RUN/parsl/000/one/certificates --logdir=RUN/parsl/000/one --logconf=None --block_id=0 --hb_period=15  --hb_threshold=120 --drain_period=$(( ALFLOW_DEADLINE - $(date +%s) - 900 )) --cpu-affinity block  --mpi-launcher=mpiexec --available-accelerators 0 1 2 3
FLUX_EOF
flux run --nodes=2 --ntasks=2 --exclusive bash RUN/parsl/000/submit_scripts/cmd_$JOBNAME.sh
