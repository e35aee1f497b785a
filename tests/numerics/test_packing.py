import numpy as np
import pytest

from alflow.builders.random_cell import JAMMING_FRACTION
from alflow.numerics.packing import add_spheres, heights

SKEWED = np.array([[6.0, 0, 0], [2.5, 6.5, 0], [-1.0, 2.0, 5.0]])
FLAT = np.array([[9.0, 0, 0], [4.0, 2.3, 0], [1.0, 1.0, 7.0]])


def by_hand(cell, species, reach, points):
    """The textbook loop over all earlier spheres and 125 images."""
    images = (np.array(list(np.ndindex(5, 5, 5))) - 2) @ cell
    placed = []
    for p in points @ cell:
        if len(placed) == len(species):
            break
        k = len(placed)
        if all(
            np.linalg.norm(p - q + images, axis=1).min() >= reach[species[k], species[j]] for j, q in enumerate(placed)
        ):
            placed.append(p)
    return np.array(placed)


@pytest.mark.parametrize(
    "cell", [np.diag((7.0, 8.0, 9.0)), np.diag((2.1, 4.5, 11.0)), np.diag((3.9, 3.9, 6.1)), SKEWED, FLAT]
)
def test_same_points_are_taken_as_in_the_textbook_loop(cell):
    species = np.random.default_rng(3).integers(0, 2, int(np.linalg.det(cell) * 0.04) + 1)
    reach = np.array([[1.5, 1.8], [1.8, 2.0]])
    positions, placed = add_spheres(cell, species, reach, np.random.default_rng(7), 4096)
    want = by_hand(cell, species, reach, np.random.default_rng(7).random((4096, 3)))
    assert placed == len(want)
    np.testing.assert_allclose(positions[:placed], want, rtol=0, atol=1e-12)
    assert (positions[placed:] == 0).all()


def test_trials_are_bounded():
    n = round(0.6 * 1000 / (np.pi / 6))  # beyond jamming: unit spheres in a box of 10
    _, placed = add_spheres(10 * np.eye(3), np.zeros(n, np.int64), np.ones((1, 1)), np.random.default_rng(0), 200_000)
    assert 0.33 < placed * np.pi / 6 / 1000 < JAMMING_FRACTION


def test_nothing_asked_for_is_nothing_placed():
    positions, placed = add_spheres(5 * np.eye(3), np.zeros(0, np.int64), np.ones((1, 1)), np.random.default_rng(0), 10)
    assert positions.shape == (0, 3)
    assert placed == 0


def test_heights_are_volume_over_face():
    a, b, c = SKEWED
    faces = [np.linalg.norm(np.cross(*pair)) for pair in ((b, c), (c, a), (a, b))]
    np.testing.assert_allclose(heights(SKEWED), np.linalg.det(SKEWED) / faces)
