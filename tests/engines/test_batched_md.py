import numpy as np
import pytest
import torch

from alflow.core.frames import Frames
from alflow.core.labels import Labels
from alflow.core.units import KB_eV_K
from alflow.engines.batched_md import BatchModel, LangevinBatch, TIME_fs, thermal_momenta, wrapped
from alflow.testing.toy_data import toy_frames
from alflow.testing.toy_physics import morse

AL_u = 26.9815385


def batch(frames, T_K=300.0, timestep_fs=2.0, friction_per_ps=0.0, predict=morse, seed=0):
    masses = np.full(frames.n_atoms, AL_u)
    momenta = np.concatenate(
        [thermal_momenta(np.random.default_rng([seed, i]), np.full(n, AL_u), T_K) for i, n in enumerate(frames.sizes)]
    )
    return LangevinBatch(frames, momenta, masses, predict, timestep_fs, friction_per_ps)


def total_energy(b):
    kinetic = 1.5 * KB_eV_K * b.temperatures_K() * b.frames.sizes
    return b.energy + kinetic


def fcc(a=4.05, repeat=2, rattle=0.0):
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    grid = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = (basis[None] + grid[:, None]).reshape(-1, 3) * a
    x = x + np.random.default_rng(0).normal(0, rattle, x.shape)
    return Frames.single(np.full(len(x), 13), x, np.eye(3) * a * repeat)


def harmonic(frames):
    """Independent oscillators about the origin, 1 eV/Å²."""
    x = frames.positions
    return Labels(np.add.reduceat(0.5 * (x**2).sum(axis=1), frames.offsets[:-1]), -x)


def test_the_unit_of_time():
    from ase import units

    assert units.fs * TIME_fs == pytest.approx(1, rel=1e-6)  # ase's unit of time is the same


def test_energy_is_conserved_without_friction_and_the_error_is_of_second_order():
    drift = []
    for dt in (2.0, 4.0):
        b = batch(fcc(rattle=0.05), T_K=400, timestep_fs=dt)
        energies = []
        for _ in range(int(200 / dt)):
            b.step(np.array([400.0]), np.zeros((32, 3)))
            energies.append(total_energy(b)[0])
        drift.append(np.std(energies))
    assert drift[0] < 2e-3
    assert drift[1] / drift[0] == pytest.approx(4, rel=0.25)


def test_an_oscillator_keeps_its_period():
    frame = Frames.single([13], [[0.3, 0.0, 0.0]], np.eye(3) * 10)
    b = LangevinBatch(frame, np.zeros((1, 3)), np.array([AL_u]), harmonic, 1.0, 0.0)
    period_fs = 2 * np.pi * np.sqrt(AL_u) * TIME_fs
    positions = []
    for _ in range(round(period_fs)):
        b.step(np.array([0.0]), np.zeros((1, 3)))
        positions.append(b.frames.positions[0, 0])
    assert positions[-1] == pytest.approx(0.3, abs=1e-3)
    assert min(positions) == pytest.approx(-0.3, abs=1e-4)


def test_it_is_torch_sims_langevin_bit_for_bit():
    import torch_sim.integrators.md as md
    from torch_sim.integrators.nvt import nvt_langevin

    frames, dt, friction = toy_frames(3), 2.0, 5.0
    b = batch(frames, friction_per_ps=friction, timestep_fs=dt)
    T = np.array([100.0, 300.0, 900.0])
    _, update = nvt_langevin(
        BatchModel(morse, frames),
        dt=torch.tensor(dt / TIME_fs, dtype=torch.float64),
        kT=torch.tensor(KB_eV_K * T),
        gamma=torch.tensor(friction * TIME_fs / 1000, dtype=torch.float64),
    )
    theirs = md.MDState(
        positions=torch.tensor(frames.positions),
        momenta=torch.tensor(b.momenta),
        energy=torch.tensor(b.energy),
        forces=torch.tensor(b.forces),
        masses=torch.full((frames.n_atoms,), AL_u, dtype=torch.float64),
        cell=torch.tensor(frames.cell).mT,
        pbc=False,
        system_idx=torch.tensor(frames.frame_of_atom),
        atomic_numbers=torch.tensor(frames.numbers),
    )
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    for _ in range(20):
        b.step(T, torch.randn(frames.n_atoms, 3, dtype=torch.float64, generator=generator).numpy())
        theirs = update(theirs)
    assert np.abs(b.frames.positions - theirs.positions.numpy()).max() < 1e-11
    assert np.abs(b.momenta - theirs.momenta.numpy()).max() < 1e-11
    assert np.abs(b.frames.positions - frames.positions).max() > 0.05


def test_equipartition_at_each_systems_own_temperature():
    # 64 free oscillators in each of three systems; BAOAB samples positions of a harmonic well exactly
    rng, n, T = np.random.default_rng(1), 64, np.array([150.0, 600.0, 2400.0])
    frames = Frames.concat([Frames.single(np.full(n, 13), np.zeros((n, 3)), np.eye(3) * 50)] * 3)
    b = LangevinBatch(frames, np.zeros((3 * n, 3)), np.full(3 * n, AL_u), harmonic, 5.0, 20.0)
    kinetic, squares = [], []
    for step in range(1500):
        b.step(T, rng.standard_normal((3 * n, 3)))
        if step > 200 and step % 5 == 0:
            kinetic.append(b.temperatures_K())
            squares.append((b.frames.positions**2).reshape(3, -1).mean(axis=1) / KB_eV_K)
    # 192 independent degrees of freedom and at least 260 * 5 fs / 100 fs independent times: sigma < 3 %
    assert np.mean(kinetic, axis=0) == pytest.approx(T, rel=0.08)
    assert np.mean(squares, axis=0) == pytest.approx(T, rel=0.08)


def test_a_trajectory_does_not_see_its_batch():
    frames, rng = toy_frames(4, n_atoms=10), np.random.default_rng(3)
    noise = rng.standard_normal((30, frames.n_atoms, 3))
    T, together = np.full(4, 500.0), batch(frames, friction_per_ps=5)
    alone = LangevinBatch(frames[2], together.momenta[frames.atoms_of([2])], np.full(10, AL_u), morse, 2.0, 5.0)
    for k in range(30):
        together.step(T[: len(together.frames)], noise[k][together.frames.n_atoms * -1 :])
        alone.step(T[:1], noise[k][20:30])
        if k == 10:  # the first two leave: the third is then the first
            together.take(np.array([2, 3]))
    assert np.array_equal(together.frames[0].positions, alone.frames.positions)
    assert np.array_equal(together.momenta[:10], alone.momenta)


def test_a_change_of_cell_carries_the_atoms():
    frames = fcc()
    b = LangevinBatch(frames, np.zeros((32, 3)), np.full(32, AL_u), morse, 1.0, 0.0)
    strain = np.eye(3) + np.array([[0.02, 0.01, 0], [0.01, -0.01, 0], [0, 0, 0.005]])
    b.step(np.zeros(1), np.zeros((32, 3)), frames.cell @ strain)
    assert np.allclose(b.frames.cell[0], frames.cell[0] @ strain, atol=1e-12)
    assert np.allclose(b.frames.positions, frames.positions @ strain, atol=1e-12)
    want = morse(frames.moved(frames.positions @ strain, frames.cell @ strain))
    assert b.energy == pytest.approx(want.energy)


def test_descent_lowers_the_energy_and_keeps_its_cap():
    frames = toy_frames(3, rattle_A=0.6)
    b = batch(frames)
    first, before, momenta = b.energy.copy(), b.frames.positions.copy(), b.momenta.copy()
    b.descend(0.02)
    moves = np.linalg.norm(b.frames.positions - before, axis=1)
    assert moves.max() <= 0.02 + 1e-12
    for _ in range(200):
        b.descend(0.05)
    assert (b.energy < first - 0.1).all()
    assert np.abs(b.forces).max() < 0.1
    assert np.array_equal(b.momenta, momenta)


def test_thermal_momenta():
    rng, masses = np.random.default_rng(0), np.tile([1.0, 27.0], 2000)
    p = thermal_momenta(rng, masses, 500)
    assert np.abs(p.sum(axis=0)).max() < 1e-9
    for m in (1.0, 27.0):
        assert (p[masses == m] ** 2).mean() / m == pytest.approx(KB_eV_K * 500, rel=5 * np.sqrt(2 / 6000))
    assert np.abs(thermal_momenta(rng, np.ones(1), 500)).min() > 0  # a lone atom moves


def test_wrapping_changes_no_energy():
    frames = toy_frames(2)
    moved = frames.moved(frames.positions + 50 * frames.cell[frames.frame_of_atom, 1] - 3 * frames.cell[0, 0])
    back = wrapped(moved)
    fraction = np.einsum("na,nab->nb", back.positions, np.linalg.inv(back.cell)[back.frame_of_atom])
    assert (fraction > -1e-9).all()
    assert (fraction < 1 + 1e-9).all()
    assert morse(back).energy == pytest.approx(morse(frames).energy)
    free = Frames.single([13], [[-5.0, 99.0, 3.0]], np.zeros((3, 3)), pbc=False)
    assert np.array_equal(wrapped(free).positions, free.positions)
