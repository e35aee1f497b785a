import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.errors import DataError
from alflow.store.convert import (
    extxyz,
    from_ase,
    from_pymatgen,
    labelled_from_ase,
    read_file,
    to_ase,
    to_pymatgen,
    write_file,
)
from alflow.store.shards import Shard


def made(seed=0, sizes=(3, 1, 2), pbc=None, stress=True):
    rng = np.random.default_rng(seed)
    f = Frames.concat(
        [
            Frames.single(
                rng.integers(1, 94, n),
                rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-8, 8),
                rng.normal(size=(3, 3)) * 5,
                rng.random(3) > 0.5 if pbc is None else pbc,
            )
            for n in sizes
        ]
    )
    s = rng.normal(size=(len(f), 3, 3))
    labels = Labels(
        rng.normal(size=len(f)), rng.normal(size=(f.n_atoms, 3)), s + s.transpose(0, 2, 1) if stress else None
    )
    return Shard(f, {"T_K": rng.normal(size=len(f)), "step": np.arange(len(f)), "ok": rng.random(len(f)) > 0.5}, labels)


def check_same(got, want):
    assert got.frames.ids() == want.frames.ids()
    np.testing.assert_array_equal(got.labels.energy, want.labels.energy)
    np.testing.assert_array_equal(got.labels.forces, want.labels.forces)
    if want.labels.stress is None:
        assert got.labels.stress is None
    else:
        np.testing.assert_array_equal(got.labels.stress, want.labels.stress)
    for name, column in want.columns.items():
        np.testing.assert_array_equal(got.columns[name], column)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans())
def test_extended_xyz_keeps_every_bit(tmp_path, seed, sizes, stress):
    shard = made(seed, sizes, stress=stress)
    write_file(tmp_path / "a.extxyz", shard)
    check_same(read_file(tmp_path / "a.extxyz"), shard)


@given(st.integers(0, 2**32))
def test_ase_there_and_back_keeps_every_bit(seed):
    shard = made(seed)
    got = labelled_from_ase(to_ase(shard.frames, shard.labels))
    check_same(got, Shard(shard.frames, {}, shard.labels))


def test_ase_reads_our_file_with_its_own_meaning_of_stress(tmp_path):
    atoms = bulk("Cu", a=3.5).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    atoms.get_stress()
    write_file(tmp_path / "a.xyz", labelled_from_ase([atoms]))
    again = read(tmp_path / "a.xyz")
    assert again.get_potential_energy() == atoms.get_potential_energy()
    np.testing.assert_array_equal(again.get_forces(), atoms.get_forces())
    np.testing.assert_allclose(again.get_stress(), atoms.get_stress(), rtol=1e-14)


def test_stress_of_ase_is_tension_positive_like_ours():
    atoms = bulk("Cu", a=3.4)  # compressed: it pushes outwards
    atoms.calc = EMT()
    atoms.get_stress()
    shard = labelled_from_ase([atoms])
    assert shard.labels.stress[0].trace() < 0
    up, down = atoms.copy(), atoms.copy()
    for a, s in ((up, 1e-4), (down, -1e-4)):
        a.set_cell(atoms.cell * (1 + s), scale_atoms=True)
        a.calc = EMT()
    slope = (up.get_potential_energy() - down.get_potential_energy()) / 2e-4 / atoms.get_volume()
    assert slope == pytest.approx(shard.labels.stress[0].trace(), rel=1e-5)


def test_words_survive_extended_xyz(tmp_path):
    words = np.array(['a "b" c', "x=1 y\\z", "ü, 'q'", ""], np.str_)
    f = made(sizes=(1, 1, 1, 1)).frames
    write_file(tmp_path / "a.xyz", Shard(f, {"origin": words}))
    got = read_file(tmp_path / "a.xyz")
    assert got.columns["origin"].tolist() == words.tolist()
    assert got.labels is None


def test_failed_labels_are_left_out_and_come_back_as_nan(tmp_path):
    shard = made()
    shard.labels.energy[1] = np.nan
    shard.labels.stress[2] = np.nan
    write_file(tmp_path / "a.xyz", shard)
    got = read_file(tmp_path / "a.xyz").labels
    assert np.isnan(got.energy).tolist() == [False, True, False]
    assert np.isnan(got.forces).any(axis=1).tolist() == [False, False, False, True, False, False]
    assert np.isnan(got.stress).all(axis=(1, 2)).tolist() == [False, True, True]


def test_a_virial_is_a_stress(tmp_path):
    atoms = Atoms("Al", cell=np.eye(3) * 4, pbc=True)
    info = (
        'Lattice="4 0 0 0 4 0 0 0 4" virial="64 0 0 0 128 0 0 0 0" energy=1 Properties=species:S:1:pos:R:3:forces:R:3'
    )
    (tmp_path / "v.xyz").write_text(f"1\n{info}\nAl 0 0 0 0 0 0\n")
    got = read_file(tmp_path / "v.xyz").labels
    np.testing.assert_allclose(got.stress[0], np.diag([-1.0, -2.0, 0.0]))
    assert labelled_from_ase([atoms]).labels is None


@pytest.mark.parametrize("name", ["POSCAR", "a.cif", "a.traj", "a.json", "a.cfg"])
def test_other_formats_go_through_ase(tmp_path, name):
    f = Frames.single([13, 13, 29], [[0, 0, 0], [2, 2, 0.1], [0.5, 2, 2]], np.diag([4.0, 4.1, 4.2]))
    write_file(tmp_path / name, Shard(f))
    got = read_file(tmp_path / name).frames
    np.testing.assert_array_equal(got.numbers, f.numbers)
    np.testing.assert_allclose(got.positions, f.positions, atol=1e-6)
    np.testing.assert_allclose(got.cell, f.cell, atol=1e-6)
    assert got.pbc.all()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_index_picks(tmp_path):
    shard = made(sizes=(1, 2, 3, 4))
    write_file(tmp_path / "a.xyz", shard)
    assert read_file(tmp_path / "a.xyz", "-1").frames.ids() == shard.frames.ids()[-1:]
    assert read_file(tmp_path / "a.xyz", "1::2").frames.ids() == shard.frames.ids()[1::2]


def test_pymatgen_there_and_back():
    f = made(3, pbc=[True, True, True]).frames
    got = from_pymatgen(to_pymatgen(f))
    np.testing.assert_array_equal(got.numbers, f.numbers)
    np.testing.assert_array_equal(got.cell, f.cell)
    np.testing.assert_allclose(got.positions, f.positions, rtol=1e-9, atol=1e-9 * np.abs(f.positions).max())
    mixed = made(3, pbc=[True, False, True]).frames
    assert from_pymatgen(to_pymatgen(mixed)).pbc.tolist() == mixed.pbc.tolist()


def test_pymatgen_and_ase_agree():
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = bulk("NaCl", "rocksalt", a=5.6)
    a, b = from_ase([atoms]), from_pymatgen([AseAtomsAdaptor.get_structure(atoms)])
    np.testing.assert_array_equal(a.numbers, b.numbers)
    np.testing.assert_allclose(a.positions, b.positions, atol=1e-12)


def test_what_a_structure_of_pymatgen_cannot_be():
    with pytest.raises(DataError, match="frame 0: a pymatgen Structure needs three lattice vectors"):
        to_pymatgen(Frames.single([1], [[0, 0, 0]], np.zeros((3, 3)), pbc=False))


def test_partial_occupancies_are_refused(tmp_path):
    from pymatgen.core import Lattice, Structure

    mixed = Structure(Lattice.cubic(3), [{"Al": 0.5, "Cu": 0.5}], [[0, 0, 0]])
    with pytest.raises(DataError, match="structure 0: partial occupancy"):
        from_pymatgen([mixed])
    mixed.to(filename=str(tmp_path / "mixed.cif"))
    with pytest.raises(DataError, match=r"mixed.cif: structure 0: partial occupancy"):
        read_file(tmp_path / "mixed.cif")


@pytest.mark.parametrize(
    ("atoms", "match"),
    [
        (Atoms(), "structure 1: has no atoms"),
        (Atoms("X"), "structure 1: has an atom of unknown element"),
        (Atoms("Al", positions=[[np.nan, 0, 0]]), "structure 1: positions or cell are not finite"),
        (Atoms("Al", pbc=True), "structure 1: periodic in 3 directions, but its lattice vectors"),
        (Atoms("Al", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=[1, 1, 0]), "periodic in 2 directions"),
    ],
)
def test_structures_that_cannot_be_frames_are_named(atoms, match):
    with pytest.raises(DataError, match=match):
        from_ase([bulk("Al"), atoms])
    good = Atoms("Al", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=[True, False, True])
    assert len(from_ase([good])) == 1


def test_files_that_cannot_be_read_or_written_are_named(tmp_path):
    (tmp_path / "bad.xyz").write_text("2\n\nAl 0 0 0\n")
    for name, match in (("bad.xyz", "cannot be read"), ("none.xyz", "no such file")):
        with pytest.raises(DataError, match=rf"{name}: {match}"):
            read_file(tmp_path / name)
    with pytest.raises(DataError, match=r"a.nonsense: cannot be written"):
        write_file(tmp_path / "a.nonsense", Shard(made().frames))
    assert [p.name for p in tmp_path.iterdir()] == ["bad.xyz"]


def test_columns_are_what_all_structures_share(tmp_path):
    a, b = bulk("Al"), bulk("Al")
    a.info.update(T_K=1.0, name="x", odd=3, mixed=1, matrix=np.eye(2))
    b.info.update(T_K=2.0, name="y", mixed="word", matrix=np.eye(2))
    write(tmp_path / "a.xyz", [a, b])
    columns = read_file(tmp_path / "a.xyz").columns
    assert sorted(columns) == ["T_K", "name"]
    assert columns["T_K"].tolist() == [1.0, 2.0]


def test_nothing_is_an_empty_text():
    assert extxyz(Shard(Frames.empty())) == ""
    assert to_ase(Frames.empty()) == []
    assert len(from_ase([])) == 0
