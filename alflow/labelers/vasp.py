"""Labels from VASP: static calculations with the user's own program and POTCAR library.

POTCAR files are licensed: they are read from the user's library, joined in a private run folder, and removed when the
calculation ends. What is stored is their titles and digests.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from alflow.core.frames import Frames, Ints
from alflow.core.labels import Labels, Theory, Verdict
from alflow.core.units import EV_A3_GPa
from alflow.engines import processes
from alflow.engines.mpi import child_environment, command_of
from alflow.errors import InputError, ResourceError
from alflow.interfaces import UNLIMITED, Code, Limits, part
from alflow.store.kept import Labelled, kept

Positive = Annotated[float, Field(gt=0)]
Grid = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]

_OURS: Final = frozenset(
    {"ENCUT", "EDIFF", "GGA", "IBRION", "ISIF", "ISMEAR", "ISYM", "KGAMMA", "KSPACING", "LCHARG", "LWAVE", "METAGGA"}
    | {"NELM", "NSW", "SIGMA"}
)
_PARALLEL: Final = frozenset({"KPAR", "LPLANE", "NCORE", "NPAR", "NSIM"})
"""Tags that decide how fast VASP runs, not what it computes."""
_GGA: Final = {"PBE": "PE", "PBEsol": "PS"}
_BULKY: Final = ("WAVECAR", "CHGCAR", "CHG", "TMPCAR", "DOSCAR", "EIGENVAL", "PROCAR", "PCDAT", "XDATCAR", "IBZKPT")
_TITLE: Final = re.compile(r"TITEL\s*=\s*(.+)")
_ELEMENT: Final = re.compile(r"VRHFIN\s*=\s*([A-Z][a-z]?)")


@part
class Part:
    """Static VASP calculations: energy, forces and stress of periodic structures.

    The energy is the free energy ``e_fr_energy`` (with the entropy of the smearing), of which the forces are the
    derivative; the extrapolation to zero smearing is not. Grids of k-points always hold Gamma.

    Attributes:
        potcar_symbols: POTCAR of each element, such as ``{Al: Al, W: W_pv}``: names of folders in the library that the
            site file gives as ``codes.vasp.potcars``.
        encut_eV: cutoff of the plane waves.
        xc: functional; the POTCARs must be those of PBE.
        kpoints: ``gamma``, or the grid along each lattice vector. Give this or `kspacing_per_A`.
        kspacing_per_A: largest distance of k-points in 1/angstrom, 2 pi included, as VASP's KSPACING.
        ismear: kind of smearing: 0 Gaussian, 1 or 2 Methfessel-Paxton, -1 Fermi.
        sigma_eV: width of the smearing.
        ediff_eV: the electronic loop ends below this change of energy.
        nelm: most electronic steps; a calculation that needs more is refused.
        incar: further INCAR tags, such as ``{ALGO: Fast, NCORE: 4}``.
        max_seconds: longest a single calculation may take; null for no limit.
        max_force_eV_A: a label with a larger force is refused: atoms overlap.
    """

    potcar_symbols: Mapping[str, str]
    encut_eV: Positive
    xc: Literal["PBE", "PBEsol"] = "PBE"
    kpoints: Literal["gamma"] | Grid | None = None
    kspacing_per_A: Positive | None = None
    ismear: Annotated[int, Field(ge=-1, le=2)] = 1
    sigma_eV: Positive = 0.2
    ediff_eV: Positive = 1e-6
    nelm: Annotated[int, Field(ge=1)] = 120
    incar: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    max_seconds: Positive | None = None
    max_force_eV_A: Positive = 1000.0

    code: ClassVar[str] = "vasp"

    def __post_init__(self) -> None:
        if (self.kpoints is None) == (self.kspacing_per_A is None):
            raise InputError("kpoints", "give either kpoints or kspacing_per_A", "such as kpoints: [3, 3, 3]")
        if not self.potcar_symbols:
            raise InputError("potcar_symbols", "is empty", "such as {Al: Al}")
        if taken := sorted(_OURS & {tag.upper() for tag in self.incar}):
            raise InputError(f"incar.{taken[0]}", "is set by the other keys of this labeler", "remove it from incar")

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        if missing := sorted(elements - set(self.potcar_symbols)):
            names = ", ".join(missing)
            raise InputError("potcar_symbols", f"has no entry for {names}", f"add {{{missing[0]}: {missing[0]}}}")
        code = _given(code)
        command_of(code.name, code.command, code.launcher, code.env)
        for element in self.potcar_symbols:
            self._potcar(element, code)

    def theory(self, code: Code | None) -> Theory:
        code = _given(code)
        potcars = {element: _fingerprint(self._potcar(element, code)) for element in sorted(self.potcar_symbols)}
        mesh = self.kpoints if not isinstance(self.kpoints, tuple) else list(self.kpoints)
        tags = {tag: value for tag, value in self._incar().items() if tag not in _PARALLEL}
        settings = {**tags, "kpoints": mesh, "kspacing_per_A": self.kspacing_per_A, "potcars": potcars}
        return Theory("vasp", settings)

    def label(
        self,
        frames: Frames,
        code: Code | None,
        workdir: Path,
        limits: Limits = UNLIMITED,
    ) -> Labelled:
        code = _given(code)
        theory = self.theory(code)

        def one(frame: Frames) -> Labelled:
            labels, reason, log = self._one(frame, code, workdir / f"vasp-{frame.ids()[0]}")
            return labels, (Verdict(not reason, reason, log),)

        bought = [kept(frame, theory, workdir, one) for frame in frames]
        return Labels.concat([labels for labels, _ in bought]), tuple(v for _, verdicts in bought for v in verdicts)

    def _one(self, frame: Frames, code: Code, folder: Path) -> tuple[Labels, str, str]:
        """Label, what is wrong with it, and the log."""
        missing = Labels.missing(frame)
        if problem := self._problem(frame):
            return missing, problem, ""
        folder.mkdir(parents=True, exist_ok=True)
        run_dir = folder if code.scratch is None else code.scratch / folder.name
        run_dir.mkdir(parents=True, exist_ok=True)
        log = folder / "vasp.log"
        order = np.argsort(frame.numbers, kind="stable")
        try:
            self._write_inputs(frame, order, code, run_dir)
            words = command_of(code.name, code.command, code.launcher, code.env)
            (run_dir / "vasprun.xml").unlink(missing_ok=True)  # an old one must not pass for the answer
            ended = processes.run(words, run_dir, log, child_environment(code.env), self.max_seconds)
            if ended.timed_out:
                return missing, f"took longer than {self.max_seconds:g} s", str(log)
            if ended.status == -signal.SIGKILL:
                raise ResourceError(f"VASP was killed, most often for want of memory; see {log}")
            labels, reason = read_vasprun(run_dir / "vasprun.xml", frame, order)
        finally:
            for name in ("POTCAR", *_BULKY):
                (run_dir / name).unlink(missing_ok=True)
        if reason and ended.status:
            reason = f"{reason}; VASP ended with status {ended.status}"
        if not reason and (largest := np.linalg.norm(labels.forces, axis=1).max()) > self.max_force_eV_A:
            reason = f"largest force {largest:.3g} eV/Å, more than {self.max_force_eV_A:g}: atoms overlap"
        return (missing, reason, str(log)) if reason else (labels, "", str(log))

    def _problem(self, frame: Frames) -> str:
        """What is wrong with a frame before VASP sees it, or empty."""
        from ase.data import chemical_symbols

        unknown = {chemical_symbols[z] for z in set(frame.numbers.tolist())} - set(self.potcar_symbols)
        if unknown:
            return f"no POTCAR is named for {', '.join(sorted(unknown))}"
        if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
            return "positions or cell are not finite"
        if not frame.pbc.all() or not frame.volumes[0] > 1e-6:
            return "VASP needs a cell that is periodic in three directions"
        return ""

    def _write_inputs(self, frame: Frames, order: Ints, code: Code, folder: Path) -> None:
        from ase.data import chemical_symbols
        from pymatgen.core import Lattice, Structure
        from pymatgen.io.vasp import Incar, Kpoints, Poscar

        symbols = [chemical_symbols[z] for z in frame.numbers[order]]
        right_handed = np.linalg.det(frame.cell[0]) > 0  # VASP takes no other cell; -a, -b, -c span the same lattice
        lattice = Lattice(frame.cell[0] if right_handed else -frame.cell[0])
        structure = Structure(lattice, symbols, frame.positions[order], coords_are_cartesian=True)
        Poscar(structure, comment="alflow").write_file(folder / "POSCAR", significant_figures=16)
        Incar(self._incar()).write_file(folder / "INCAR")
        Kpoints.gamma_automatic(self._grid(frame)).write_file(folder / "KPOINTS")
        handle = os.open(folder / "POTCAR", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as out:
            out.writelines(self._potcar(element, code) for element in dict.fromkeys(symbols))

    def _incar(self) -> dict[str, Any]:
        tags: dict[str, Any] = {
            "PREC": "Accurate",
            "LREAL": False,
            "GGA": _GGA[self.xc],
            "ENCUT": self.encut_eV,
            "ISMEAR": self.ismear,
            "SIGMA": self.sigma_eV,
            "EDIFF": self.ediff_eV,
            "NELM": self.nelm,
            "NSW": 0,
            "IBRION": -1,
            "ISIF": 2,
            "ISYM": 0,
            "LWAVE": False,
            "LCHARG": False,
        }
        return {**tags, **{tag.upper(): value for tag, value in self.incar.items()}}

    def _grid(self, frame: Frames) -> tuple[int, int, int]:
        if self.kspacing_per_A is not None:
            lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(frame.cell[0]), axis=0)
            a, b, c = np.maximum(1, np.ceil(lengths / self.kspacing_per_A - 1e-9)).astype(int).tolist()
            return a, b, c
        return self.kpoints if isinstance(self.kpoints, tuple) else (1, 1, 1)

    def _potcar(self, element: str, code: Code) -> str:
        """Text of an element's POTCAR.

        Raises:
            InputError: the library or the file is missing, or it is another element's or functional's.
        """
        library, symbol = Path(str(code.settings["potcars"])), self.potcar_symbols[element]
        where = f"potcar_symbols.{element}"
        path = next((p for p in (library / symbol / "POTCAR", library / symbol / "POTCAR.gz") if p.is_file()), None)
        if path is None:
            hint = "codes.vasp.potcars of the site file is the folder with one subfolder for each POTCAR"
            raise InputError(where, f"there is no {library / symbol / 'POTCAR'}", hint)
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        found = _ELEMENT.search(text)
        if found is None or found[1] != element:
            raise InputError(where, f"{path} is a POTCAR of {found[1] if found else 'no element'}, not of {element}")
        if not re.search(r"LEXCH\s*=\s*PE", text):
            raise InputError(where, f"{path} is not a POTCAR of PBE, which {self.xc} needs")
        return text


def read_vasprun(path: Path, frame: Frames, order: Ints) -> tuple[Labels, str]:
    """The label in a ``vasprun.xml`` of one static calculation, and what is wrong with it.

    Args:
        path: the file.
        frame: the frame that was asked.
        order: which of its atoms each atom of the file is, (n_atoms,).
    """
    from pymatgen.io.vasp import Vasprun

    missing = Labels.missing(frame)
    if not path.is_file():
        return missing, "VASP wrote no vasprun.xml"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what we test ourselves
            run = Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        step = run.ionic_steps[-1]
        energy, forces = float(step["e_fr_energy"]), np.array(step["forces"], np.float64)
        kbar = np.array(step["stress"], np.float64)
    except (SyntaxError, KeyError, IndexError, ValueError, TypeError) as exc:  # bad XML is one
        return missing, f"vasprun.xml cannot be read: {type(exc).__name__}: {exc}"
    if not run.converged_electronic:
        return missing, "the electronic loop did not converge"
    if forces.shape != frame.positions.shape or not (np.isfinite(energy) and np.isfinite(forces).all()):
        return missing, "vasprun.xml holds no finite energy and forces of all atoms"
    unsorted = np.empty_like(forces)
    unsorted[order] = forces
    stress = -0.1 * kbar / EV_A3_GPa  # VASP counts compression positive, in kbar
    return Labels(np.array([energy]), unsorted, stress.reshape(1, 3, 3)), ""


def _given(code: Code | None) -> Code:
    if code is None:
        raise InputError("codes.vasp", "is not in the site file", "describe command, launcher and potcars there")
    if not code.settings.get("potcars"):
        raise InputError("codes.vasp.potcars", "is not in the site file", "the folder of your POTCAR library")
    return code


def _fingerprint(potcar: str) -> str:

    title = _TITLE.search(potcar)
    return f"{title[1].strip() if title else '?'}:{hashlib.sha256(potcar.encode()).hexdigest()[:16]}"
