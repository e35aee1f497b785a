import json
import os
from pathlib import Path

import numpy as np
import pytest

from alflow.core.labels import Cause
from alflow.engines.custody import attend
from alflow.engines.espresso import Asked
from alflow.engines.espresso_care import (
    Diagonalization,
    OtherError,
    PwProgram,
    SelfConsistency,
    SoundOutput,
    Trouble,
    diagnose,
    handlers,
    stopped_cleanly,
)
from alflow.engines.espresso_input import change, read_settings, rules

DATA = Path(__file__).parent / "data" / "espresso"
TEXT = """&CONTROL
/
&SYSTEM
   occupations      = 'smearing'
   degauss          = 0.02
/
&ELECTRONS
   electron_maxstep = 50
   mixing_beta      = 0.7
/
K_POINTS gamma
"""
ERROR = (
    "     Program PWSCF v.6.7MaX\n\n %%%%%%%%%%%%%%%%\n     Error in routine {} ({}):\n     {}\n %%%%%%%%%%%%%%%%\n\n"
    "     stopping ...\n"
)
CYCLE = "     iteration # {0}     ecut=    30.00 Ry     beta= 0.70\n     estimated scf accuracy    <   {1} Ry\n"
UNCONVERGED = "     convergence NOT achieved after  50 iterations: stopping\n"
SLOW, FAST, EXPLODED = ([1.0, 0.9, 0.8, 0.7], [1.0, 0.1, 0.01, 0.001], [1.0, 5.0, 30.0, float("nan")])


def said(errors, end=UNCONVERGED):
    return "     Program PWSCF\n" + "".join(CYCLE.format(i, e) for i, e in enumerate(errors)) + end


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pw.in").write_text(TEXT)
    return tmp_path


def leave_density(outdir):
    place = outdir / "pwscf.save"
    place.mkdir()
    records = [np.ones(3, np.int32), np.eye(3), np.zeros((5, 3), np.int32), np.arange(10.0)]
    sizes = [np.int32(r.nbytes).tobytes() for r in records]
    (place / "charge-density.dat").write_bytes(
        b"".join(s + r.tobytes() + s for s, r in zip(sizes, records, strict=True))
    )


def corrections(handler, folder, text, times):
    """Settings after each of some corrections of the same output; None where the handler gives up."""
    (folder / "pw.out").write_text(text)
    found = []
    for _ in range(times):
        assert handler.check(directory=str(folder))
        told = handler.correct(directory=str(folder))
        assert told["errors"]
        found.append({k: v for k, v in read_settings(folder).items() if k != "K_POINTS"} if told["actions"] else None)
    return found


# ---- diagnoses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "trouble", "words"),
    [
        ("unconverged.out", Trouble.UNCONVERGED, "not self-consistent after 4 cycles"),
        ("overlap.out", Trouble.OVERLAP, "pw.x: error in check_atoms: atoms #   1 and #   2 overlap!"),
        (
            "missing_pseudo.out",
            Trouble.PSEUDO,
            "pw.x: error in readpp: file /usr/share/espresso/pseudo/nowhere.UPF not",
        ),
        ("stopped.out", Trouble.STOPPED, "stopped by its clock"),
        ("asked_to_stop.out", Trouble.STOPPED, "stopped as asked"),
        ("runtime_error.out", Trouble.ERROR, "pw.x: End of file"),
    ],
)
def test_outputs_of_the_real_program(file, trouble, words):
    found = diagnose((DATA / file).read_text())
    assert found is not None
    assert found[0] is trouble
    assert found[1].startswith(words)
    assert stopped_cleanly((DATA / file).read_text()) is (trouble is Trouble.STOPPED)


def test_a_converged_output_shows_no_trouble():
    assert diagnose((DATA / "converged.out").read_text()) is None
    assert diagnose("") is None
    warned = "mpi: cannot allocate huge pages\n"
    assert diagnose(warned + (DATA / "converged.out").read_text()) is None
    assert diagnose(warned + (DATA / "converged.out").read_text().partition("JOB DONE.")[0])[0] is Trouble.MEMORY


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        (ERROR.format("cdiaghg", 55, "problems computing cholesky"), Trouble.DIAGONALIZATION),
        (ERROR.format(" rdiaghg", 159, " problems computing cholesky "), Trouble.DIAGONALIZATION),
        (ERROR.format("cdiaghg", 7, "S matrix not positive definite"), Trouble.DIAGONALIZATION),
        (ERROR.format("c_bands", 1, "too many bands are not converged"), Trouble.DIAGONALIZATION),
        (ERROR.format("cdiaghg", 160, "eigenvectors failed to converge"), Trouble.DIAGONALIZATION),
        (ERROR.format("pcdiaghg", -3, "diagonalization failed"), Trouble.DIAGONALIZATION),
        (
            "     task #  3\n     from cdiaghg : error #  55\n     problems computing cholesky\n",
            Trouble.DIAGONALIZATION,
        ),
        (ERROR.format("read_namelists", 1, "bad line in namelist &system"), Trouble.ERROR),
        (ERROR.format("memory_report", 1, "more bands than PWs!"), Trouble.ERROR),
        (ERROR.format("allocate_fft", 1, "cannot allocate memory (ps)"), Trouble.MEMORY),
        ("Operating system error: Cannot allocate memory\nAllocation would exceed memory limit\n", Trouble.MEMORY),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0\n", Trouble.MEMORY),
        ("mpirun noticed that process rank 1 exited on signal 9 (Killed).\n", Trouble.MEMORY),
        ("     per-process dynamical memory: 12.0 Mb\n     JOB DONE.\n", None),
        ("     c_bands:  2 eigenvalues not converged\n     JOB DONE.\n", None),  # a warning, early on
    ],
)
def test_outputs_that_cannot_be_provoked(text, trouble):
    found = diagnose(text)
    assert (found[0] if found else None) is trouble


def test_each_trouble_has_one_handler(tmp_path):
    care = handlers(tmp_path, inhomogeneous=False)
    owners = [[type(h).__name__ for h in care if t in h.troubles] for t in Trouble]
    assert all(len(names) == 1 for names in owners), owners


# ---- self-consistency ----------------------------------------------------------------------------------------------


def test_what_does_not_converge_is_mixed_more_gently_and_smeared_last(folder):
    steps = corrections(SelfConsistency(folder), folder, said(SLOW), 5)
    assert [s and s["electrons.mixing_beta"] for s in steps] == [0.3, 0.1, 0.1, 0.1, None]
    assert [s and s["electrons.electron_maxstep"] for s in steps[:2]] == [200, 200]
    assert [s and s.get("electrons.diagonalization") for s in steps] == [None, None, "cg", "cg", None]
    assert [s and s["system.degauss"] for s in steps] == [0.02, 0.02, 0.02, 0.04, None]


def test_what_converges_gets_more_cycles_first_and_once(folder):
    steps = corrections(SelfConsistency(folder), folder, said(FAST), 2)
    assert [(s["electrons.electron_maxstep"], s["electrons.mixing_beta"]) for s in steps] == [(100, 0.7), (200, 0.3)]


def test_cells_with_vacuum_are_screened(folder):
    (step,) = corrections(SelfConsistency(folder, inhomogeneous=True), folder, said(SLOW), 1)
    assert step["electrons.mixing_mode"] == "local-TF"


def test_insulators_are_not_smeared(folder):
    change(folder, {"system.degauss": None, "system.occupations": "fixed"})
    steps = corrections(SelfConsistency(folder), folder, said(SLOW), 4)
    assert steps[-1] is None
    assert not any("system.degauss" in s for s in steps[:-1])


def test_a_retry_starts_from_a_density_that_is_nearer(folder):
    leave_density(folder)
    (step,) = corrections(SelfConsistency(folder), folder, said(FAST), 1)
    assert step["electrons.startingpot"] == "file"


@pytest.mark.parametrize("errors", [EXPLODED, [1.0, 2.0], [1.0]])
def test_but_not_from_one_that_went_astray(folder, errors):
    leave_density(folder)
    change(folder, {"electrons.startingpot": "file", "control.restart_mode": "restart"})
    (step,) = corrections(SelfConsistency(folder), folder, said(errors), 1)
    assert "electrons.startingpot" not in step
    assert "control.restart_mode" not in step


def test_nor_from_none(folder):
    (step,) = corrections(SelfConsistency(folder), folder, said(FAST), 1)
    assert "electrons.startingpot" not in step


# ---- others --------------------------------------------------------------------------------------------------------


def test_diagonalizations_are_tried_in_turn(folder):
    text = ERROR.format("cdiaghg", 55, "problems computing cholesky")
    steps = corrections(Diagonalization(folder), folder, text, 4)
    assert [s and s["electrons.diagonalization"] for s in steps] == ["cg", "ppcg", "david", None]
    assert steps[2]["electrons.diago_david_ndim"] == 4


def test_a_diagonalization_that_was_in_use_is_not_tried_again(folder):
    change(folder, {"electrons.diagonalization": "cg"})
    text = ERROR.format("cdiaghg", 55, "problems computing cholesky")
    assert corrections(Diagonalization(folder), folder, text, 1)[0]["electrons.diagonalization"] == "ppcg"


def test_a_start_that_cannot_be_read_is_followed_by_one_from_scratch(folder):
    change(folder, {"control.restart_mode": "restart"})
    text = ERROR.format("read_rhog", 1, "error reading file")
    first, second = corrections(OtherError(folder), folder, text, 2)
    assert "control.restart_mode" not in first
    assert second is None


def test_errors_in_mid_flight_are_not_blamed_on_the_start(folder):
    change(folder, {"electrons.startingpot": "file"})
    assert corrections(OtherError(folder), folder, said(SLOW, ERROR.format("a", 1, "b")), 1) == [None]


# ---- in custody ----------------------------------------------------------------------------------------------------


def test_more_smearing_is_refused_unless_allowed(folder):
    text = said(SLOW)
    words = ("/bin/sh", "-c", f"cat <<'X'\n{text}\nX\nexit 2")

    def ended(*allow):
        (folder / "pw.in").write_text(TEXT)
        program = PwProgram(words, os.environ, folder, None)
        return attend(program, folder, handlers(folder, inhomogeneous=False), [], rules(allow))

    refused = ended()
    assert refused.cause is Cause.LABEL_CHANGING
    assert refused.reason == (
        "not self-consistent after 50 cycles: mending it would change the label (system.degauss from 0.02 to 0.04)"
    )
    assert read_settings(folder)["system.degauss"] == 0.02
    allowed = ended("degauss")
    assert allowed.cause is Cause.UNCONVERGED  # this one never converges
    assert dict(allowed.changed) == {"system.degauss": 0.04}
    assert allowed.reason == "not self-consistent after 50 cycles: 4 corrections did not help"
    json.dumps(allowed.corrections)


def test_the_program_knows_when_its_time_is_up(folder):
    words = ("/bin/sh", "-c", "grep max_seconds pw.in; ls")
    program = PwProgram(words, os.environ, folder, 100.0)
    (folder / "pwscf.EXIT").touch()  # of an earlier halt
    attend(program, folder, [], [], rules(()), seconds=100.0)
    said_ = (folder / "pw.out").read_text()
    assert 90 < float(said_.split("=")[1].split()[0]) <= 95
    assert "pwscf.EXIT" not in said_
    assert program.ask_to_stop(folder)
    assert (folder / "pwscf.EXIT").exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("true", "pw.out is cut off before its end"),
        ("echo JOB DONE.", "pw.x wrote no data-file-schema.xml"),
        ("mkdir pwscf.save; : > pwscf.save/data-file-schema.xml; echo JOB DONE.", "is damaged or cut off"),
        (
            f"mkdir pwscf.save; cp {DATA}/al2.xml pwscf.save/data-file-schema.xml; echo JOB DONE.",
            "of another structure",
        ),
    ],
)
def test_output_is_held_against_what_was_asked(folder, script, reason):
    asked = Asked(("Al",), np.zeros((1, 3)), np.eye(3) * 4, stress=True)
    program = PwProgram(("/bin/sh", "-c", script), os.environ, folder, None)
    sound = SoundOutput(program, folder, asked)
    ended = attend(program, folder, handlers(folder, inhomogeneous=False), [sound], rules(()))
    assert ended.cause is Cause.OUTPUT
    assert reason in ended.reason
    assert sound.result is None
