"""A stand-in for the program ``vasp_std``: ``python -m alflow.testing.vasp_std [FAILURE ...]``.

It reads INCAR, POSCAR, KPOINTS and POTCAR of the folder it is started in, refuses what VASP refuses, and writes VASP's
files with the energies of another physics (`alflow.testing.fake_vasp.physics`). How it goes wrong is told by its
arguments or by ``FAKE_VASP`` (`alflow.testing.fake_vasp.failures`). It knows a dozen settings of VASP and no electrons.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alflow.testing.fake_vasp import outputs, physics
from alflow.testing.fake_vasp.failures import Act, Failure, Plan, plan
from alflow.testing.fake_vasp.inputs import Inputs, RefusedError, read

_FIRST_STEPS = 4
"""Electronic steps before the energy begins to settle."""


def main(words: Sequence[str]) -> int:
    """Run in the current folder; the exit status."""
    folder = Path.cwd()
    _say(" running on    1 total cores\n vasp.6.4.2 stand-in of alflow, not VASP")
    try:
        inputs = read(folder)
        result = physics.compute(inputs)
    except RefusedError as exc:
        _say(f" {exc}")
        return 1
    _say(f" POSCAR found :  {len(inputs.counts)} types and {len(inputs.fractions):7d} ions")
    what = plan([*words, os.environ.get("FAKE_VASP", "")], inputs)
    act = what.failure.act if what.failure else None
    if what.failure and what.failure.message:
        _say(f" {what.failure.message}")
    if act is Act.HANG:
        time.sleep(3600)
    if act is Act.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if act is Act.CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    run = _loop(inputs, _bent(result, act), what, folder)
    if act is Act.STOP or act is Act.NOTHING:
        (folder / "OUTCAR").write_text(outputs.outcar(run).partition("aborting loop")[0])
        return 1
    outputs.write(run, folder)
    _damage(run, what.failure, folder)
    return 0


def _bent(result: physics.Result, act: Act | None) -> physics.Result:
    """The result as the failure has it."""
    if act is Act.POSITIVE:
        return replace(result, free=abs(result.free))
    if act is Act.ENTROPY:
        return replace(result, entropy=-0.01 * len(result.forces))
    if act is Act.BLOWN:
        return replace(result, forces=result.forces * 1e6)
    if act is Act.STARS:
        return replace(result, forces=np.full_like(result.forces, np.nan))
    return result


def _loop(inputs: Inputs, result: physics.Result, what: Plan, folder: Path) -> outputs.Run:
    """The electronic loop: the energy falls towards the result, faster from a charge density that is there."""
    start = _FIRST_STEPS if inputs.tag("ICHARG", 2) == 1 and (folder / "CHGCAR").is_file() else 0
    needed = _FIRST_STEPS + max(2, math.ceil(-math.log10(float(inputs.tag("EDIFF", 1e-4)))))
    most = int(inputs.tag("NELM", 60))
    never = what.failure is not None and what.failure.act is Act.LOOP
    energies: list[float] = []
    for n in range(start, most + start):
        time.sleep(what.step_s)
        left = 0.0 if n + 1 >= needed and not never else 30 * math.exp(-n) + 1e-3 * never
        energies.append(result.free + left)
        _say(f"DAV: {len(energies):3d}   {energies[-1]:19.12E}")
        if "LABORT" in _stopcar(folder):
            return outputs.Run(inputs, result, energies, converged=False, stopped=True)
        if n + 1 >= needed and not never and len(energies) < most:
            return outputs.Run(inputs, result, energies, converged=True)
    return outputs.Run(inputs, result, energies, converged=False)


def _stopcar(folder: Path) -> str:
    path = folder / "STOPCAR"
    return path.read_text() if path.is_file() else ""


def _damage(run: outputs.Run, failure: Failure | None, folder: Path) -> None:
    """Spoil what was written, as the failure has it."""
    act = failure.act if failure else None
    xml = folder / "vasprun.xml"
    if act is Act.TRUNCATE:
        xml.write_text(xml.read_text()[: xml.stat().st_size // 2])
    elif act is Act.EMPTY:
        xml.write_text("")
    elif act is Act.OTHER:
        moved = replace(
            run.inputs, fractions=run.inputs.fractions + 0.01 * np.arange(run.inputs.fractions.size).reshape(-1, 3)
        )
        xml.write_text(outputs.vasprun(replace(run, inputs=moved)))
    elif act is Act.SETTINGS:
        other = replace(run.inputs, incar={**run.inputs.incar, "ENCUT": run.inputs.tag("ENCUT", 100.0) + 50})
        xml.write_text(outputs.vasprun(replace(run, inputs=other)))
    elif act is Act.ALIAS:
        lines = "".join(f" WARNING: aliasing errors must be expected set NG{x} to  40 to avoid them\n" for x in "XYZ")
        (folder / "OUTCAR").write_text(lines + " NGZ\n" + (folder / "OUTCAR").read_text())


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
