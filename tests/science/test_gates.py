import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels
from alflow.core.units import EV_A3_GPa
from alflow.errors import InputError
from alflow.science.gates import Gates


def cube(a=5.0, positions=((0.0, 0.0, 0.0),), numbers=None, pbc=True):
    numbers = [13] * len(positions) if numbers is None else numbers
    cell = np.eye(3) * a if np.ndim(a) == 0 else np.array(a)
    return Frames.single(numbers, np.array(positions, float).reshape(-1, 3), cell, pbc)


def reason(gates, frames):
    (verdict,) = gates.before(frames)
    return None if verdict is None else (verdict.cause, verdict.reason)


@given(
    x=st.lists(st.floats(0, 5), min_size=6, max_size=6),
    fraction=st.floats(0.3, 1.2),
    pair=st.sampled_from([(13, 13), (1, 74), (8, 29)]),
)
@settings(max_examples=60, deadline=None)
def test_contacts_are_those_of_ase(x, fraction, pair):
    positions = np.array(x).reshape(2, 3)
    limit = fraction * (covalent_radii[pair[0]] + covalent_radii[pair[1]])
    cell = np.array([[5.0, 0, 0], [1.0, 5.0, 0], [0, 1.0, 5.0]])
    distance = Atoms(pair, positions, cell=cell, pbc=True).get_distance(0, 1, mic=True)
    own = 2 * fraction * max(covalent_radii[list(pair)])  # an atom's images are 5 Å away
    if abs(distance - limit) < 1e-9 or own > 4.9:
        return
    found = reason(Gates(min_contact=fraction), cube(cell, positions, pair))
    assert (found is not None) == (distance < limit)
    if found:
        assert found[0] is Cause.CONTACT


def test_the_reason_of_a_contact_says_how_close():
    found = reason(Gates(), cube(6.0, [(0, 0, 0), (5.2, 0, 0)]))
    assert found == (Cause.CONTACT, "two atoms are 0.8 Å apart: less than 0.5 of the sum of their covalent radii")


def test_atoms_on_one_spot():
    assert reason(Gates(), cube(6.0, [(1, 1, 1), (1, 1, 1)]))[0] is Cause.CONTACT


@pytest.mark.parametrize(
    ("frame", "settings", "words"),
    [
        (cube(5, [(0, 0, 0), (2.5, 2.5, 2.5)]), {"max_atoms": 1}, "2 atoms, more than 1"),
        (cube([[5, 0, 0], [4.99, 0.3, 0], [0, 0, 5]]), {}, "faces of the cell are 0.3 Å apart, less than 1"),
        (cube([[5, 0, 0], [0, 300, 0], [0, 0, 5]]), {}, "60 times its least height, more than 50"),
        (cube([[5, 0, 0], [5, 0, 0], [0, 0, 5]]), {}, "span no volume"),
        (cube(5, [(np.nan, 0, 0)]), {}, "not finite"),
    ],
)
def test_shapes(frame, settings, words):
    cause, found = reason(Gates(**settings), frame)
    assert cause is Cause.STRUCTURE
    assert words in found


def test_a_molecule_needs_no_cell():
    frame = Frames.single([8, 1], [[0, 0, 0], [0, 0, 0.97]], np.zeros((3, 3)), False)
    assert reason(Gates(), frame) is None


def test_every_frame_of_a_batch_gets_its_own_verdict():
    good, bad = cube(5, [(0, 0, 0), (2.5, 2.5, 2.5)]), cube(5, [(0, 0, 0), (0.1, 0, 0)])
    nan = cube(5, [(np.inf, 0, 0)])
    found = Gates().before(Frames.concat([good, bad, nan, good]))
    assert [v and v.cause for v in found] == [None, Cause.CONTACT, Cause.STRUCTURE, None]
    assert Gates().before(Frames.empty()) == []


def test_switched_off():
    off = Gates(min_contact=None, min_height_A=None, max_aspect=None, max_force_eV_A=None, max_stress_GPa=None)
    frame = cube([[5, 0, 0], [0, 300, 0], [0, 0, 0.5]])
    assert off.before(frame) == [None]
    assert off.after(frame, Labels(np.array([1e9]), np.array([[1e9, 0, 0]]), np.eye(3)[None] * 1e9)) == [None]


LABEL = {"energy": -3.0, "force": 1.0, "stress": np.eye(3)}


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {}, None),
        ({"energy": np.nan}, {}, "not finite"),
        ({"force": np.inf}, {}, "not finite"),
        ({"force": 301.0}, {}, "largest force 301 eV/Å, more than 300"),
        ({"energy": -9.0}, {"energy_eV_atom": [-5, 5]}, "energy -9 eV/atom, outside of -5 to 5"),
        ({"stress": np.eye(3) * 1001}, {}, "largest stress 1001 GPa, more than 1000"),
        ({"stress": np.array([[0, 5.0, 0], [0, 0, 0], [0, 0, 0]])}, {}, "not symmetric: off by 5 GPa"),
        ({"stress": np.full((3, 3), np.nan)}, {}, None),
        ({"stress": np.diag([np.nan, 1, 1])}, {}, "stress is not finite"),
    ],
)
def test_labels(change, settings, words):
    values = LABEL | change
    labels = Labels(
        np.array([values["energy"]]), np.array([[values["force"], 0, 0]]), values["stress"][None] / EV_A3_GPa
    )
    (verdict,) = Gates(**settings).after(cube(), labels)
    if words is None:
        assert verdict is None
    else:
        assert verdict.cause is Cause.VALUE
        assert words in verdict.reason


def test_an_empty_range_of_energies_is_refused():
    with pytest.raises(InputError, match=r"energy_eV_atom: is no range: 1 is not below -1"):
        Gates(energy_eV_atom=(1, -1))


def test_cells_that_are_no_numbers_are_refused_without_a_word():
    cells = [np.full((3, 3), np.nan), np.full((3, 3), np.inf), np.diag([np.inf, 4, 4]), np.eye(3) * 4]
    told = Gates().before(Frames.concat([Frames.single([13], [[0, 0, 0]], c) for c in cells]))
    assert [v and v.reason for v in told] == ["positions or cell are not finite"] * 3 + [None]
