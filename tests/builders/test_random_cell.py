import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alflow.builders.random_cell import Part
from alflow.core.units import U_A3_g_cm3
from alflow.errors import InputError, UnphysicalError
from alflow.testing.builder_contract import BuilderContract, closest_pair_A

AL, CU, ZR = 26.9815385, 63.546, 91.224


class TestAluminium(BuilderContract):
    part = Part(species={"Al": 1.0}, n_atoms=(55, 250))
    min_distance_A = 1.8


class TestAlloy(BuilderContract):
    part = Part(
        species={"Cu": (0, 1), "Zr": (0, 1)},
        edge_A=(8, 10),
        density_g_cm3=(5, 6),
        pair_min_distance_A={"Cu-Zr": 2.1, "Zr-Zr": 2.4},
    )
    min_distance_A = 1.8


class TestTinyCells(BuilderContract):
    """Edges below twice the distance: every atom meets several images of its neighbours."""

    part = Part(species={"Al": 1}, edge_A=(2.0, 4.5), density_g_cm3=(1.5, 2.5), min_distance_A=1.9)
    min_distance_A = 1.9


class TestSkewed(BuilderContract):
    """Any shape of cell: what the entropy sampler starts from."""

    part = Part(
        species={"W": 1},
        edge_A=(3, 9),
        angles_deg=(55, 125),
        density_g_cm3=(15, 22),
        min_distance_A=1.9,
        n_atoms=(2, 40),
    )
    min_distance_A = 1.9


def densities(frames, mass):
    return frames.sizes * mass * U_A3_g_cm3 / frames.volumes


def test_the_drawn_distributions_are_the_papers():
    frames = Part(species={"Al": 1}).build(600, np.random.default_rng(5))
    edges = frames.cell[:, range(3), range(3)]
    assert stats.kstest(edges.ravel(), stats.uniform(10.5, 6.5).cdf).pvalue > 1e-3
    assert stats.kstest(densities(frames, AL), stats.uniform(1.80, 2.25).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(np.c_[edges, densities(frames, AL)].T)[np.triu_indices(4, 1)]).max() < 0.15
    assert (frames.cell[:, ~np.eye(3, dtype=bool)] == 0).all()


def test_atom_number_is_the_rounded_density():
    frames = Part(species={"Al": 1}, density_g_cm3=(2.7, 2.7)).build(50, np.random.default_rng(0))
    np.testing.assert_array_equal(frames.sizes, np.round(2.7 * frames.volumes / (AL * U_A3_g_cm3)))


def test_angles_are_drawn_apart_and_the_density_is_that_of_the_skewed_cell():
    frames = Part(species={"Al": 1}, angles_deg=(70, 110)).build(300, np.random.default_rng(5))
    edges = np.linalg.norm(frames.cell, axis=2)
    unit = frames.cell / edges[..., None]
    angles = np.degrees(np.arccos(np.einsum("nka,nka->nk", unit[:, [1, 2, 0]], unit[:, [2, 0, 1]])))
    assert stats.kstest(angles.ravel(), stats.uniform(70, 40).cdf).pvalue > 1e-3
    assert stats.kstest(edges.ravel(), stats.uniform(10.5, 6.5).cdf).pvalue > 1e-3
    assert stats.kstest(densities(frames, AL), stats.uniform(1.80, 2.25).cdf).pvalue > 1e-3
    assert (np.linalg.det(frames.cell) > 0).all()


@pytest.mark.parametrize("angles", [(20, 160), (50, 60), (100, 119)])
def test_cells_that_cannot_be_are_drawn_again(angles):
    part = Part(species={"Al": 1}, edge_A=(4, 9), angles_deg=angles, density_g_cm3=(1.8, 2.5))
    part.check()
    for f in part.build(20, np.random.default_rng(0)):
        assert closest_pair_A(f) >= 1.8 - 1e-12


def test_positions_fill_the_cell_evenly():
    frames = Part(species={"Al": 1}, density_g_cm3=(2.7, 2.7)).build(60, np.random.default_rng(1))
    edges = frames.cell[:, range(3), range(3)][frames.frame_of_atom]
    assert ((frames.positions >= 0) & (frames.positions <= edges)).all()
    assert stats.kstest((frames.positions / edges).ravel(), "uniform").pvalue > 1e-3


def test_pair_correlation_of_a_dilute_gas_is_one_beyond_contact():
    part = Part(species={"Al": 1}, density_g_cm3=(0.2, 0.2), edge_A=(12, 12))
    frames, inside, expected = part.build(400, np.random.default_rng(2)), 0, 0.0
    for f in frames:
        d = f.positions[:, None] - f.positions[None]
        r = np.linalg.norm(d - 12 * np.round(d / 12), axis=-1)
        inside += ((r > 1.8) & (r < 4)).sum()
        expected += len(r) * (len(r) - 1) * 4 / 3 * np.pi * (4**3 - 1.8**3) / (12**3 - 4 / 3 * np.pi * 1.8**3)
    assert inside == pytest.approx(expected, rel=0.1)


def test_composition_follows_the_amounts():
    part = Part(species={"Ni": 3, "Al": 1}, density_g_cm3=(4, 4), edge_A=(8, 12))
    for f in part.build(20, np.random.default_rng(0)):
        n_al = int((f.numbers == 13).sum())
        assert abs(n_al - len(f.numbers) / 4) < 1


def test_ranges_of_amounts_are_covered():
    frames = TestAlloy.part.build(200, np.random.default_rng(0))
    share = np.array([(f.numbers == 29).mean() for f in frames])
    assert share.min() < 0.15
    assert share.max() > 0.85


def test_pair_distances_hold_each():
    part = TestAlloy.part
    for f in part.build(5, np.random.default_rng(4)):
        zr = f.numbers == 40
        edges = np.diag(f.cell[0])
        d = f.positions[:, None] - f.positions[None]
        r = np.linalg.norm(d - edges * np.round(d / edges), axis=-1) + 9 * np.eye(len(zr))
        for a, b, least in ((zr, zr, 2.4), (zr, ~zr, 2.1), (~zr, ~zr, 1.8)):
            assert (r[np.ix_(a, b)] >= least - 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(2.5, 9), st.floats(1.0, 4.0), st.floats(1.0, 2.0), st.integers(0, 2**32))
def test_no_pair_is_ever_too_close(edge, density, distance, seed):
    part = Part(species={"Al": 1}, edge_A=(edge, edge + 2), density_g_cm3=(density, density), min_distance_A=distance)
    for f in part.build(2, np.random.default_rng(seed)):
        assert closest_pair_A(f) >= distance * (1 - 1e-12)


def test_an_impossible_density_is_refused_with_the_possible_one():
    with pytest.raises(InputError, match=r"density_g_cm3.*0\.545.*jams at 0\.384") as info:
        Part(species={"Al": 1}, density_g_cm3=(2, 8)).check()
    assert "at most 5.63 g/cm³" in str(info.value)
    Part(species={"Al": 1}, density_g_cm3=(2, 5.63)).check()


def test_the_lightest_mix_decides_what_is_impossible():
    with pytest.raises(InputError, match="density_g_cm3"):
        Part(species={"Al": (0, 1), "W": (0, 1)}, density_g_cm3=(5, 6)).check()
    Part(species={"Al": 1, "W": 1}, density_g_cm3=(5, 6)).check()


def test_a_density_between_possible_and_jammed_says_what_was_reached(monkeypatch):
    monkeypatch.setattr("alflow.builders.random_cell._MAX_TRIALS", 100_000)
    part = Part(species={"Al": 1}, edge_A=(12, 12), density_g_cm3=(5.6, 5.6))
    part.check()
    with pytest.raises(UnphysicalError, match=r"216 atoms \(5\.600 g/cm³\) but only \d+ \((4\.9|5\.\d)\d+ g/cm³\)"):
        part.build(1, np.random.default_rng(0))


def test_rare_atom_numbers_end_with_a_reason(monkeypatch):
    monkeypatch.setattr("alflow.builders.random_cell._MAX_DRAWS", 20)
    with pytest.raises(UnphysicalError, match="none of 20 draws"):
        Part(species={"Al": 1}, n_atoms=(440, 444)).build(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"species": {"Alu": 1}}, "species: 'Alu' is not a chemical symbol"),
        ({"species": {}}, "species: expected amounts"),
        ({"species": {"Al": -1}}, "species: expected amounts"),
        ({"species": {"Al": (2, 1)}}, "species: expected amounts"),
        ({"edge_A": (17, 10)}, "edge_A: expected 0 < smallest <= largest"),
        ({"edge_A": (1, 2)}, "edge_A: .*its own image"),
        ({"angles_deg": (110, 70)}, "angles_deg: expected 0 <"),
        ({"angles_deg": (90, 180)}, "angles_deg: no cell"),
        ({"angles_deg": (120, 130)}, "angles_deg: no cell has angles of 120 to 130"),
        ({"n_atoms": (450, 460), "angles_deg": (80, 80)}, "n_atoms: no cell can hold"),
        ({"density_g_cm3": (0, 2)}, "density_g_cm3: expected 0 <"),
        ({"density_g_cm3": (float("nan"), 2)}, "density_g_cm3: expected 0 <"),
        ({"min_distance_A": 0}, "min_distance_A: expected a distance > 0"),
        ({"n_atoms": (5, 4)}, "n_atoms: expected 1 <= fewest"),
        ({"n_atoms": (1, 20)}, "n_atoms: no cell can hold 1 to 20 atoms: .* 47 to 444"),
        ({"pair_min_distance_A": {"Al-Cu": 2}}, "pair_min_distance_A: 'Al-Cu'"),
        ({"edge_A": (1.8, 1.9), "density_g_cm3": (0.1, 0.2)}, "edge_A: .*no atom"),
    ],
)
def test_bad_settings_are_refused_with_their_place(fields, match):
    with pytest.raises(InputError, match=match):
        Part(**{"species": {"Al": 1}, **fields}).check()


def test_a_cell_that_jams_is_drawn_anew(monkeypatch):
    part, calls = Part(species={"Al": 1}, edge_A=(6, 7), density_g_cm3=(1.8, 2.2)), []
    filled = Part._filled

    def first_jams(self, *words):
        calls.append(words)
        if len(calls) == 1:
            raise UnphysicalError("jammed")
        return filled(self, *words)

    monkeypatch.setattr(Part, "_filled", first_jams)
    assert len(part.build(3, np.random.default_rng(0))) == 3
    assert len(calls) == 4
