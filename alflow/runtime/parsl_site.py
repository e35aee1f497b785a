"""From the site file to Parsl: its configuration, and the batch scripts that it would submit."""

from __future__ import annotations

import re
import shlex
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

import psutil
import zmq
from parsl.config import Config
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.monitoring import MonitoringHub

from alflow.errors import SpecError
from alflow.runtime import lanes, layout, rundir
from alflow.runtime.parsl_packing import FullestBlock
from alflow.runtime.parsl_pools import Pools
from alflow.runtime.parsl_schedulers import provider
from alflow.spec.site import Lane, Site

_POOL: Final = "alflow.runtime.process_worker_pool"
_INTERCHANGE: Final = "parsl.executors.high_throughput.interchange"


def parsl_config(site: Site, run_dir: Path) -> Config:
    """The site as Parsl wants it; makes Parsl's private folder in `run_dir`, starts nothing.

    Raises:
        RunError: see `rundir.check_path`.
        SpecError: a key of a lane that its scheduler does not know, or an interface this machine does not have.
    """
    rundir.check_path(run_dir)
    used = lanes.lanes_in_use(site)
    executors = [_executor(name, lane, _address(name, lane)) for name, lane in used.items()]
    folder = run_dir / layout.PARSL
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    times = [lanes.times(lane) for lane in used.values()]
    return Config(
        executors=executors,
        run_dir=str(folder),
        retries=0,
        strategy="htex_auto_scale",
        strategy_period=min(t.poll for t in times),
        max_idletime=min(t.idle for t in times),
        monitoring=_monitoring(run_dir) if site.monitoring else None,
        usage_tracking=0,
        initialize_logging=False,  # ours, see `_open_log`: Parsl does not close the file of its own
    )


def _monitoring(run_dir: Path) -> MonitoringHub:
    """Watching each task's processes costs twenty times the speed of small tasks; states and times cost nothing."""
    return MonitoringHub(
        workflow_name=run_dir.name,
        logging_endpoint=f"sqlite:///{run_dir.resolve() / layout.MONITORING}",
        resource_monitoring_enabled=False,
    )


def _executor(name: str, lane: Lane, address: str | None) -> Pools:
    times = lanes.times(lane)
    python = shlex.quote(sys.executable)
    return Pools(
        label=name,
        provider=provider(name, lane),
        address=address,
        # by module, not by name: the environment's bin folder need not be on PATH
        launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", f"{python} -m {_POOL}").replace(
            "{drain_period}", lanes.drain_period(lane)
        ),
        interchange_launch_cmd=[sys.executable, "-m", _INTERCHANGE],
        cores_per_worker=1e-3,  # the site file counts the workers, Parsl does not second-guess it
        max_workers_per_node=lanes.pool_workers(lane),
        available_accelerators=lanes.accelerators(lane),
        cpu_affinity=lanes.affinity(lane),
        prefetch_capacity=0,
        manager_selector=FullestBlock(),
        heartbeat_period=times.heartbeat,
        heartbeat_threshold=times.threshold,
        block_error_handler=False,  # see `Pools.handle_errors`
        encrypted=zmq.has("curve"),
    )


def _address(name: str, lane: Lane) -> str | None:
    if lane.scheduler == "local":
        return "127.0.0.1"
    if not lane.address or "." in lane.address or ":" in lane.address:
        return lane.address or None
    there = psutil.net_if_addrs()
    for address in there.get(lane.address, ()):
        if address.family is socket.AF_INET:
            return address.address
    known = ", ".join(there)
    raise SpecError(
        f"lanes.{name}.address", f"no interface {lane.address!r} with an IPv4 address", f"there are: {known}"
    )


def submit_scripts(site: Site) -> dict[str, str]:
    """The batch script of one block of every lane that has a scheduler, as Parsl's provider writes it.

    Nothing is submitted, and no scheduler is needed. Where the real script names a run directory, a port and a
    moment, this one says ``RUN``, ``PORT`` and nothing; ``ADDRESS`` is what the machine finds out at its start.

    Raises:
        SpecError: a key of a lane that its scheduler does not know.
    """
    batch = {name: lane for name, lane in lanes.lanes_in_use(site).items() if lane.scheduler != "local"}
    return {name: _script(name, lane) for name, lane in batch.items()}


def _script(name: str, lane: Lane) -> str:
    executor = _executor(name, lane, lane.address or "ADDRESS")
    executor.run_dir, executor.cert_dir = f"RUN/{layout.PARSL}/000", f"RUN/{layout.PARSL}/000/{name}/certificates"
    executor.worker_port, executor.logconf_path = "PORT", None
    executor.initialize_scaling()
    paper = provider(name, lane, on_paper=True)
    with tempfile.TemporaryDirectory() as folder:
        paper.script_dir = folder
        paper.submit(executor._get_launch_command("0"), 1, f"parsl.{name}.block-0")  # noqa: SLF001
        (path,) = Path(folder).iterdir()
        text = path.read_text().replace(str(Path(folder).resolve()), f"RUN/{layout.PARSL}/000/submit_scripts")
        text = text.replace(folder, f"RUN/{layout.PARSL}/000/submit_scripts")
    return re.sub(rf"(parsl\.{re.escape(name)}\.block-0)\.[\d.]*\d", r"\1", text)
