"""Work for real workers: importable in them, since tests put this folder on PYTHONPATH."""

import os
import subprocess
import sys
import time
from pathlib import Path

ERRORS = {"KeyError": KeyError, "MemoryError": MemoryError}


def work(task, root):
    """Do as the arguments say; tell where it was done."""
    args = task["args"]
    if "raises" in args:
        raise ERRORS[args["raises"]](f"task {task['id']}")
    if "exit" in args:
        os._exit(args["exit"])
    if "child" in args:  # a program in a session of its own, as an MPI launcher starts its ranks
        code = f"import time; time.sleep({args['child']})"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        Path(root, f"{task['id']}.started").write_text(str(child.pid))
        child.wait()
    if "sleep" in args:
        Path(root, f"{task['id']}.started").write_text(str(os.getpid()))
        time.sleep(args["sleep"])
    return {"id": task["id"], "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
