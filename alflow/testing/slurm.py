"""A real Slurm cluster of several nodes on this machine, for tests and for trying things.

Needs Debian's packages slurm-wlm and munge. Each node is a slurmd of its own (``slurmd -N n1``); a munged of its own
authenticates. Everything lives in one folder; nothing of the machine's own Slurm is touched.
``python -m alflow.testing.slurm FOLDER`` brings it up until Ctrl-C and says what to export meanwhile.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from alflow.errors import InfrastructureError

PROGRAMS: Final = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
"""What must be installed: Debian's packages slurm-wlm and munge."""

PARTITION: Final = "main"
"""Partition with all the nodes."""
CLOSED: Final = "closed"
"""Partition that takes jobs and starts none."""

_CONF: Final = """\
ClusterName=alflow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=5
KillWait=3
MinJobAge=5
{nodes}
PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName={closed} Nodes=ALL MaxTime=INFINITE State=DOWN
"""


def _path() -> str:
    """Where daemons are, too."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing_programs() -> tuple[str, ...]:
    """Which of `PROGRAMS` are not installed."""
    return tuple(name for name in PROGRAMS if shutil.which(name, path=_path()) is None)


class Slurm:
    """A running cluster.

    Attributes:
        folder: configuration, logs, state.
        nodes: names of the nodes.
        env: what to add to the environment of those who use it.
    """

    def __init__(self, folder: Path, nodes: int = 4, cpus: int = 4) -> None:
        self.folder, self.nodes = folder.resolve(), tuple(f"n{i + 1}" for i in range(nodes))
        self.env = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("", "state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        host, (ctld, *slurmd) = socket.gethostname(), _free_ports(nodes + 1)
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000"
            for node, port in zip(self.nodes, slurmd, strict=True)
        ]
        text = _CONF.format(
            host=host,
            ctld_port=ctld,
            user=getpass.getuser(),
            folder=self.folder,
            nodes="\n".join(lines),
            partition=PARTITION,
            closed=CLOSED,
        )
        (self.folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        """Bring everything up.

        Raises:
            InfrastructureError: the nodes are not idle within a minute.
        """
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        at = self.folder
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        words = [f"--{option}={at}/munge.{suffix}" for option, suffix in names.items()]
        self._spawn("munged", ["munged", "--foreground", "--force", *words])
        _wait((at / "munge.socket").exists, "munged has no socket", at)
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        _wait(lambda: self.states() == dict.fromkeys(self.nodes, "idle"), "the nodes are not idle", at)

    def start_controller(self) -> None:
        """Start slurmctld; it goes on from the state it saved."""
        self._spawn("slurmctld", ["slurmctld", "-D", "-f", self.env["SLURM_CONF"]])

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._spawn(node, ["slurmd", "-D", "-N", node, "-f", self.env["SLURM_CONF"]])

    def stop_controller(self) -> None:
        """End slurmctld in order; jobs go on."""
        self._end("slurmctld")

    def kill_daemon(self, node: str) -> None:
        """The slurmd of a node is killed; the jobs on the node go on."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def kill_node(self, node: str) -> None:
        """A node that loses power: its slurmd and all that runs on it are killed at once."""
        daemon = psutil.Process(self._daemons[node].pid)
        doomed = [daemon, *self.processes_on(node)]
        for process in doomed:
            with suppress(psutil.Error):
                process.kill()
        self._daemons.pop(node).wait()

    def processes_on(self, node: str) -> list[psutil.Process]:
        """The job processes of a node: what its slurmd and its step daemons have started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                mine = env.get("SLURM_CONF") == self.env["SLURM_CONF"] and env.get("SLURMD_NODENAME") == node
                step = process.name() == "slurmstepd" and self._daemons[node].pid in {p.pid for p in process.parents()}
                if mine or step or any(f"spool-{node}" in word for word in process.cmdline()[1:]):
                    found.append(process)
        return [p for p in found if p.pid != self._daemons[node].pid]

    def stop(self) -> None:
        """Cancel all jobs and end every daemon, by pid."""
        with suppress(Exception):
            for job in self.jobs():
                self.run("scancel", job)
            _wait(lambda: not self.jobs(), "jobs are left", self.folder, 20.0)
        for node in self.nodes:
            if node in self._daemons:
                self._end(node)
                for process in self._left_on(node):
                    with suppress(psutil.Error):
                        process.kill()
        for name in ("slurmctld", "munged"):
            if name in self._daemons:
                self._end(name)

    def run(self, *words: str, check: bool = True) -> str:
        """What a Slurm command prints.

        Raises:
            InfrastructureError: it failed, and `check`.
        """
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": _path(), **self.env},
            check=False,
            timeout=60,
        )
        if check and done.returncode:
            raise InfrastructureError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """State of every node, such as ``idle``."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", f"--partition={PARTITION}", check=False)
        return dict(line.split() for line in lines.splitlines())

    def jobs(self, *states: str) -> dict[str, str]:
        """Name of every job by its id, queued or running unless `states` says otherwise; of coming and going too."""
        only = [f"--states={','.join(states)}"] if states else []
        lines = self.run("squeue", "--noheader", "--format=%i %j", *only).splitlines()
        return {job: name for job, _, name in (line.partition(" ") for line in lines)}

    def _spawn(self, name: str, words: Sequence[str]) -> None:
        program = shutil.which(words[0], path=_path()) or words[0]
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                [program, *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "PATH": _path(), **self.env},
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _left_on(self, node: str) -> Iterator[psutil.Process]:
        """Step daemons and job processes that outlived their slurmd."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                if env.get("SLURM_CONF") == self.env["SLURM_CONF"] and env.get("SLURMD_NODENAME") == node:
                    yield process


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait(what: Callable[[], bool], otherwise: str, folder: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise InfrastructureError(f"Slurm test bed: {otherwise}; see the logs in {folder}")
        time.sleep(0.2)


@contextmanager
def cluster(folder: Path, nodes: int = 4, cpus: int = 4) -> Iterator[Slurm]:
    """A cluster for the length of a block."""
    slurm = Slurm(folder, nodes, cpus)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def _main(folder: str) -> None:
    with cluster(Path(folder)) as slurm:
        exports = " ".join(f"{k}={v}" for k, v in slurm.env.items())
        sys.stdout.write(f"{len(slurm.nodes)} nodes are up; Ctrl-C ends them. In another shell:\n  export {exports}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    if absent := missing_programs():
        sys.exit(f"not installed: {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)")
    _main(*sys.argv[1:])
