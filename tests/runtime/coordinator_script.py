"""A coordinator for crash tests: argv are the run directory; it says `ready` when two tasks run, then waits."""

import sys
import time
from pathlib import Path

import worker_apps

from alflow.runtime.parsl_runner import ParslRunner
from alflow.runtime.processes import terminable
from alflow.spec.site import Lane, Site


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    root = Path(sys.argv[1])
    shares = dict.fromkeys(("sample", "label", "fit"), "all")
    lane = Lane(workers_per_node=2, cores_per_node=2)
    runner = None
    with terminable():
        try:
            runner = ParslRunner(worker_apps.work, Site(name="here", lanes={"all": lane}, shares=shares), root)
            runner.submit({"id": "a", "verb": "sample", "args": {"sleep": 600}})
            runner.submit({"id": "b", "verb": "label", "args": {"child": 600}})
            while not (root / "a.started").exists() or not (root / "b.started").exists():
                time.sleep(0.05)
            say("ready")
            list(runner.completed(600))
        except KeyboardInterrupt:
            say("interrupted")
        finally:
            if runner is not None:
                runner.close(now=True)
    say("closed")


if __name__ == "__main__":
    main()
