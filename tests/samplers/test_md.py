import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.core.units import KB_eV_K
from alflow.errors import InputError
from alflow.interfaces import Guide, Scores, Stop, Thresholds
from alflow.samplers.md import Part
from alflow.testing.sampler_contract import same_harvest
from alflow.testing.toy_data import toy_frames
from alflow.testing.toy_physics import morse


class Exact:
    """The Morse solid as a model and as its own gauge; the score is what `score(frames, call)` says."""

    cutoff_A = 5.0

    def __init__(self, score=lambda frames, call: np.zeros(len(frames)), spoil=lambda labels, frames, call: labels):
        self.calls, self.asked, self.seen = 0, [], []
        self._score, self._spoil = score, spoil

    def predict(self, frames, *, stress=True):
        self.seen.append(frames)
        return morse(frames)

    def evaluate(self, frames, *, stress=False):
        labels = self._spoil(self.predict(frames), frames, self.calls)
        score = np.asarray(self._score(frames, self.calls), float)
        self.calls += 1
        return labels, Scores(score, {"twice": 2 * score})

    def extended(self, frames):
        return self


def run(part, start, model=None, select=1.0, stop=1.0, gauge=True, workdir=None, **more):
    model = model or Exact()
    guide = Guide(model, model if gauge else None, Thresholds(select, stop))
    with tempfile.TemporaryDirectory() as folder:
        return part.run(start, guide, np.random.default_rng(1), workdir or Path(folder), **more)


def big(frames, n=27):
    return frames.sizes == n


SHORT = Part(length_ps=0.02, timestep_fs=1, T_K=300)


def test_it_ends_at_the_threshold_and_the_others_go_on():
    start = Frames.concat([toy_frames(1), toy_frames(1, n_atoms=27), toy_frames(1, seed=2)])
    model = Exact(lambda frames, call: np.where(big(frames), 0.25 * call, 0.0))
    harvest = run(SHORT, start, model)
    assert harvest.stops == (Stop.COMPLETED, Stop.EXTRAPOLATED, Stop.COMPLETED)
    assert harvest.lengths == pytest.approx([0.02, 0.005, 0.02])  # 0.25 * 5 is the first above 1
    assert harvest.origin.tolist() == [0, 1, 2]
    assert harvest.scores.tolist() == [0, 1.25, 0]
    assert harvest.columns["twice"].tolist() == [0, 2.5, 0]
    assert [len(f) for f in model.seen] == [3] * 6 + [2] * 15  # one evaluation a step; none for what has ended


def test_a_start_the_model_does_not_know_is_a_candidate_itself():
    start = toy_frames(2)
    harvest = run(SHORT, start, Exact(lambda frames, call: np.array([2.0, 0.0])[: len(frames)] * (call == 0)))
    assert harvest.stops == (Stop.EXTRAPOLATED, Stop.COMPLETED)
    assert harvest.lengths[0] == 0
    fraction = (harvest.candidates[0].positions - start[0].positions) @ np.linalg.inv(start.cell[0])
    assert np.abs(fraction - np.round(fraction)).max() < 1e-12


def test_completed_frames_are_candidates_or_products():
    harvest = run(SHORT, toy_frames(2))
    assert (len(harvest.candidates), len(harvest.products)) == (2, 0)
    part = Part(length_ps=0.02, timestep_fs=1, T_K=300, queue_final=False)
    other = run(part, toy_frames(2))
    assert (len(other.candidates), len(other.products)) == (0, 2)
    assert other.products.ids() == harvest.candidates.ids()
    assert other.stops == harvest.stops == (Stop.COMPLETED,) * 2


@pytest.mark.parametrize(("keep", "times"), [("all", [3, 6, 9, 12, 15]), ("last", [15])])
def test_two_thresholds_keep_frames_on_the_way(keep, times):
    part = Part(length_ps=0.02, timestep_fs=1, T_K=300, keep=keep, spacing_ps=0.003, queue_final=False)
    model = Exact(lambda frames, call: np.full(len(frames), 5.0 if 3 <= call < 17 else 0.0))
    harvest = run(part, toy_frames(1), model, select=3, stop=10)
    assert harvest.stops == (Stop.COMPLETED,)
    assert harvest.columns["time_ps"] == pytest.approx(np.array(times) / 1000)
    assert (harvest.scores == 5).all()
    model = Exact(lambda frames, call: np.full(len(frames), 5.0 if 3 <= call < 17 else 11.0 * (call == 17)))
    harvest = run(part, toy_frames(1), model, select=3, stop=10)
    assert harvest.stops == (Stop.EXTRAPOLATED,)
    assert harvest.columns["time_ps"][-1] == pytest.approx(0.017)
    assert harvest.scores[-1] == 11


def nan_energy(labels, frames, call):
    labels.energy[big(frames) & (call == 4)] = np.nan
    return labels


def nan_force(labels, frames, call):
    if call == 4:
        labels.forces[frames.frame_of_atom == np.flatnonzero(big(frames))[0]] = np.nan
    return labels


def explosion(labels, frames, call):
    labels.energy[big(frames) & (call == 4)] += 27 * 10.9
    return labels


def collapse(labels, frames, call):
    labels.energy[big(frames) & (call == 4)] -= 27 * 10.9
    return labels


def push(labels, frames, call):
    if call == 4:
        labels.forces[frames.frame_of_atom == np.flatnonzero(big(frames))[0]] *= 3000
    return labels


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (nan_energy, "not finite"),
        (nan_force, "not finite"),
        (explosion, "energy changed by 1[01]"),
        (collapse, "energy changed by 1[01]"),
        (push, "temperature is"),
    ],
)
def test_what_is_unphysical_ends_alone_and_brings_nothing(spoil, words):
    start = Frames.concat([toy_frames(1), toy_frames(1, n_atoms=27), toy_frames(1, seed=2)])
    clean, harvest = run(SHORT, start), run(SHORT, start, Exact(spoil=spoil))
    assert harvest.stops == (Stop.COMPLETED, Stop.UNPHYSICAL, Stop.COMPLETED)
    assert harvest.lengths[1] == pytest.approx(0.004)
    assert re.search(words, harvest.detail[1])
    assert harvest.origin.tolist() == [0, 2]
    assert harvest.candidates.ids() == clean.candidates.take([0, 2]).ids()  # the others never noticed


def test_a_nan_score_is_unphysical():
    harvest = run(SHORT, toy_frames(1), Exact(lambda frames, call: np.full(1, np.nan if call == 3 else 0)))
    assert harvest.stops == (Stop.UNPHYSICAL,)
    assert len(harvest.candidates) == 0


def test_temperature_and_contacts_have_limits():
    hot = Part(length_ps=0.02, timestep_fs=1, T_K=3000, max_T_K=1000)
    assert run(hot, toy_frames(1)).detail[0].startswith("temperature is")
    near = Part(length_ps=0.02, timestep_fs=1, T_K=300, min_distance_A=2.6)
    harvest = run(near, toy_frames(2))
    assert "closer" in harvest.detail[0]
    pair = Frames.single([13, 13], [[0, 0, 0], [0, 0, 1.2]], np.eye(3) * 9)  # covalent radii: 1.21 each
    assert run(SHORT, pair).detail == ("a pair of atoms is closer than its limit",)
    assert run(SHORT, pair).lengths[0] == 0


def test_what_was_selected_before_it_became_unphysical_is_brought_home():
    def score(frames, call):
        return np.full(len(frames), 5.0 if call == 2 else 0.0)

    harvest = run(SHORT, toy_frames(1, n_atoms=27), Exact(score, nan_energy), select=3, stop=10)
    assert harvest.stops == (Stop.UNPHYSICAL,)
    assert harvest.columns["time_ps"] == pytest.approx([0.002])


def test_halting_brings_home_what_was_selected(tmp_path):
    asked = []

    def halt():
        asked.append(1)
        return len(asked) == 6

    model = Exact(lambda frames, call: np.full(len(frames), 5.0 * (call == 2)))
    harvest = run(SHORT, toy_frames(2), model, select=3, stop=10, halt=halt, workdir=tmp_path)
    assert harvest.stops == (Stop.HALTED,) * 2
    assert harvest.lengths == pytest.approx([0.005, 0.005])
    assert harvest.columns["time_ps"] == pytest.approx([0.002, 0.002])


def test_scores_are_asked_for_when_due():
    part = Part(length_ps=0.01, timestep_fs=1, T_K=300, check_every=4)
    model = Exact(lambda frames, call: np.full(len(frames), float(call)))
    harvest = run(part, toy_frames(1), model, select=90, stop=90)
    assert model.calls == 4  # steps 0, 4, 8 and the last, 10
    assert len(model.seen) == 11
    assert harvest.scores.tolist() == [3]


def test_without_a_gauge_it_is_plain_dynamics():
    harvest = run(SHORT, toy_frames(2), gauge=False)
    assert harvest.stops == (Stop.COMPLETED,) * 2
    assert np.isnan(harvest.scores).all()
    assert harvest.candidates.ids() == run(SHORT, toy_frames(2)).candidates.ids()


def test_a_trajectory_depends_on_its_own_start_and_seed_only():
    part = Part(length_ps=0.06, timestep_fs=1, volumetric_strain=(-0.1, 0.1), shear_strain=0.05, relax_steps=3)
    start = Frames.concat([toy_frames(1), toy_frames(1, n_atoms=27), toy_frames(1, seed=2)])

    def first_leaves(frames, call):
        return np.where(big(frames), 2.0 * (call == 40), 0.0)

    one, two = run(part, start), run(part, start, Exact(first_leaves))
    assert two.stops[1] is Stop.EXTRAPOLATED
    assert one.candidates.take([0, 2]).ids() == two.candidates.take([0, 2]).ids()


def test_the_thermostat_holds_the_temperature():
    part = Part(length_ps=1.0, timestep_fs=4, T_K=500, friction_per_ps=20, keep="all", spacing_ps=0.02)
    start = toy_frames(8, n_atoms=8, rattle_A=0.05)
    model = Exact(lambda frames, call: np.full(len(frames), 5.0))
    harvest = run(part, start, model, select=1, stop=10)
    late = harvest.columns["time_ps"] > 0.3
    T = harvest.columns["T_K"][late]
    # 24 degrees of freedom a sample, 8 trajectories, 0.7 ps of 0.05 ps memory: sigma of the mean < 4 %
    assert T.mean() == pytest.approx(500, rel=0.12)
    assert T.std() == pytest.approx(500 * np.sqrt(2 / 24), rel=0.25)
    assert (harvest.columns["T_target_K"] == 500).all()


def test_the_schedule_is_followed():
    part = Part(
        length_ps=3.0,
        timestep_fs=5,
        friction_per_ps=100,
        keep="all",
        spacing_ps=0.05,
        T_start_K=(100, 101),
        T_end_K=(100, 101),
        T_mod_K=(900, 901),
        period_ps=(3, 3.001),
    )
    model = Exact(lambda frames, call: np.full(len(frames), 5.0))
    harvest = run(part, toy_frames(6, rattle_A=0.02), model, select=1, stop=10)
    t, T = harvest.columns["time_ps"], harvest.columns["T_K"]
    target = 100 + 900 * np.sin(np.pi * t / 3) ** 2
    assert harvest.columns["T_target_K"] == pytest.approx(target, abs=3)
    for low, high in ((0.1, 0.4), (1.2, 1.8), (2.6, 3.0)):
        window = (t > low) & (t < high)
        assert T[window].mean() == pytest.approx(target[window].mean(), rel=0.2)


def test_energy_is_conserved_without_a_thermostat():
    part = Part(length_ps=0.3, timestep_fs=1, T_K=300, ensemble="nve", keep="all", spacing_ps=0.01)
    model = Exact(lambda frames, call: np.full(len(frames), 5.0))
    harvest = run(part, toy_frames(2, n_atoms=8, rattle_A=0.1), model, select=1, stop=10)
    total = harvest.columns["energy_eV_atom"] + 1.5 * KB_eV_K * harvest.columns["T_K"]
    for i in range(2):
        mine = total[harvest.origin == i]
        assert len(mine) > 20
        assert np.ptp(mine) < 1e-3
    assert np.ptp(harvest.columns["T_K"]) > 20


def test_strained_cells_keep_their_bounds():
    part = Part(
        length_ps=1.0,
        timestep_fs=5,
        T_K=300,
        keep="all",
        spacing_ps=0.02,
        volumetric_strain=(-0.1, 0.15),
        shear_strain=0.08,
        strain_period_ps=(0.5, 1),
    )
    model = Exact(lambda frames, call: np.full(len(frames), 5.0))
    start = toy_frames(4, rattle_A=0.1)
    harvest = run(part, start, model, select=1, stop=10)
    F = np.linalg.inv(start.cell)[harvest.origin] @ harvest.candidates.cell
    J = np.linalg.det(F)
    shear = np.abs(np.log(np.linalg.svd(F, compute_uv=False) / np.cbrt(J)[:, None])).max(axis=1)
    assert J.min() > 0.9 - 1e-9
    assert J.max() < 1.15 + 1e-9
    assert np.ptp(J) > 0.05
    assert 0.02 < shear.max() < 0.08 + 1e-9
    first = harvest.columns["time_ps"] == 0
    assert np.abs(F[first] - np.eye(3)).max() < 1e-12
    assert harvest.columns["density_g_cm3"] == pytest.approx(8 * 26.9815385 * 1.66053907 / harvest.candidates.volumes)


def test_relaxation_takes_out_the_heat_and_watches_the_score():
    start, T = toy_frames(3, rattle_A=0.7), {}
    for steps in (0, 60):
        part = Part(length_ps=0.1, timestep_fs=1, T_K=300, relax_steps=steps)
        T[steps] = run(part, start).columns["T_K"].mean()
    assert T[60] < 0.6 * T[0]
    part = Part(length_ps=0.1, timestep_fs=1, T_K=300, relax_steps=60)
    harvest = run(part, start, Exact(lambda frames, call: np.full(len(frames), 2.0 * (call == 20))))
    assert harvest.stops == (Stop.EXTRAPOLATED,) * 3
    assert (harvest.lengths == 0).all()


def test_columns_say_what_is_so():
    harvest = run(SHORT, toy_frames(3))
    frames = harvest.candidates
    assert harvest.columns["energy_eV_atom"] == pytest.approx(morse(frames).energy / 8, abs=1e-9)
    d = [np.linalg.norm(f.positions[:, None] - f.positions + 0, axis=-1) for f in frames]
    assert (harvest.columns["min_distance_A"] <= [np.min(x[x > 0]) + 1e-9 for x in d]).all()
    assert (harvest.columns["min_distance_A"] > 1.5).all()


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, {folder!r})
from test_md import Exact, LONG, long_start, slow_score
from alflow.interfaces import Guide, Thresholds
model = Exact(slow_score)
LONG.run(long_start(), Guide(model, model, Thresholds(3, 10)), np.random.default_rng(1), Path({work!r}))
"""

LONG = Part(
    length_ps=0.3,
    timestep_fs=1,
    keep="all",
    spacing_ps=0.02,
    queue_final=False,
    relax_steps=10,
    volumetric_strain=(-0.1, 0.1),
    checkpoint_s=0.1,
)


def long_start():
    return Frames.concat([toy_frames(2), toy_frames(1, n_atoms=12, seed=4)])


def slow_score(frames, call):
    """A score that depends on the frame alone, so that a run may be cut anywhere; one leaves after a while."""
    time.sleep(0.003)
    x = frames.positions[frames.offsets[:-1]]
    return 4 + 3 * np.sin(40 * x.sum(axis=1))


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    whole = run(LONG, long_start(), Exact(slow_score), select=3, stop=10)
    assert len(whole.candidates) > 10
    code = CHILD.format(folder=os.path.dirname(__file__), work=str(tmp_path))
    checkpoint = tmp_path / "md_checkpoint.npz"
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert checkpoint.exists()
    model = Exact(slow_score)
    harvest = run(LONG, long_start(), model, select=3, stop=10, workdir=tmp_path)
    same_harvest(harvest, whole)
    assert len(model.seen) < 311  # it did not begin again
    assert not checkpoint.exists()


def test_a_halted_run_goes_on_where_it_was(tmp_path):
    def after(n):
        asked = iter(range(10**6))
        return lambda: next(asked) == n

    whole = run(LONG, long_start(), Exact(slow_score), select=3, stop=10)
    for n in (0, 60, 1, 90):
        harvest = run(LONG, long_start(), Exact(slow_score), select=3, stop=10, workdir=tmp_path, halt=after(n))
        assert Stop.HALTED in harvest.stops
    model = Exact(slow_score)
    same_harvest(run(LONG, long_start(), model, select=3, stop=10, workdir=tmp_path), whole)
    assert len(model.seen) < 311 - 150 + 5
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_of_another_run_is_not_taken(tmp_path):
    class Killed(BaseException):
        pass

    def halt():
        if len(model.seen) > 5:
            raise Killed
        return False

    part = Part(length_ps=0.02, timestep_fs=1, T_K=300, checkpoint_s=0)
    model = Exact()
    with pytest.raises(Killed):
        run(part, toy_frames(2), model, workdir=tmp_path, halt=halt)
    assert (tmp_path / "md_checkpoint.npz").exists()
    other = run(part, toy_frames(2, seed=5), workdir=tmp_path)
    same_harvest(other, run(part, toy_frames(2, seed=5)))


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"T_start_K": (500, 100)}, "T_start_K"),
        ({"period_ps": (5, 1)}, "period_ps"),
        ({"volumetric_strain": (0.1, 0.2)}, "volumetric_strain"),
        ({"volumetric_strain": (-1.0, 0.2)}, "volumetric_strain"),
        ({"T_K": 300, "T_mod_K": (0, 10)}, "T_K"),
        ({"length_ps": 0.001, "timestep_fs": 2}, "timestep_fs"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields, place):
    with pytest.raises(InputError) as caught:
        Part(**fields)
    assert caught.value.where == place


def test_it_needs_a_model_and_closed_cells_for_strain(tmp_path):
    with pytest.raises(InputError, match="follows a model"):
        Part().run(toy_frames(1), None, np.random.default_rng(0), tmp_path)
    free = Frames.single([13], [[0, 0, 0]], np.eye(3) * 9, pbc=[True, True, False])
    with pytest.raises(InputError, match="periodic in all directions"):
        run(Part(shear_strain=0.1), free)
    assert run(SHORT, free).stops == (Stop.COMPLETED,)


def test_the_papers_settings_are_the_defaults():
    from alflow.validation import plain, validate

    part = validate(Part, {"T_start_K": [10, 1000]}, "stages[0].sampler")
    assert part == Part()
    assert (part.length_ps, part.T_end_K, part.T_mod_K, part.period_ps) == (250, (10, 600), (0, 2000), (10, 50))
    assert validate(Part, plain(part), "x") == part
