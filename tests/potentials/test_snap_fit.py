"""The fit of `snap`: against a dense matrix, on data it can fit exactly, and on data that should not be fitted."""

from dataclasses import replace

import numpy as np
import pytest
from ase.data import chemical_symbols

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.errors import DataError, InputError, UnphysicalError
from alflow.potentials._snap_files import Snap, n_terms
from alflow.potentials._snap_labels import bootstrap_weights, uneven
from alflow.potentials._snap_model import SnapModel
from alflow.potentials._snap_rows import rows_of
from alflow.potentials.snap import Part
from alflow.store.dataset import Dataset
from alflow.testing.morse import THEORY, morse_dataset, morse_labels

BOTH = (13, 29)
TWO = {"weights": {"Al": 1.0, "Cu": 0.6}, "radii": {"Cu": 0.47}}
LINEAR = Part(twojmax=4, cutoff_A=4.6)
ALLOY = Part(twojmax=3, cutoff_A=4.6, stress_weight=0.7, force_weight_A=0.3, energy_weight=20.0, **TWO)


def fitted(part, data, out, members=range(1)):
    report = part.fit(data, members, 0, out)
    return part.load([out / f for f in report.files]), report


def teacher(part, z, seed=0):
    """A random potential of the form that `part` fits."""
    settings = part.descriptors(z)
    rng = np.random.default_rng(seed)
    c = 0.05 * rng.normal(size=(len(settings.numbers), 1 + n_terms(settings.n_features, part.quadratic)))
    c[:, 1 + settings.n_features :] *= 0.02
    c[:, 0] -= 100 * np.arange(1, len(c) + 1)
    return SnapModel([Snap(settings, part.quadratic, c, part.zbl)])


def labelled(model, frames, **columns):
    return Dataset(frames, model.predict(frames), THEORY, {k: np.array(v) for k, v in columns.items()})


# ---- right answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zbl_A", [None, (1.9, 2.8)])
@pytest.mark.parametrize(("quadratic", "count"), [(False, 14), (True, 40)])
@pytest.mark.parametrize("z", [(13,), BOTH])
def test_what_can_be_fitted_exactly_is(z, quadratic, count, zbl_A, tmp_path):
    part = replace(ALLOY, twojmax=2, quadratic=quadratic, zbl_A=zbl_A)
    truth = teacher(part, z)
    data = labelled(truth, morse_dataset(count, 1, (3, 8), z).frames)
    model, report = fitted(part, data, tmp_path)
    fresh = morse_dataset(5, 9, (3, 8), z).frames
    want, got = truth.predict(fresh), model.predict(fresh)
    np.testing.assert_allclose(got.energy, want.energy, rtol=1e-10)
    np.testing.assert_allclose(got.forces, want.forces, atol=1e-7)
    np.testing.assert_allclose(got.stress, want.stress, atol=1e-8)
    assert report.metrics["rank"] == report.metrics["coefficients"]
    assert report.metrics["train_force_rmse_meV_A"][0] < 1e-5


def dense_solution(part, data):
    """Coefficients by numpy's least squares of a matrix made of the predictions of one-term potentials."""
    settings = part.descriptors(data.frames.numbers)
    shape = (len(settings.numbers), 1 + n_terms(settings.n_features, part.quadratic))

    def column(labels):
        size, volume = data.frames.sizes, data.frames.volumes
        virial = (labels.stress * (volume / size)[:, None, None])[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        parts = (part.energy_weight * labels.energy / size, part.force_weight_A * labels.forces.ravel())
        return np.concatenate([*parts, part.stress_weight * virial.ravel()])

    columns = []
    for k in range(shape[0] * shape[1]):
        unit = np.zeros(shape)
        unit.flat[k] = 1.0
        columns.append(column(SnapModel([Snap(settings, part.quadratic, unit)]).predict(data.frames)))
    a = np.stack(columns, 1)
    length = np.linalg.norm(a, axis=0)
    return (np.linalg.lstsq(a / length, column(data.labels), rcond=1e-14)[0] / length).reshape(shape)


@pytest.mark.parametrize("part", [replace(ALLOY, bzero=False), replace(ALLOY, twojmax=2, quadratic=True)])
def test_it_is_the_weighted_least_squares_of_the_whole_matrix(part, tmp_path):
    data = morse_dataset(30, 2, (2, 6), BOTH)
    for batch_atoms in (1, 50, 10_000):
        model, report = fitted(replace(part, batch_atoms=batch_atoms), data, tmp_path / str(batch_atoms))
        want = dense_solution(part, data)
        scale = np.abs(want).max(1, keepdims=True)
        np.testing.assert_allclose(model.mean.coefficients / scale, want / scale, atol=1e-8)
    got = model.predict(data.frames)
    error = 1000 * (got.energy - data.labels.energy) / data.frames.sizes
    assert report.metrics["train_energy_rmse_meV_atom"][0] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    error = 1000 * (got.forces - data.labels.forces)
    assert report.metrics["train_force_rmse_meV_A"][0] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)


def test_energies_of_lone_atoms_can_be_held(tmp_path):
    data = morse_dataset(12, 3, (3, 6), BOTH)
    model, report = fitted(replace(ALLOY, isolated_eV={"Cu": -3.25}), data, tmp_path / "held")
    lone = Frames.concat([Frames.single([z], [[0, 0, 0]], np.eye(3) * 20) for z in BOTH])
    energy = model.predict(lone).energy
    assert energy[1] == pytest.approx(-3.25, abs=1e-12)
    assert energy[0] != 0
    assert report.metrics["coefficients"][0] == 1 + 2 * model.settings.n_features


def test_lone_atoms_and_atoms_out_of_reach_are_data_like_others(tmp_path):
    near = morse_dataset(10, 4, (3, 6)).frames
    far = Frames.single([13, 13], [[0, 0, 0], [7, 0, 0]], np.eye(3) * 15)
    lone = Frames.single([13], [[0, 0, 0]], np.eye(3), pbc=False)
    truth = teacher(LINEAR, (13,))
    frames = Frames.concat([near, far, lone])
    labels = truth.predict(frames)
    assert not labels.forces[-3:].any()
    data = Dataset(frames, Labels(labels.energy, labels.forces), THEORY)
    model, _ = fitted(LINEAR, data, tmp_path)
    np.testing.assert_allclose(model.predict(frames).energy, labels.energy, rtol=1e-10)


def test_the_basis_times_the_coefficients_is_the_energy():
    frames = morse_dataset(4, 5, (2, 6)).frames
    for quadratic in (False, True):
        model = teacher(replace(LINEAR, quadratic=quadratic), (13,))
        rows, c = model.features(frames), model.mean.coefficients[0]
        energy = np.add.reduceat(rows @ c, frames.offsets[:-1])
        np.testing.assert_allclose(energy, model.predict(frames).energy, rtol=1e-12)
        assert model.features(Frames.empty()).shape == (0, rows.shape[1])


# ---- ensembles -----------------------------------------------------------------------------------------------------


def test_bootstrap_weights_belong_to_the_frame():
    ids = [str(k) for k in range(4000)]
    w = bootstrap_weights(ids, 1, 0)
    assert w.min() > 0
    assert w.mean() == pytest.approx(1, abs=0.1)
    assert w.var() == pytest.approx(1, abs=0.2)
    assert (bootstrap_weights(ids[::-1], 1, 0)[::-1] == w).all()
    assert abs(np.corrcoef(w, bootstrap_weights(ids, 1, 1))[0, 1]) < 0.1
    assert abs(np.corrcoef(w, bootstrap_weights(ids, 2, 0))[0, 1]) < 0.1


def test_members_scatter_about_the_fit_to_all(tmp_path):
    data = morse_dataset(30, 6, (3, 6))
    one, _ = fitted(LINEAR, data, tmp_path / "one")
    part = replace(LINEAR, members=8)
    many, _ = fitted(part, data, tmp_path / "many", range(8))
    energy = many.predict_members(data.frames, forces=False).energy / data.frames.sizes
    shift = energy.mean(0) - one.predict(data.frames).energy / data.frames.sizes
    assert 0 < energy.std(0).mean() < 0.1
    assert np.abs(shift).mean() < energy.std(0).mean()


# ---- which labels count --------------------------------------------------------------------------------------------


def with_groups(data, names):
    return Dataset(data.frames, data.labels, data.theory, {"group": np.array(names)})


def test_groups_of_weight_zero_are_left_out_and_factors_count_like_repetition(tmp_path):
    data = morse_dataset(16, 7, (3, 6))
    halves = with_groups(data, ["a", "b"] * 8)
    some, _ = fitted(LINEAR, data.take(range(0, 16, 2)), tmp_path / "some")
    out, _ = fitted(replace(LINEAR, group_weights={"b": 0.0}), halves, tmp_path / "out")
    fresh = morse_dataset(4, 8, (3, 6)).frames
    np.testing.assert_allclose(out.predict(fresh).forces, some.predict(fresh).forces, atol=1e-8)
    twice = data.take([*range(16), *range(1, 16, 2)])
    heavy, _ = fitted(replace(LINEAR, group_weights={"b": 2**0.5}), halves, tmp_path / "heavy")
    repeated, _ = fitted(LINEAR, twice, tmp_path / "twice")
    np.testing.assert_allclose(heavy.predict(fresh).forces, repeated.predict(fresh).forces, atol=1e-8)


@pytest.mark.parametrize("quadratic", [False, True])
def test_batches_without_a_weight_on_forces_lack_nothing(quadratic, tmp_path):
    data = with_groups(morse_dataset(24, 7, (3, 6)), ["a", "b"] * 12)
    part = replace(ALLOY, twojmax=2, quadratic=quadratic, group_weights={"b": (1.0, 0.0, 0.0)})
    apart, _ = fitted(replace(part, batch_atoms=1), data, tmp_path / "apart")
    together, _ = fitted(replace(part, batch_atoms=10_000), data, tmp_path / "together")
    np.testing.assert_allclose(apart.mean.coefficients, together.mean.coefficients, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("quadratic", [False, True])
def test_rows_that_no_label_needs_are_not_made(quadratic):
    frames, settings = morse_dataset(3, 7, (3, 6), BOTH).frames, replace(ALLOY, twojmax=2).descriptors(BOTH)
    whole = rows_of(settings, quadratic, frames)
    assert whole.gradient is not None
    assert whole.strain is not None
    for kinds in (("energy",), ("force",), ("stress",), ("energy", "force")):
        some = rows_of(settings, quadratic, frames, kinds)
        np.testing.assert_array_equal(some.energy, whole.energy)
        for kind, got, want in (("force", some.gradient, whole.gradient), ("stress", some.strain, whole.strain)):
            assert (got is None) == (kind not in kinds)
            np.testing.assert_array_equal(want if got is None else got, want)


def test_groups_that_do_not_exist_are_named(tmp_path, capsys):
    data = morse_dataset(2, 7, (3, 4))
    part = replace(LINEAR, group_weights={"liquid": 2.0})
    with pytest.raises(DataError, match="no column 'group'"):
        part.fit(data, range(1), 0, tmp_path)
    part.fit(with_groups(data, ["liquids", "bulk"]), range(1), 0, tmp_path)  # it may come with later frames
    assert "no frame of the dataset is of group 'liquid'; did you mean 'liquids'?" in capsys.readouterr().out


def crystal(noise_A, seed=0):
    """Sixteen atoms of bcc, displaced."""
    sites = np.concatenate([np.argwhere(np.ones((2, 2, 2))) + s for s in (0.0, 0.5)])
    shift = noise_A * np.random.default_rng(seed).uniform(-1, 1, (16, 3))
    return Frames.single(np.full(16, 13), 3.1 * sites + shift, np.eye(3) * 6.2)


def test_symmetry_is_told_from_neglect():
    settings = LINEAR.descriptors([13])
    lone = Frames.single([13], [[0, 0, 0]], np.eye(3) * 20)
    frames = Frames.concat([crystal(0.0), crystal(1e-4), crystal(0.02), crystal(0.3), lone])
    assert uneven(settings, frames).tolist() == [[0, 1], [0, 1], [1, 1], [1, 1], [0, 0]]
    bare = replace(settings, bzero=False)
    assert uneven(bare, frames).tolist() == uneven(settings, frames).tolist()


def test_elements_of_equal_weight_hide_no_neglect():
    """Descriptors do not tell them apart, but coefficients do."""
    perfect, z = crystal(0.0), np.random.default_rng(1).permutation(np.resize(BOTH, 16))
    mixed = Frames.single(z, perfect.positions, perfect.cell[0])
    settings = replace(ALLOY, weights={"Al": 1.0, "Cu": 1.0}, radii={}).descriptors(BOTH)
    assert uneven(settings, Frames.concat([perfect, mixed])).tolist() == [[False, True], [True, True]]


def placeholder_data():
    """Four real frames, three rattled crystals without forces, a perfect one whose forces are zero."""
    frames = Frames.concat([morse_dataset(4, 9, (3, 6)).frames, *(crystal(0.2, k) for k in range(3)), crystal(0.0)])
    labels = morse_labels(frames)
    labels.forces[frames.offsets[4] :] = 0.0
    labels.stress[2:7] = 0.0
    return Dataset(frames, labels, THEORY, {"group": np.array(["md"] * 4 + ["eos"] * 4)})


def test_forces_and_stresses_that_nobody_computed_are_refused(tmp_path):
    data = placeholder_data()
    with pytest.raises(UnphysicalError, match=r"forces of 3 frames \(3 of 4 in group 'eos'\).*zero_labels: skip"):
        LINEAR.fit(data, range(1), 0, tmp_path)
    part = replace(LINEAR, stress_weight=1.0)
    with pytest.raises(UnphysicalError, match=r"stresses of 5 frames \(3 of 4 in group 'eos', 2 of 4 in group 'md'\)"):
        part.fit(data, range(1), 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_forces_that_nobody_computed_are_skipped_or_fitted_on_request(tmp_path):
    data = placeholder_data()
    skipped, report = fitted(replace(LINEAR, zero_labels="skip"), data, tmp_path / "skip")
    grouped, _ = fitted(replace(LINEAR, group_weights={"eos": (1.0, 0.0, 0.0)}), data, tmp_path / "group")
    as_they_are, _ = fitted(replace(LINEAR, zero_labels="fit"), data, tmp_path / "fit")
    assert report.metrics["placeholder_forces_frames"] == [3.0]
    fresh = morse_dataset(3, 10, (3, 6)).frames
    want = grouped.predict(fresh).forces
    np.testing.assert_allclose(skipped.predict(fresh).forces, want, atol=1e-8)  # a perfect crystal says nothing more
    assert np.abs(as_they_are.predict(fresh).forces - want).max() > 1e-3


def test_stress_is_taken_from_the_frames_that_have_one(tmp_path):
    truth = teacher(ALLOY, BOTH)
    data = labelled(truth, morse_dataset(12, 11, (3, 6), BOTH).frames)
    data.labels.stress[::2] = np.nan
    model, _ = fitted(ALLOY, data, tmp_path)
    np.testing.assert_allclose(model.predict(data.frames).energy, data.labels.energy, rtol=1e-9)
    none = Dataset(data.frames, Labels(data.labels.energy, data.labels.forces), THEORY)
    with pytest.raises(UnphysicalError, match="stress"):
        ALLOY.fit(none, range(1), 0, tmp_path)


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.eye(3) * 9])
def test_a_stress_counts_in_closed_cells_only(cell, tmp_path):
    """Open ones have no volume, so such numbers mean nothing: those of a molecule, zeros or not."""
    closed = morse_dataset(12, 11, (3, 6))
    molecule = Frames.single([13] * 2, [[0, 0, 0], [0, 0, 2.7]], cell, pbc=False)
    frames = Frames.concat([closed.frames, molecule, molecule.moved(molecule.positions * 1.1)])
    stress = np.concatenate([closed.labels.stress, np.zeros((1, 3, 3)), np.ones((1, 3, 3))])
    labels = Labels(np.append(closed.labels.energy, [-0.2, -0.3]), np.vstack([closed.labels.forces, np.ones((4, 3))]))
    part, found = replace(LINEAR, stress_weight=1.0), []
    for name, given in (("some", stress), ("none", np.where(np.arange(14)[:, None, None] < 12, stress, np.nan))):
        data = Dataset(frames, Labels(labels.energy, labels.forces, given), THEORY)
        found.append(fitted(part, data, tmp_path / name)[0].mean.coefficients)
    np.testing.assert_array_equal(*found)
    alone = Dataset(molecule, Labels(np.zeros(1), np.ones((2, 3)), np.ones((1, 3, 3))), THEORY)
    with pytest.raises(UnphysicalError, match="no label of the dataset has a stress"):
        part.fit(alone, range(1), 0, tmp_path)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_only_ratios_of_weights_matter(size, tmp_path):
    data, found = morse_dataset(12, 11, (3, 6)), []
    for k in (1.0, size):
        part = replace(LINEAR, energy_weight=30 * k, force_weight_A=k, stress_weight=0.1 * k)
        found.append(fitted(part, data, tmp_path / str(k)))
    (a, one), (b, other) = found
    np.testing.assert_allclose(a.mean.coefficients, b.mean.coefficients, rtol=1e-9)
    assert {k: v[0] for k, v in one.metrics.items()} == pytest.approx({k: v[0] for k, v in other.metrics.items()})


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quadratic", [False, True])
def test_too_few_frames_give_the_shortest_solution_and_say_so(quadratic, tmp_path):
    data = morse_dataset(1, 12, (3, 3), BOTH)
    part = replace(ALLOY, quadratic=quadratic)
    model, report = fitted(part, data, tmp_path)
    assert report.metrics["rank"][0] < report.metrics["coefficients"][0]
    assert np.isfinite(model.mean.coefficients).all()
    got = model.predict(data.frames)
    np.testing.assert_allclose(got.energy, data.labels.energy, atol=1e-6)
    np.testing.assert_allclose(got.forces, data.labels.forces, atol=1e-5)
    fresh = model.predict(morse_dataset(5, 13, (3, 6), BOTH).frames)
    assert np.abs(fresh.energy).max() < 1e3


def test_the_same_frame_again_and_again_decides_little(tmp_path):
    perfect = crystal(0.0)
    frames = Frames.concat([perfect.moved(perfect.positions * s, perfect.cell * s) for s in (1.0, 1.0, 1.02)])
    data = Dataset(frames, morse_labels(frames), THEORY)
    model, report = fitted(LINEAR, data, tmp_path)
    assert report.metrics["rank"][0] < 4
    np.testing.assert_allclose(model.predict(frames).energy, data.labels.energy, rtol=1e-9)


def test_a_ridge_shortens_the_coefficients(tmp_path):
    data = morse_dataset(12, 14, (3, 6))
    sizes = []
    for ridge in (0.0, 1e-6, 1.0):
        model, _ = fitted(replace(LINEAR, ridge=ridge), data, tmp_path / str(ridge))
        sizes.append(np.linalg.norm(model.mean.coefficients[:, 1:]))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < sizes[0] / 2


def test_a_structure_without_descriptors_is_named(tmp_path):
    good = morse_dataset(3, 15, (3, 4)).frames
    flat = Frames.single([13], [[0, 0, 0]], np.diag([3.0, 3.0, 0.0]))
    frames = Frames.concat([good, flat])
    data = Dataset(frames, Labels(np.zeros(4), np.zeros((frames.n_atoms, 3))), THEORY)
    with pytest.raises(UnphysicalError, match=flat.ids()[0]):
        replace(LINEAR, zero_labels="fit").fit(data, range(1), 0, tmp_path)


def test_a_repulsion_without_end_is_named(tmp_path):
    good = morse_dataset(3, 15, (3, 4)).frames
    for apart in (0.0, 1e-200):
        frames = Frames.concat([good, Frames.single([13] * 2, [[0, 0, 0], [0, 0, apart]], np.eye(3) * 9)])
        data = Dataset(frames, Labels(np.zeros(4), np.ones((frames.n_atoms, 3))), THEORY)
        part = replace(LINEAR, zbl_A=(1.0, 2.0))
        with pytest.raises(UnphysicalError, match=frames[3].ids()[0]):
            part.fit(data, range(1), 0, tmp_path)
        got = teacher(part, [13]).predict(frames)
        assert np.isnan(got.energy).tolist() == [False, False, False, True]
        assert np.isnan(got.forces[-2:]).all()
        assert np.isfinite(got.forces[:-2]).all()


def test_absurd_labels_are_refused(tmp_path):
    data = morse_dataset(3, 15, (3, 4))
    data.labels.energy[0] = 1e300
    with pytest.raises(UnphysicalError, match="too large"):
        LINEAR.fit(data, range(1), 0, tmp_path)


def test_elements_that_are_not_known_are_refused(tmp_path):
    data = morse_dataset(3, 16, (3, 4), BOTH)
    with pytest.raises(DataError, match="29"):
        replace(LINEAR, elements=("Al",)).fit(data, range(1), 0, tmp_path)
    with pytest.raises(DataError, match=r"weights.*Al, Cu"):
        LINEAR.fit(data, range(1), 0, tmp_path)
    with pytest.raises(DataError, match="29"):
        teacher(LINEAR, (13,)).predict(data.frames)
    with pytest.raises(UnphysicalError, match="nothing to fit"):
        replace(LINEAR, energy_weight=0.0, group_weights={"a": (1.0, 0.0, 0.0)}).fit(
            with_groups(morse_dataset(2, 0, (2, 3)), ["a", "a"]), range(1), 0, tmp_path
        )


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"cutoff_A": 0.0}, "cutoff_A"),
        ({"cutoff_A": float("nan")}, "cutoff_A"),
        ({"twojmax": -1}, "twojmax"),
        ({"twojmax": 200}, "twojmax"),
        ({"members": 0}, "members"),
        ({"ridge": -1.0}, "ridge"),
        ({"rcond": 1.0}, "rcond"),
        ({"twojmax": 16, "quadratic": True}, "quadratic"),
        ({"twojmax": 12, "quadratic": True, "members": 12}, "members_per_task"),
        ({"twojmax": 8, "members": 2_000_000}, "members_per_task"),
        ({"energy_weight": 0.0, "force_weight_A": 0.0}, "energy_weight"),
        ({"group_weights": {"a": -1.0}}, "group_weights.a"),
        ({"group_weights": {"a": (1.0, float("inf"), 1.0)}}, "group_weights.a"),
        ({"zbl_A": (3.0, 2.0)}, "zbl_A"),
        ({"rmin0_A": 9.0}, "rmin0_A"),
        ({"radii": {"Al": -0.5}}, "radii"),
        ({"elements": ("Al", "Al")}, "elements"),
        ({"elements": ("Cu",)}, "elements"),
        ({"weights": {"Xx": 1.0}}, "weights"),
        ({"elements": ("Al", "Cu"), "weights": {"Al": 1.0}}, "weights"),
        ({"isolated_eV": {"Al": float("nan")}}, "isolated_eV"),
        ({"elements": ("Al",), "isolated_eV": {"Ni": 0.0}}, "isolated_eV"),
        ({"elements": ("Al",), "radii": {"Al": 0.5, "Ni": 0.4}}, "radii"),
        ({"elements": ("Al",), "weights": {"Ni": 0.4}}, "weights"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, where):
    with pytest.raises(InputError) as caught:
        Part(**fields).check(frozenset({"Al"}))
    assert caught.value.where == where


def test_memory_is_counted_over_elements_and_members():
    many = tuple(chemical_symbols[1:90])
    weights = dict.fromkeys(many, 1.0)
    with pytest.raises(
        InputError, match=r"45123 unknowns, of 1 members .* need 195 GB .*\n.*a lower twojmax"
    ) as caught:
        Part(twojmax=20, weights=weights).check(frozenset(many))
    assert caught.value.where == "twojmax"
    Part(twojmax=12, quadratic=True, members=12, members_per_task=8).check(frozenset({"Al"}))
    with pytest.raises(InputError, match=r"hint: members_per_task: 8"):
        Part(twojmax=12, quadratic=True, members=12).check(frozenset({"Al"}))


def test_settings_that_work_are_not():
    Part().check(frozenset({"Al"}))
    Part(twojmax=14, quadratic=True).check(frozenset({"Al"}))
    Part().check(frozenset())
    ALLOY.check(frozenset({"Al", "Cu"}))
