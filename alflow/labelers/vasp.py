"""Labels from VASP: static calculations with the user's own program and POTCAR library."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.engines import vasp_inputs, vasp_outputs, vasp_potcars, vasp_rules
from alflow.engines.mpi import child_environment, command_of
from alflow.errors import InputError, ResourceError
from alflow.interfaces import UNLIMITED, Code, Limits, part
from alflow.store.kept import Labelled, kept_each

if TYPE_CHECKING:
    from alflow.engines.custody import Attended
    from alflow.engines.vasp_care import Deadline

Positive = Annotated[float, Field(gt=0)]
Points = Annotated[int, Field(ge=1)]
Grid = tuple[Points, Points, Points]
Functional = Literal["PBE", "PBEsol", "revPBE", "LDA"]
Allowed = Literal["ISMEAR", "ISYM", "KPOINTS", "NGX", "NGY", "NGZ", "PREC", "SIGMA", "SYMPREC"]
Dispersion = Literal["dftd2", "dftd3", "dftd3-bj", "dftd4", "ts", "ts-hirshfeld", "mbd@rsc", "ddsc"]

_EXCHANGE: Final[Mapping[Functional, tuple[str | None, str]]] = {
    "PBE": ("PE", "PE"),
    "PBEsol": ("PS", "PE"),
    "revPBE": ("RP", "PE"),
    "LDA": (None, "CA"),
}
"""Functional -> GGA of the INCAR, and LEXCH of the POTCARs that go with it."""
_TRIED: Final = ("Al", "Cu", "Si", "C", "H", "Li", "Mg", "Ni", "Au", "Fe", "W")
_DENSITY: Final = "CHGCAR"
_BULKY: Final = (_DENSITY, "CHG", "WAVECAR", "TMPCAR", "DOSCAR", "EIGENVAL", "PROCAR", "PCDAT", "XDATCAR", "IBZKPT")
_GRACE: Final = (0.1, 30.0)
"""How long before its time is up VASP is asked to stop: a fraction of that time, and at most so many seconds."""


@part
class Part:
    """Static VASP calculations: energy, forces and stress of periodic structures.

    The energy is the free energy ``e_fr_energy``, which includes the entropy of the smearing: forces and stress are its
    derivatives. With ``energy: sigma0`` it is the extrapolation to zero smearing instead, of which they are *not* the
    derivatives. Grids of k-points hold Gamma unless `monkhorst_pack` is set; large cells get Gamma alone by spacing.

    Custodian watches every calculation and corrects it. A correction that would change the level of theory is taken
    back, and the structure refused, unless `allow` names the setting; its label is then of another theory.

    POTCAR files are licensed: they are read from the library of the site file (``codes.vasp.potcars``, such as
    ``$PMG_VASP_PSP_DIR``), lie in a calculation's folder only while VASP runs, and are stored as titles and digests.
    Where the site file has ``codes.vasp.gamma_command`` (``vasp_gam``), it is run for calculations with Gamma alone.

    Attributes:
        potcar_symbols: POTCAR of each element, such as ``{Al: Al, W: W_pv}``: names in the library.
        encut_eV: cutoff of the plane waves.
        xc: functional. PBEsol and revPBE go with the POTCARs of PBE.
        energy: ``free``, or ``sigma0`` for the extrapolation to zero smearing.
        kpoints: ``gamma``, or the grid along each lattice vector. Give this or `kspacing_per_A`.
        kspacing_per_A: largest distance of k-points in 1/angstrom, 2 pi included, as VASP's KSPACING.
        monkhorst_pack: shift grids of even numbers off Gamma, as Monkhorst and Pack have them.
        ismear: kind of smearing: 0 Gaussian, 1 or 2 Methfessel-Paxton, -1 Fermi.
        sigma_eV: width of the smearing.
        moments_muB: initial magnetic moment of each element, such as ``{Fe: 5}``; elements left out have none. Empty
            for a calculation without spin.
        dispersion: van der Waals correction.
        ediff_eV: the electronic loop ends below this change of energy.
        nelm: most electronic steps; a calculation that needs more counts as not converged.
        incar: further INCAR tags, such as ``{ALGO: Fast, NCORE: 4}``; LDAUU, LDAUJ and LDAUL by element.
        allow: settings that corrections may change although they change the label, such as ``[SIGMA]``.
        frozen_s: a calculation that says nothing for so long hangs.
        max_seconds: longest a single calculation may take, all corrections included; null for no limit.
    """

    potcar_symbols: Mapping[str, str]
    encut_eV: Positive
    xc: Functional = "PBE"
    energy: vasp_outputs.Energy = "free"
    kpoints: Literal["gamma"] | Grid | None = None
    kspacing_per_A: Positive | None = None
    monkhorst_pack: bool = False
    ismear: Annotated[int, Field(ge=-1, le=2)] = 1
    sigma_eV: Positive = 0.2
    moments_muB: Mapping[str, float] = Field(default_factory=dict)
    dispersion: Dispersion | None = None
    ediff_eV: Positive = 1e-6
    nelm: Annotated[int, Field(ge=1)] = 120
    incar: Mapping[str, bool | int | float | str | Mapping[str, float]] = Field(default_factory=dict)
    allow: tuple[Allowed, ...] = ()
    frozen_s: Positive = 3600.0
    max_seconds: Positive | None = None

    code: ClassVar[str] = "vasp"

    def __post_init__(self) -> None:
        if (self.kpoints is None) == (self.kspacing_per_A is None):
            raise InputError("kpoints", "give either kpoints or kspacing_per_A", "such as kpoints: [3, 3, 3]")
        if not self.potcar_symbols:
            raise InputError("potcar_symbols", "is empty", "such as {Al: Al}")
        if strangers := sorted(set(self.moments_muB) - set(self.potcar_symbols)):
            raise InputError(f"moments_muB.{strangers[0]}", "is of an element that potcar_symbols does not name")
        for tag, value in self.incar.items():
            vasp_rules.check_tag(tag.upper(), value)
        vasp_rules.check_hubbard({tag.upper(): value for tag, value in self.incar.items()})
        by_element = (v for v in self.incar.values() if isinstance(v, Mapping))
        if strangers := sorted({s for v in by_element for s in v} - set(self.potcar_symbols)):
            raise InputError("incar", f"{strangers[0]} is an element that potcar_symbols does not name")

    @classmethod
    def trial(cls, code: Code) -> tuple[Part, str]:
        """As `HasTrial`: the first POTCAR of a common element in the site's library, at its own cutoff."""
        library = Path(str(_given(code).settings["potcars"]))
        xcs: tuple[Functional, ...] = ("PBE", "LDA")
        for element, xc in itertools.product(_TRIED, xcs if library.is_dir() else ()):
            with contextlib.suppress(InputError):
                found = vasp_potcars.find(library, element, element, _EXCHANGE[xc][1], "")
                part_ = cls(potcar_symbols={element: element}, encut_eV=found.enmax_eV, xc=xc, kpoints="gamma")
                return part_, element
        problem = f"{library} has no POTCAR to try VASP with: none of {', '.join(_TRIED)} can be read"
        raise InputError("codes.vasp.potcars", problem, "the folder of your POTCAR library")

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        if missing := sorted(elements - set(self.potcar_symbols)):
            names = ", ".join(missing)
            raise InputError("potcar_symbols", f"has no entry for {names}", f"add {{{missing[0]}: {missing[0]}}}")
        vasp_inputs.check_tags({tag.upper(): value for tag, value in self.incar.items()})
        code = _given(code)
        _commands(code)
        for element in self.potcar_symbols:
            self._potcar(element, code)

    def theory(self, code: Code | None) -> Theory:
        potcars = {element: self._potcar(element, _given(code)) for element in sorted(self.potcar_symbols)}
        rule = {"spacing_per_A": self.kspacing_per_A} if self.kpoints is None else {"grid": list(self._fixed())}
        settings = {
            "xc": self.xc,
            "energy": self.energy,
            "incar": {key: value for key, value in sorted(self._tags().items()) if vasp_rules.decides(key)},
            "kpoints": {**rule, "centre": "monkhorst_pack" if self.monkhorst_pack else "gamma"},
            "moments_muB": dict(sorted(self.moments_muB.items())),
            "dispersion": self.dispersion,
            "potcars": {element: {"title": p.title, "sha256": p.sha256} for element, p in potcars.items()},
        }
        return Theory("vasp", settings)

    def label(self, frames: Frames, code: Code | None, workdir: Path, limits: Limits = UNLIMITED) -> Labelled:
        code, theory = _given(code), self.theory(code)

        def one(frame: Frames) -> Labelled:
            folder = workdir / f"vasp-{theory.fingerprint[:8]}-{frame.ids()[0]}"
            labels, verdict = self._one(frame, code, folder, limits)
            return Labels.missing(frame) if labels is None else labels, (self._dated(verdict, theory),)

        return kept_each(frames, theory, workdir, one)

    def _one(self, frame: Frames, code: Code, folder: Path, limits: Limits) -> tuple[Labels | None, Verdict]:
        """The label of one frame, if there is one, and its verdict; `Verdict.theory` holds only what has changed."""
        if problem := self._problem(frame):
            return None, Verdict.bad(Cause.STRUCTURE, problem)
        run_dir = _prepared(folder, code.scratch)
        try:
            self._write(frame, folder, run_dir)
            ended, deadline = self._attend(frame, code, run_dir, limits)
            titles = [self._potcar(s, code).title for s in _species(frame)]
            answer = vasp_outputs.read_label(run_dir, frame, titles, self.energy) if ended.cause is None else None
            verdict = _verdict(ended, answer, folder, asked_to_stop=deadline.passed)
            if verdict.cause is Cause.TIME and (run_dir / _DENSITY).is_file():
                shutil.copyfile(run_dir / _DENSITY, folder.with_suffix(".density"))
            if verdict.cause is Cause.TIME and deadline.told:
                raise ResourceError(f"VASP was told to stop after {ended.seconds:.0f} s")
        finally:
            _put_away(run_dir, folder)
        if verdict.ok:
            shutil.rmtree(folder)
            folder.with_suffix(".density").unlink(missing_ok=True)
        return answer if isinstance(answer, Labels) else None, verdict

    def _attend(self, frame: Frames, code: Code, run_dir: Path, limits: Limits) -> tuple[Attended, Deadline]:
        """Run VASP in custodian's care; how it ended, and who asked it to stop."""
        from alflow.engines import custody, vasp_care

        given = [s for s in (self.max_seconds, limits.seconds) if s is not None]
        seconds = min(given, default=None)
        grace = 0.0 if seconds is None else min(_GRACE[0] * seconds, _GRACE[1])
        deadline = vasp_care.Deadline(seconds, limits.halt, grace)
        allowed = frozenset(self.allow)
        potcar = vasp_potcars.join([self._potcar(s, code) for s in _species(frame)])
        program = vasp_care.VaspProgram(*_commands(code), child_environment(code.env), potcar)
        handlers = vasp_care.handlers(program, self._tags(), allowed, self.frozen_s)
        with vasp_care.quiet():
            ended = custody.attend(
                program,
                run_dir,
                handlers,
                vasp_care.validators(program),
                vasp_care.rules(allowed),
                seconds=seconds,
                halt=deadline,
            )
        if ended.cause is not None:
            ended = replace(ended, cause=vasp_care.cause_of(ended.cause, run_dir))
        return ended, deadline

    def _dated(self, verdict: Verdict, theory: Theory) -> Verdict:
        """The verdict with the whole theory of its label, where a correction has changed it."""
        if verdict.theory is None:
            return verdict
        return replace(verdict, theory=Theory("vasp", {**theory.settings, "changed": dict(verdict.theory.settings)}))

    def _problem(self, frame: Frames) -> str:
        """What is wrong with a frame before VASP sees it, or empty."""
        if unknown := sorted(set(_species(frame)) - set(self.potcar_symbols)):
            return f"no POTCAR is named for {', '.join(unknown)}"
        if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
            return "positions or cell are not finite"
        if not frame.pbc.all() or not frame.volumes[0] > 1e-6:
            return "VASP needs a cell that is periodic in three directions"
        return ""

    def _write(self, frame: Frames, folder: Path, run_dir: Path) -> None:
        """INCAR, POSCAR and KPOINTS; and the charge density that an earlier run left when its time was up."""
        tags, density = self._tags(), folder.with_suffix(".density")
        if density.is_file():
            shutil.copyfile(density, run_dir / _DENSITY)
            tags["ICHARG"] = 1
        style: vasp_inputs.Style = "monkhorst_pack" if self.monkhorst_pack else "gamma"
        settings = vasp_inputs.Settings(tags, self.moments_muB, self.dispersion, style)
        vasp_inputs.write(frame, settings, self._grid(frame), run_dir)

    def _tags(self) -> dict[str, Any]:
        tags: dict[str, Any] = {
            "PREC": "Accurate",
            "LREAL": False,
            "GGA": _EXCHANGE[self.xc][0],
            "ENCUT": self.encut_eV,
            "ISMEAR": self.ismear,
            "SIGMA": self.sigma_eV,
            "EDIFF": self.ediff_eV,
            "NELM": self.nelm,
            "ISYM": 0,  # random structures have none, and looking for it is what fails most often
        }
        given = {tag.upper(): value for tag, value in self.incar.items()}
        return {tag: value for tag, value in {**tags, **given}.items() if value is not None}

    def _fixed(self) -> vasp_inputs.Grid:
        return self.kpoints if isinstance(self.kpoints, tuple) else (1, 1, 1)

    def _grid(self, frame: Frames) -> vasp_inputs.Grid:
        if self.kspacing_per_A is None:
            return self._fixed()
        return vasp_inputs.grid_of(frame.cell[0], self.kspacing_per_A)

    def _potcar(self, element: str, code: Code) -> vasp_potcars.Potcar:
        library, symbol = Path(str(code.settings["potcars"])), self.potcar_symbols[element]
        return vasp_potcars.find(library, symbol, element, _EXCHANGE[self.xc][1], f"potcar_symbols.{element}")


def _given(code: Code | None) -> Code:
    if code is None:
        raise InputError("codes.vasp", "is not in the site file", "describe command, launcher and potcars there")
    if not code.settings.get("potcars"):
        raise InputError("codes.vasp.potcars", "is not in the site file", "the folder of your POTCAR library")
    return code


def _commands(code: Code) -> tuple[list[str], list[str]]:
    """Command lines of ``vasp_std``, and of ``vasp_gam`` if the site file has a ``gamma_command``."""
    gamma = code.settings.get("gamma_command")
    if gamma is not None and not isinstance(gamma, str):
        raise InputError("codes.vasp.gamma_command", f"should be one program, got {gamma!r}", "such as vasp_gam")
    standard = command_of(code.name, code.command, code.launcher, code.env)
    return standard, command_of(code.name, (gamma,), code.launcher, code.env) if gamma else []


def _species(frame: Frames) -> list[str]:
    """Elements of a frame in the order that VASP gets them."""
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in np.unique(frame.numbers)]


def _prepared(folder: Path, scratch: Path | None) -> Path:
    """An empty, private folder to run in: `folder` itself, or one on scratch. What an interrupted run left goes.

    On scratch it has the same name whenever the calculation is done again, so that no POTCAR of a killed one stays.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    if scratch is None:
        return folder
    scratch.mkdir(parents=True, exist_ok=True)
    place = scratch / f"{folder.name}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]}"
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:  # another user's
        return Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=scratch))  # mode 0700
    return place


def _put_away(run_dir: Path, folder: Path) -> None:
    """Remove the POTCAR and what is large; bring the rest of a run on scratch to `folder`."""
    for name in (vasp_potcars.POTCAR, *_BULKY):
        (run_dir / name).unlink(missing_ok=True)
    if run_dir != folder:
        for path in run_dir.iterdir():
            shutil.move(path, folder / path.name)
        shutil.rmtree(run_dir, ignore_errors=True)


def _verdict(
    ended: Attended, answer: Labels | vasp_outputs.Refusal | None, folder: Path, *, asked_to_stop: bool
) -> Verdict:
    """What became of a calculation; `Verdict.theory` holds the settings that were changed as allowed."""
    log = folder / "vasp.out"
    more: dict[str, Any] = {"corrections": ended.corrections, "seconds": ended.seconds}
    if isinstance(answer, Labels):
        changed = Theory("vasp", dict(ended.changed)) if ended.changed else None
        return Verdict(True, theory=changed, **more)
    cause, reason = (ended.cause, ended.reason) if answer is None else (answer.cause, answer.reason)
    assert cause is not None
    if asked_to_stop and cause in {Cause.TIME, Cause.UNCONVERGED}:  # VASP calls it a success to have stopped
        cause, reason = Cause.TIME, f"ran out of time after {ended.seconds:.0f} s"
    return Verdict.bad(cause, reason, log, **more)
