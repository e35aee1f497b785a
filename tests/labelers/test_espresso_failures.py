"""What goes wrong with pw.x: the real program where that can be provoked, behind a script that spoils it where not."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from alflow.core.frames import Frames
from alflow.core.labels import Cause
from alflow.engines.espresso import sound_density
from alflow.errors import InfrastructureError, InputError, ResourceError
from alflow.interfaces import Code, Limits
from alflow.labelers.espresso import Part

DATA = Path(__file__).parents[1] / "engines" / "data" / "espresso"
PSEUDO_DIR = Path(os.environ.get("ALFLOW_TEST_PSEUDO_DIR", "/usr/share/espresso/pseudo"))
ENV = {"OMPI_MCA_ess_singleton_isolated": "1"}
CODE = Code("espresso", ("pw.x",), env=ENV, settings={"pseudo_dir": str(PSEUDO_DIR)})
LOOSE = Part(
    pseudopotentials={"Al": "Al.pz-vbc.UPF"}, ecutwfc_Ry=12, kpoints="gamma", degauss_Ry=0.05, conv_thr_Ry=1e-6
)
TWO = Frames.single([13, 13], [[0, 0, 0], [1.9, 2.0, 2.2]], [[4.0, 0, 0.1], [0, 4.1, 0], [0.3, 0, 4.2]])
needs_pw = pytest.mark.requires_program("pw.x")

UNCONVERGED = "echo '     convergence NOT achieved after 100 iterations: stopping'; exit 2"
CHOLESKY = "echo '     Error in routine cdiaghg (55):'; echo '     problems computing cholesky'; exit 1"


def rattled(side, seed=3):
    """Side cubed atoms of a crystal, moved at random, in a cell without symmetry."""
    rng = np.random.default_rng(seed)
    grid = np.array([[i, j, k] for i in range(side) for j in range(side) for k in range(side)]) * 2.5
    edges = 2.5 * side * np.eye(3) + rng.normal(0, 0.05, (3, 3))
    return Frames.single([13] * len(grid), grid + rng.normal(0, 0.15, grid.shape), edges)


@pytest.fixture
def behind(tmp_path):
    """A `Code` whose program is a shell script; ``$PW`` in it is the real one."""

    def code(text, **more):
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\nPW={shutil.which('pw.x')}\n{text}\n")
        path.chmod(0o755)
        return replace(CODE, command=(str(path),), **more)

    return code


def bad(part, frame, code, folder, limits=None):
    """The verdict on one frame that must fail, with a row of NaN and a log."""
    labels, (verdict,) = part.label(frame, code, folder, *([limits] if limits else []))
    assert not verdict.ok
    assert np.isnan(labels.energy).all()
    assert np.isnan(labels.forces).all()
    assert Path(verdict.log).is_file()
    return verdict


def good(part, frame, code, folder, limits=None):
    labels, (verdict,) = part.label(frame, code, folder, *([limits] if limits else []))
    assert verdict.ok, verdict
    assert np.isfinite(labels.energy).all()
    return labels, verdict


def same(got, want, atol=1e-4):
    """Within what the threshold of self-consistency leaves open."""
    np.testing.assert_allclose(got.energy, want.energy, rtol=0, atol=atol)
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=100 * atol)


# ---- self-consistency ----------------------------------------------------------------------------------------------


@needs_pw
def test_too_few_cycles_are_corrected_and_the_label_is_the_same(tmp_path):
    few = replace(LOOSE, electron_maxstep=3, conv_thr_Ry=1e-10)
    labels, verdict = good(few, rattled(2), CODE, tmp_path / "few")
    want, plain = good(replace(few, electron_maxstep=100), rattled(2), CODE, tmp_path / "many")
    assert plain.corrections == ()
    assert verdict.corrections
    first = verdict.corrections[0]
    assert (first["handler"], first["errors"]) == ("SelfConsistency", ["not self-consistent after 3 cycles"])
    assert first["changes"]["electrons.electron_maxstep"][0] == 3
    assert verdict.theory is None
    same(labels, want, 1e-6)


@needs_pw
def test_a_correction_goes_on_from_the_density(tmp_path):
    part = replace(LOOSE, electron_maxstep=4, conv_thr_Ry=1e-8, mixing_beta=0.4)
    _, verdict = good(part, rattled(2), CODE, tmp_path)
    assert verdict.corrections[0]["changes"]["electrons.startingpot"] == [None, "file"]
    assert "The initial density is read from file" in Path(verdict.log).read_text()


def test_without_convergence_more_smearing_is_refused_and_named(tmp_path, behind):
    verdict = bad(LOOSE, TWO, behind(f"echo Program PWSCF; {UNCONVERGED}"), tmp_path / "w")
    assert verdict.cause is Cause.LABEL_CHANGING
    assert "not self-consistent after 100 cycles" in verdict.reason
    assert "system.degauss from 0.05 to 0.1" in verdict.reason
    assert verdict.corrections[-1]["refused"] == ["system.degauss"]
    assert [c["handler"] for c in verdict.corrections] == ["SelfConsistency"] * 4


@needs_pw
def test_allowed_it_gives_a_label_of_another_theory(tmp_path, behind):
    code = behind(f'grep -q "degauss *= *0.1" pw.in && exec $PW "$@"; echo Program PWSCF; {UNCONVERGED}')
    part = replace(LOOSE, allow=("degauss",))
    labels, verdict = good(part, TWO, code, tmp_path / "w")
    assert verdict.theory is not None
    assert verdict.theory.settings["changed"] == {"system.degauss": 0.1}
    assert verdict.theory.fingerprint != part.theory(code).fingerprint
    want, _ = good(replace(LOOSE, degauss_Ry=0.1), TWO, CODE, tmp_path / "smeared")
    same(labels, want)
    again, verdicts = part.label(TWO, code, tmp_path / "w")
    assert verdicts == (verdict,)
    np.testing.assert_array_equal(again.energy, labels.energy)


def test_fixed_occupations_end_unconverged(tmp_path, behind):
    part = replace(LOOSE, occupations="fixed")
    verdict = bad(part, TWO, behind(f"echo Program PWSCF; {UNCONVERGED}"), tmp_path / "w")
    assert verdict.cause is Cause.UNCONVERGED
    assert verdict.reason == "not self-consistent after 100 cycles: 3 corrections did not help"


@needs_pw
def test_a_failed_diagonalization_is_done_otherwise(tmp_path, behind):
    code = behind(f'grep -q "diagonalization *= *.cg" pw.in && exec $PW "$@"; echo Program PWSCF; {CHOLESKY}')
    labels, verdict = good(LOOSE, TWO, code, tmp_path / "w")
    assert verdict.corrections[0]["changes"]["electrons.diagonalization"] == [None, "cg"]
    assert verdict.corrections[0]["errors"] == ["pw.x: error in cdiaghg: problems computing cholesky"]
    same(labels, good(LOOSE, TWO, CODE, tmp_path / "plain")[0])


# ---- time ----------------------------------------------------------------------------------------------------------


def halting_at(folder, words):
    """A halt that comes once the output holds some words."""

    def halt():
        return any(words in log.read_text(errors="replace") for log in folder.glob("*/pw.out"))

    return halt


SLOWER = replace(LOOSE, kpoints=(2, 2, 2), ecutwfc_Ry=14, conv_thr_Ry=1e-10)
SLOWEST = replace(SLOWER, kpoints=(3, 3, 3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The label that nothing interrupts."""
    labels, (verdict,) = SLOWER.label(rattled(2), CODE, tmp_path_factory.mktemp("whole"))
    assert verdict.ok, verdict
    return labels


@pytest.fixture
def once(behind, tmp_path):
    """pw.x, which is told to stop in its third cycle when it runs for the first time."""
    wait = "while ! grep -q 'iteration #  3' pw.out; do sleep 0.02; done; touch scratch/pwscf.EXIT"
    return behind(f'[ -e {tmp_path}/told ] || {{ touch {tmp_path}/told; ({wait}) & }}\nexec $PW "$@"')


@pytest.fixture
def halted(tmp_path, once):
    """The work folder of a call that was stopped after some cycles."""
    verdict = bad(SLOWER, rattled(2), once, tmp_path / "w")
    assert verdict.cause is Cause.TIME
    return tmp_path / "w"


def restarted(verdict):
    (entry,) = (c for c in verdict.corrections if c["handler"] == "Restart")
    return {setting: new for setting, (_, new) in entry["changes"].items()}


@needs_pw
@pytest.mark.slow
def test_a_halt_is_asked_for_and_leaves_what_is_needed_to_go_on(tmp_path):
    folder = tmp_path / "w"
    with pytest.raises(ResourceError, match=r"halted after \d+ s; .* holds what is needed to go on"):
        SLOWEST.label(rattled(2), CODE, folder, Limits(halt=halting_at(folder, "iteration #")))
    assert "Program stopped by user request" in next(folder.glob("*/pw.out")).read_text()
    assert list(folder.glob("*/scratch/pwscf.restart_*"))
    assert next(folder.glob("*/pw.words")).read_text().endswith("-in\npw.in")


@needs_pw
@pytest.mark.slow
def test_a_stopped_calculation_goes_on_in_mid_cycle(halted, once, whole):
    assert list(halted.glob("*/scratch/pwscf.restart_scf"))
    labels, verdict = good(SLOWER, rattled(2), once, halted)
    assert restarted(verdict) == {"control.restart_mode": "restart"}
    said = Path(verdict.log).read_text()
    assert "Calculation restarted from scf iteration #" in said
    assert "iteration #  1 " not in said
    same(labels, whole, 1e-6)
    assert sorted(p.name for p in Path(verdict.log).parent.iterdir()) == ["pw.in", "pw.out"]


@needs_pw
@pytest.mark.slow
def test_with_another_command_line_it_goes_on_from_the_density(halted, whole):
    labels, verdict = good(SLOWER, rattled(2), CODE, halted)  # as with more ranks, which need other files
    assert restarted(verdict) == {"electrons.startingpot": "file"}
    assert "The initial density is read from file" in Path(verdict.log).read_text()
    same(labels, whole, 1e-6)


@needs_pw
@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "no words", "other settings"])
def test_from_what_is_damaged_or_of_others_it_does_not(halted, once, whole, damage):
    part = SLOWER
    density = next(halted.glob("*/scratch/pwscf.save/charge-density.dat"))
    assert sound_density(density.parents[1])
    for file in density.parents[1].glob("pwscf.restart_*"):
        file.unlink()
    if damage == "cut":
        density.write_bytes(density.read_bytes()[:-100])
    elif damage == "empty":
        density.write_bytes(b"")
    elif damage == "no words":
        next(halted.glob("*/pw.words")).unlink()  # as after a kill
    else:
        part = replace(SLOWER, degauss_Ry=0.06)
    labels, verdict = good(part, rattled(2), once, halted)
    assert verdict.corrections == ()
    if part is SLOWER:
        np.testing.assert_array_equal(labels.energy, whole.energy)  # to the last digit


@needs_pw
@pytest.mark.slow
def test_a_restart_that_cannot_be_read_is_followed_by_a_fresh_start(halted, once, whole):
    for file in halted.glob("*/scratch/pwscf.save/*"):
        file.unlink()
    labels, verdict = good(SLOWER, rattled(2), once, halted)
    same(labels, whole, 1e-6)
    assert restarted(verdict)


@needs_pw
@pytest.mark.slow
def test_time_limits_are_kept_and_add_up_to_a_label(tmp_path):
    want, plain = good(SLOWEST, rattled(2), CODE, tmp_path / "whole")
    code, verdicts = replace(CODE, scratch=tmp_path / "fast"), []
    limit = Limits(seconds=max(2.0, 0.5 * plain.seconds))
    for _ in range(20):
        began = time.monotonic()
        labels, (verdict,) = SLOWEST.label(rattled(2), code, tmp_path / "w", limit)
        assert time.monotonic() - began < limit.seconds + 10
        verdicts.append(verdict)
        assert not list((tmp_path / "fast").iterdir())  # restart data waits where every node can read it
        if verdict.ok:
            break
        assert verdict.cause is Cause.TIME
        assert verdict.reason.startswith("ran out of time after ")
        assert str(tmp_path / "w") in verdict.reason
    assert verdicts[-1].ok
    if len(verdicts) > 1:  # else this machine is very fast
        assert restarted(verdicts[-1])
    same(labels, want, 1e-6)


@needs_pw
@pytest.mark.slow
def test_a_call_out_of_time_leaves_no_process(tmp_path):
    big = Frames.single([13] * 40, np.random.default_rng(0).random((40, 3)) * 10, np.eye(3) * 10)
    part = replace(LOOSE, ecutwfc_Ry=30, kpoints=(3, 3, 3), max_seconds=1)
    verdict = bad(part, big, CODE, tmp_path)
    assert verdict.reason.startswith("ran out of time after ")
    assert verdict.cause is Cause.TIME
    assert not [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(tmp_path))]
    assert not list(tmp_path.glob("labels-*"))  # another try may have more time


def test_nothing_begins_after_a_halt(tmp_path, behind):
    with pytest.raises(ResourceError, match="halted before"):
        LOOSE.label(TWO, behind("touch ran"), tmp_path / "w", Limits(halt=lambda: True))
    assert not list(tmp_path.rglob("ran"))


# ---- kills ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def killer(tmp_path):
    """Sends a signal to pw.x itself once it is at work below `tmp_path`."""

    def kill(number):
        for _ in range(2000):
            for p in psutil.process_iter(["name", "cwd"]):
                ours = p.info["name"] == "pw.x" and (p.info["cwd"] or "").startswith(str(tmp_path))
                if ours and "iteration #" in (Path(p.info["cwd"]) / "pw.out").read_text():
                    p.send_signal(number)
                    return
            time.sleep(0.01)

    def start(number):
        thread = threading.Thread(target=kill, args=(number,), daemon=True)
        thread.start()
        return thread

    return start


@needs_pw
@pytest.mark.slow
def test_a_killed_calculation_may_be_tried_again(tmp_path, killer):
    thread = killer(signal.SIGKILL)
    verdict = bad(SLOWER, rattled(2), CODE, tmp_path / "w")
    thread.join()
    assert verdict.cause is Cause.MEMORY
    assert "was killed" in verdict.reason
    assert not list((tmp_path / "w").glob("labels-*"))
    good(SLOWER, rattled(2), CODE, tmp_path / "w")


@needs_pw
@pytest.mark.slow
def test_a_terminated_one_is_not_held_against_the_structure(tmp_path, killer):
    thread = killer(signal.SIGTERM)
    with pytest.raises(InfrastructureError, match="from outside"):
        SLOWER.label(rattled(2), CODE, tmp_path / "w")
    thread.join()


# ---- structures ----------------------------------------------------------------------------------------------------


@needs_pw
def test_two_atoms_on_one_spot(tmp_path):
    frame = Frames.single([13, 13], [[0, 0, 0], [0, 0, 0]], np.eye(3) * 4)
    verdict = bad(LOOSE, frame, CODE, tmp_path)
    assert verdict.cause is Cause.CONTACT
    assert "overlap" in verdict.reason


def test_other_failures_of_atoms_too_close_are_named_so(tmp_path, behind):
    frame = Frames.single([13, 13], [[0, 0, 0], [0, 0, 0.4]], np.eye(3) * 4)
    verdict = bad(LOOSE, frame, behind("echo Program PWSCF; exit 28"), tmp_path / "w")
    assert verdict.cause is Cause.CONTACT
    assert verdict.reason == "ended with status 28; its closest atoms are 0.40 Å apart"
    assert bad(LOOSE, TWO, behind("echo Program PWSCF; exit 28"), tmp_path / "w").cause is Cause.PROGRAM


# ---- pseudopotentials ----------------------------------------------------------------------------------------------


@pytest.fixture
def own_pseudos(tmp_path):
    folder = tmp_path / "pseudos"
    folder.mkdir()
    shutil.copy(PSEUDO_DIR / "Al.pz-vbc.UPF", folder)
    return folder


@needs_pw
def test_a_missing_pseudopotential_is_named_before_anything_runs(tmp_path, own_pseudos, behind):
    code = replace(behind("touch ran"), settings={"pseudo_dir": str(own_pseudos)})
    (own_pseudos / "Al.pz-vbc.UPF").unlink()
    with pytest.raises(InputError, match=r"pseudopotentials.Al: the file .*Al.pz-vbc.UPF does not exist"):
        LOOSE.label(TWO, code, tmp_path / "w")
    (own_pseudos / "Al.pz-vbc.UPF").write_text((PSEUDO_DIR / "Al.pz-vbc.UPF").read_text()[:5000])
    with pytest.raises(InputError, match=r"Al.pz-vbc.UPF: is cut off"):
        LOOSE.label(TWO, code, tmp_path / "w")


@needs_pw
def test_one_that_vanishes_meanwhile_is_the_machines_fault(tmp_path, own_pseudos, behind):
    own = own_pseudos / "Al.own.UPF"
    (own_pseudos / "Al.pz-vbc.UPF").rename(own)
    part = replace(LOOSE, pseudopotentials={"Al": own.name})
    code = behind(f'rm {own}; exec $PW "$@"', settings={"pseudo_dir": str(own_pseudos)})
    with pytest.raises(InfrastructureError, match=r"Al.own.UPF not found: it could be read when"):
        part.label(TWO, code, tmp_path / "w")


@needs_pw
def test_another_file_of_the_same_name_is_noticed(tmp_path, own_pseudos, behind):
    path = own_pseudos / "Al.pz-vbc.UPF"
    path.write_text(path.read_text() + "<!-- of our own -->\n")
    settings = {"pseudo_dir": str(own_pseudos)}
    good(LOOSE, TWO, behind('exec $PW "$@"', settings=settings), tmp_path / "own")
    # Debian's pw.x falls back to its own folder for a file that it does not find
    code = behind(f'cp {PSEUDO_DIR}/Al.pz-vbc.UPF {own_pseudos}; exec $PW "$@"', settings=settings)
    with pytest.raises(InfrastructureError, match="did not read the pseudopotentials that it was given"):
        LOOSE.label(TWO, code, tmp_path / "w")


# ---- outputs that are not accepted ---------------------------------------------------------------------------------

SCHEMA = "scratch/pwscf.save/data-file-schema.xml"


@needs_pw
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (f": > {SCHEMA}", "data-file-schema.xml is damaged or cut off"),
        (f"head -c 5000 {SCHEMA} > x; mv x {SCHEMA}", "data-file-schema.xml is damaged or cut off"),
        (f"rm {SCHEMA}", "pw.x wrote no data-file-schema.xml"),
        (f"cp {DATA}/al2.xml {SCHEMA}", "of another structure: its positions differ"),
        (
            f"sed -i s/name=.Al./name=Cu/g {SCHEMA}; sed -i 's/name=Cu/name=\"Cu\"/g' {SCHEMA}",
            "of another structure: Cu2",
        ),
        (f"sed -i 's/<etot>/<etot>nan /' {SCHEMA}", "holds no finite etot"),
    ],
)
def test_a_spoiled_output_is_not_accepted(tmp_path, behind, spoil, reason):
    moved = TWO.moved(TWO.positions + np.array([[0, 0, 0], [0.01, 0, 0]]))
    verdict = bad(LOOSE, moved, behind(f'$PW "$@" || exit 1; {spoil}'), tmp_path / "w")
    assert verdict.cause is Cause.OUTPUT
    assert reason in verdict.reason


def test_a_printed_output_that_is_cut_off_is_not_accepted(tmp_path, behind):
    verdict = bad(LOOSE, TWO, behind("echo Program PWSCF"), tmp_path / "w")
    assert (verdict.cause, verdict.reason) == (Cause.OUTPUT, "pw.out is cut off before its end")


@pytest.mark.parametrize(
    ("text", "cause", "reason"),
    [
        ("exit 3", Cause.PROGRAM, "ended with status 3"),
        ("kill -9 $$", Cause.MEMORY, "was killed, most often for want of memory"),
        ("kill -11 $$", Cause.PROGRAM, "ended by signal 11"),
        ("echo Cannot allocate memory; exit 1", Cause.MEMORY, "not enough memory"),
        (
            "printf ' Error in routine a (1):\\n b\\n'; exit 1",
            Cause.PROGRAM,
            "pw.x: error in a: b: no correction is known",
        ),
        (
            "printf '  from cdiaghg : error #  55\\n  problems computing cholesky\\n' > CRASH; exit 1",
            Cause.PROGRAM,
            "pw.x: error in cdiaghg: problems computing cholesky: 3 corrections did not help",
        ),
    ],
)
def test_ends_of_all_kinds_are_verdicts(tmp_path, behind, text, cause, reason):
    verdict = bad(LOOSE, TWO, behind(f"echo Program PWSCF; {text}"), tmp_path / "w")
    assert (verdict.cause, verdict.reason) == (cause, reason)
    assert verdict.seconds > 0


def test_what_is_lasting_is_not_computed_again(tmp_path, behind):
    text = "echo x >> $(dirname $0)/runs; echo Program PWSCF; {}"
    for _ in range(2):
        bad(LOOSE, TWO, behind(text.format("exit 3")), tmp_path / "w")
    assert (tmp_path / "runs").read_text() == "x\n"
    other = TWO.moved(TWO.positions * 1.01)
    for _ in range(2):
        bad(LOOSE, other, behind(text.format("kill -9 $$")), tmp_path / "w")
    assert (tmp_path / "runs").read_text() == "x\nx\nx\n"


@pytest.mark.parametrize("text", ["echo mpirun: no slots; exit 1", "exit 127", ""])
def test_a_launcher_that_fails_is_the_machines_fault(tmp_path, behind, text):
    with pytest.raises(InfrastructureError, match=r"pw.x did not start .*pw.out"):
        LOOSE.label(TWO, behind(text), tmp_path / "w")


@needs_pw
@pytest.mark.parametrize(
    ("word", "value", "said"),
    [("vdw_cor", "dft-d3", "bad line in namelist &system"), ("input_dft", "foo", "FOO: unrecognized dft")],
)
def test_words_that_pw_does_not_know_are_no_structures_fault(tmp_path, word, value, said):
    with pytest.raises(InputError, match=said):
        replace(LOOSE, namelists={"system": {word: value}}).label(TWO, CODE, tmp_path)
    assert not list(tmp_path.glob("*.h5"))


def test_a_full_disk_is_the_machines_fault(tmp_path, behind):
    text = "echo Program PWSCF; echo 'Fortran runtime error: No space left on device' >&2; exit 2"
    with pytest.raises(InfrastructureError, match=r"No space left on device, see .*pw\.out"):
        LOOSE.label(TWO, behind(text), tmp_path / "w")
    assert not list((tmp_path / "w").glob("*.h5"))


# ---- scratch -------------------------------------------------------------------------------------------------------


def test_scratch_of_a_failure_is_kept_without_what_is_bulky(tmp_path, behind):
    leave = "mkdir -p $d/pwscf.save; touch $d/pwscf.wfc1 $d/pwscf.mix1 $d/pwscf.save/data-file-schema.xml"
    text = f"""d=$(sed -n "s/.*outdir *= '\\(.*\\)'/\\1/p" pw.in); ls -ld $d; {leave}; echo Program PWSCF; exit 3"""
    fast = tmp_path / "fast"
    verdict = bad(LOOSE, TWO, behind(text, scratch=fast), tmp_path / "w")
    (kept,) = fast.iterdir()
    assert str(kept) in verdict.reason
    assert [p.name for p in kept.rglob("*") if p.is_file()] == ["data-file-schema.xml"]
    assert "drwx------" in Path(verdict.log).read_text()


def test_scratch_of_another_user_is_not_entered(tmp_path, behind):
    fast, elsewhere = tmp_path / "fast", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    code = behind("echo Program PWSCF; exit 3", scratch=fast)
    from alflow.engines.espresso_run import outdir_of

    place = outdir_of(tmp_path / "w" / TWO.ids()[0], fast)
    fast.mkdir()
    place.symlink_to(elsewhere)
    with pytest.raises(InfrastructureError, match="is not ours"):
        LOOSE.label(TWO, code, tmp_path / "w")
    assert (elsewhere / "precious").exists()


def test_threads_and_environment_are_the_sites(tmp_path, behind, monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    verdict = bad(LOOSE, TWO, behind("echo Program PWSCF; env; cat; exit 3"), tmp_path / "w")
    said = Path(verdict.log).read_text()
    assert "OMP_NUM_THREADS=1\n" in said
    assert "PMI_RANK" not in said
