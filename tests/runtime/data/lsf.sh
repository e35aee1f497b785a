#!/bin/bash

#BSUB -W 720
#BSUB -J parsl.one.block-0
#BSUB -o RUN/parsl/000/submit_scripts/parsl.one.block-0.submit.stdout
#BSUB -e RUN/parsl/000/submit_scripts/parsl.one.block-0.submit.stderr

#BSUB -P project
#BSUB -q pbatch
#BSUB -nnodes 4


export OMP_NUM_THREADS=10
export MKL_NUM_THREADS=10
export OPENBLAS_NUM_THREADS=10
export NUMEXPR_NUM_THREADS=10
export NUMBA_NUM_THREADS=10
export VECLIB_MAXIMUM_THREADS=10
export ALFLOW_DEADLINE=$(( $(date +%s) + 43080 ))

export JOBNAME="parsl.one.block-0"

set -e
WORKERCOUNT=4
SCRIPT_DIR="RUN/parsl/000/submit_scripts"
[[ -d $SCRIPT_DIR ]] || SCRIPT_DIR=""

cat << JSRUN_EOF > ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$JOBNAME.sh
PYTHON -m alflow.runtime.process_worker_pool  --max_workers_per_node=4 -a 10.1.1.1 -p 0 -c 0.001 -m None --poll 10 --port=PORT --cert_dir RUN/parsl/000/one/certificates --logdir=RUN/parsl/000/one --logconf=None --block_id=0 --hb_period=15  --hb_threshold=120 --drain_period=$(( ALFLOW_DEADLINE - $(date +%s) - 900 )) --cpu-affinity block  --mpi-launcher=mpiexec --available-accelerators 0 1 2 3
JSRUN_EOF
chmod a+x ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$JOBNAME.sh

jsrun -n 4 -r 1 -a 1 -c ALL_CPUS -g ALL_GPUS -b none /bin/bash ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$JOBNAME.sh &
wait

[[ "1" == "1" ]] && echo "Done"
