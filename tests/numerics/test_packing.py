import numpy as np
import pytest

from alflow.builders.random_cell import JAMMING_FRACTION
from alflow.numerics.packing import add_spheres


def by_hand(edges, species, reach, points):
    """The textbook loop over all earlier spheres and the 27 nearest images."""
    images = np.array(list(np.ndindex(3, 3, 3))) - 1
    placed = []
    for p in points * edges:
        if len(placed) == len(species):
            break
        k = len(placed)
        if all(
            np.linalg.norm(p - q + images * edges, axis=1).min() >= reach[species[k], species[j]]
            for j, q in enumerate(placed)
        ):
            placed.append(p)
    return np.array(placed)


@pytest.mark.parametrize("edges", [(7.0, 8.0, 9.0), (2.1, 4.5, 11.0), (3.9, 3.9, 6.1)])
def test_same_points_are_taken_as_in_the_textbook_loop(edges):
    edges = np.array(edges)
    species = np.random.default_rng(3).integers(0, 2, int(edges.prod() * 0.04) + 1)
    reach = np.array([[1.5, 1.8], [1.8, 2.0]])
    positions, placed = add_spheres(edges, species, reach, np.random.default_rng(7), 4096)
    want = by_hand(edges, species, reach, np.random.default_rng(7).random((4096, 3)))
    assert placed == len(want)
    np.testing.assert_allclose(positions[:placed], want, rtol=0, atol=1e-12)
    assert (positions[placed:] == 0).all()


def test_trials_are_bounded():
    n = round(0.6 * 1000 / (np.pi / 6))  # beyond jamming: unit spheres in a box of 10
    _, placed = add_spheres(np.full(3, 10.0), np.zeros(n, np.int64), np.ones((1, 1)), np.random.default_rng(0), 200_000)
    assert 0.33 < placed * np.pi / 6 / 1000 < JAMMING_FRACTION


def test_nothing_asked_for_is_nothing_placed():
    positions, placed = add_spheres(
        np.full(3, 5.0), np.zeros(0, np.int64), np.ones((1, 1)), np.random.default_rng(0), 10
    )
    assert positions.shape == (0, 3)
    assert placed == 0
