import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list

from alflow.core.frames import Frames
from alflow.errors import InputError
from alflow.science.crystals import STRUCTURES, crystal_atoms, crystals, lattice_constant, rattled

ASE = {"fcc": "fcc", "hcp": "hcp", "bcc": "bcc", "sc": "sc", "diamond": "diamond"}


def distances(atoms, cutoff=7.0):
    """Sorted neighbour distances of all atoms: what makes two crystals the same, however their cells are cut."""
    i, d = neighbor_list("id", atoms, cutoff)
    return [np.sort(d[i == k]) for k in range(len(atoms))]


def to_ase(frame):
    from ase import Atoms

    return Atoms(frame.numbers, positions=frame.positions, cell=frame.cell[0], pbc=frame.pbc[0])


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("min_atoms", [1, 5, 32])
def test_is_the_crystal_ase_builds(name, min_atoms):
    volume = 16.5
    frame = crystals(name, 13, volume, min_atoms=min_atoms)
    theirs = bulk("Al", ASE[name], a=lattice_constant(name, volume))
    assert frame.n_atoms >= min_atoms
    assert frame.n_atoms == crystal_atoms(name, min_atoms)
    assert frame.volumes[0] / frame.n_atoms == pytest.approx(volume, rel=1e-12)
    expected = distances(theirs)[0]
    for found in distances(to_ase(frame)):
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_hcp_takes_its_axis_ratio():
    frame = crystals("hcp", 30, 15.2, c_over_a=1.856)
    a, c = np.linalg.norm(frame.cell[0, 0]), np.linalg.norm(frame.cell[0, 2])
    assert c / a == pytest.approx(1.856)
    assert a == pytest.approx(lattice_constant("hcp", 15.2, 1.856))


def test_many_volumes_are_one_batch_of_similar_cells():
    frames = crystals("bcc", 74, [14.0, 16.0, 18.0], min_atoms=16)
    np.testing.assert_allclose(frames.volumes / frames.sizes, [14, 16, 18])
    whole = [np.linalg.solve(f.cell[0].T, f.positions.T) for f in frames]
    np.testing.assert_allclose(whole[0], whole[2], atol=1e-12)


def test_supercells_are_compact():
    widths = [
        1 / np.linalg.norm(np.linalg.inv(crystals(n, 13, 16.0, min_atoms=32).cell[0]), axis=0) for n in STRUCTURES
    ]
    assert min(w.min() / w.max() for w in widths) > 0.45
    assert crystal_atoms("fcc", 32) == 32
    assert crystal_atoms("sc", 27) == 27


def test_unknown_crystal_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"no crystal 'fc'.*\n.*fcc, hcp, bcc, sc, diamond"):
        crystals("fc", 13, 16.0)


def test_rattled_crystals_go_from_hardly_to_fully_disturbed():
    perfect = crystals("fcc", 13, 16.5, min_atoms=108)
    copies = rattled(perfect, 40, np.random.default_rng(3), volume=0.1, displacement_A=0.2, strain=0.0)
    assert isinstance(copies, Frames)
    assert len(copies) == 40
    scaled = np.cbrt(copies.volumes / perfect.volumes)
    kicks = np.array([(f.positions - s * perfect.positions).std() for f, s in zip(copies, scaled, strict=True)])
    np.testing.assert_allclose(kicks, 0.2 * np.arange(1, 41) / 40, rtol=0.15)
    assert np.abs(copies.volumes / perfect.volumes - 1).max() <= 0.1
    again = rattled(perfect, 40, np.random.default_rng(3), volume=0.1, displacement_A=0.2, strain=0.0)
    assert again.ids() == copies.ids()


def test_strain_of_rattled_crystals_is_symmetric_and_bounded():
    perfect = crystals("sc", 13, 16.5, min_atoms=8)
    copies = rattled(perfect, 30, np.random.default_rng(0), volume=0.0, displacement_A=0.0, strain=0.05)
    deform = np.linalg.solve(perfect.cell[0], copies.cell) - np.eye(3)
    np.testing.assert_allclose(deform, deform.transpose(0, 2, 1), atol=1e-12)
    assert 0.02 < np.abs(deform).max() <= 0.05
    fractional = [np.linalg.solve(f.cell[0].T, f.positions.T) for f in copies]
    np.testing.assert_allclose(fractional[0], fractional[-1], atol=1e-12)
