"""Random disordered cells: random edges and angles, random density, atoms at random (Smith et al., ANI-Al, Methods)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from itertools import product
from typing import Final

import numpy as np

from alflow.core.frames import Floats, Frames, Ints
from alflow.core.units import U_A3_g_cm3
from alflow.errors import InputError, UnphysicalError
from alflow.interfaces import part

JAMMING_FRACTION: Final = 0.3841
"""Packing fraction at which random sequential addition of equal spheres jams (Zhang and Torquato, PRE 88, 053312)."""

_MAX_DRAWS: Final = 10_000
_MAX_REDRAWS: Final = 4
_MAX_ATTEMPTS: Final = 5
_MAX_TRIALS: Final = 4_000_000


@part
class Part:
    """Cells filled at random, by the three steps of Smith et al., Nat. Commun. 12, 1257 (2021).

    Edges are uniform (and angles, if asked: the paper's cells are orthorhombic), the density is uniform, and atoms are
    placed at random points that keep their distance from those already there. Such random sequential addition jams at a
    packing fraction of 0.384, so densities beyond that are refused by `check`; a cell that jams below it is drawn anew.

    Attributes:
        species: amount of each element; only ratios count. A pair of numbers is a range, drawn for every cell:
            ``{Al: 1}``, ``{Ni: 3, Al: 1}``, ``{Cu: [0, 1], Zr: [0, 1]}``.
        edge_A: smallest and largest length of a cell's edges; the three are drawn apart.
        angles_deg: smallest and largest angle between two edges; the three are drawn apart, and again if no two
            opposite faces of such a cell could keep the atoms' distance.
        density_g_cm3: smallest and largest mass density.
        min_distance_A: no two atoms closer than this, periodic images included.
        pair_min_distance_A: other distances for pairs of elements, such as ``{Cu-Zr: 2.2}``.
        n_atoms: fewest and most atoms of a cell; cells outside are drawn again. None for no limit.
    """

    species: Mapping[str, float | tuple[float, float]]
    edge_A: tuple[float, float] = (10.5, 17.0)
    angles_deg: tuple[float, float] = (90.0, 90.0)
    density_g_cm3: tuple[float, float] = (1.80, 4.05)
    min_distance_A: float = 1.8
    pair_min_distance_A: Mapping[str, float] = field(default_factory=dict)
    n_atoms: tuple[int, int] | None = None

    def check(self) -> None:
        for name in ("edge_A", "angles_deg", "density_g_cm3"):
            low, high = getattr(self, name)
            if not (0 < low <= high and math.isfinite(high)):
                raise InputError(name, f"expected 0 < smallest <= largest, got [{low}, {high}]")
        if self.angles_deg[1] >= 180 or self._widest() < 1e-6:
            raise InputError("angles_deg", f"no cell has angles of {self.angles_deg[0]:g} to {self.angles_deg[1]:g}°")
        self._amounts()
        reach = self._reach()
        if not (reach > 0).all():
            raise InputError("min_distance_A", f"expected a distance > 0, got {reach.min()}")
        if self.edge_A[0] < reach.max():
            raise InputError(
                "edge_A",
                f"an edge of {self.edge_A[0]} Å brings an atom within {reach.max()} Å of its own image",
                f"raise the smallest edge to at least {reach.max()}",
            )
        self._check_density(float(reach.min()))
        self._check_n_atoms()

    def elements(self) -> frozenset[str]:
        return frozenset(self.species)

    def build(self, count: int, rng: np.random.Generator, source: Frames | None = None) -> Frames:  # noqa: ARG002 -- the role's
        self.check()
        return Frames.concat([self._cell(rng) for _ in range(count)])

    def _check_density(self, reach: float) -> None:
        lightest, _ = self._mass_range()
        sphere = math.pi / 6 * reach**3
        possible = JAMMING_FRACTION / sphere * lightest * U_A3_g_cm3
        if self.density_g_cm3[1] > possible:
            fraction = self.density_g_cm3[1] / U_A3_g_cm3 / lightest * sphere
            raise InputError(
                "density_g_cm3",
                f"{self.density_g_cm3[1]} g/cm³ with atoms {reach} Å apart is a packing fraction of {fraction:.3f}; "
                f"random placement jams at {JAMMING_FRACTION:.3f}",
                f"at most {math.floor(possible * 100) / 100} g/cm³ is possible at this distance, "
                f"or at most {reach * (JAMMING_FRACTION / fraction) ** (1 / 3) - 5e-4:.3f} Å at this density",
            )

    def _check_n_atoms(self) -> None:
        lightest, heaviest = self._mass_range()
        narrow, wide = self._narrowest() * self.edge_A[0] ** 3, self._widest() * self.edge_A[1] ** 3
        fewest = round(self.density_g_cm3[0] * narrow / U_A3_g_cm3 / heaviest)
        most = round(self.density_g_cm3[1] * wide / U_A3_g_cm3 / lightest)
        low, high = self.n_atoms or (1, most)
        if most < 1:
            raise InputError("edge_A", "the largest and densest cell would hold no atom", "raise edge_A")
        if not 1 <= low <= high:
            raise InputError("n_atoms", f"expected 1 <= fewest <= most, got [{low}, {high}]")
        if high < fewest or low > most:
            raise InputError(
                "n_atoms",
                f"no cell can hold {low} to {high} atoms: edge_A and density_g_cm3 give {fewest} to {most}",
                "change n_atoms, edge_A or density_g_cm3",
            )

    def _narrowest(self) -> float:
        """Volume over product of edges, at its least: concave in each cosine, it is least at a corner of the range."""
        return min(_unit_volume(angles) for angles in product(self.angles_deg, repeat=3))

    def _widest(self) -> float:
        """No smaller than any volume over product of edges: three angles as near 90° as the range allows."""
        low, high = self.angles_deg
        if low > 90:
            return _unit_volume((low, low, low))
        return 1.0 if high >= 90 else math.sin(math.radians(high))

    def _amounts(self) -> tuple[Ints, Floats, Floats]:
        """Atomic numbers, (n_species,), their masses in u, and their amounts, (n_species, 2): lowest and highest."""
        from ase.data import atomic_masses, atomic_numbers

        known = [s for s in atomic_numbers if s != "X"]
        for symbol in self.species:
            if symbol not in known:
                raise InputError("species", f"{symbol!r} is not a chemical symbol", "write symbols such as Al")
        amounts = np.array([np.broadcast_to(np.asarray(a, float), 2) for a in self.species.values()]).reshape(-1, 2)
        ordered = (amounts[:, 0] >= 0).all() and (amounts[:, 0] <= amounts[:, 1]).all()
        if not (ordered and np.isfinite(amounts).all() and amounts[:, 1].sum() > 0):
            raise InputError("species", f"expected amounts >= 0, not all 0, got {dict(self.species)}")
        numbers = np.array([atomic_numbers[s] for s in self.species], np.int64)
        return numbers, np.asarray(atomic_masses, float)[numbers], amounts

    def _mass_range(self) -> tuple[float, float]:
        """Mean atomic mass in u of the lightest and of the heaviest mix."""
        _, masses, amounts = self._amounts()
        return _mean_mass(masses, amounts, lightest=True), _mean_mass(masses, amounts, lightest=False)

    def _reach(self) -> Floats:
        symbols = list(self.species)
        reach = np.full((len(symbols), len(symbols)), self.min_distance_A)
        for pair, distance in self.pair_min_distance_A.items():
            ends = pair.split("-")
            if len(ends) != 2 or not set(ends) <= set(symbols):
                raise InputError(
                    "pair_min_distance_A",
                    f"{pair!r} does not name two of the species {', '.join(symbols)}",
                    f"write it as {symbols[0]}-{symbols[-1]}",
                )
            i, j = symbols.index(ends[0]), symbols.index(ends[1])
            reach[i, j] = reach[j, i] = distance
        return reach

    def _cell(self, rng: np.random.Generator) -> Frames:
        """One cell. One that jams is drawn anew a few times: it must not take the others of its batch with it."""
        for _ in range(_MAX_REDRAWS):
            with suppress(UnphysicalError):
                return self._drawn(rng)
        return self._drawn(rng)

    def _drawn(self, rng: np.random.Generator) -> Frames:
        numbers, masses, amounts = self._amounts()
        cell, density, counts = self._draw(masses, amounts, rng)
        return self._filled(cell, density, numbers, counts, rng)

    def _draw(self, masses: Floats, amounts: Floats, rng: np.random.Generator) -> tuple[Floats, float, Ints]:
        """Lattice vectors in angstrom, density in g/cm³, and atoms of each species of one cell."""
        low, high = self.n_atoms or (1, np.inf)
        for _ in range(_MAX_DRAWS):
            cell = self._lattice(rng)
            density = float(rng.uniform(*self.density_g_cm3))
            amount = rng.uniform(amounts[:, 0], amounts[:, 1])
            if cell is None or not amount.sum() > 0:
                continue
            fractions = amount / amount.sum()
            n = round(density / U_A3_g_cm3 * float(np.linalg.det(cell)) / float(fractions @ masses))
            if low <= n <= high:
                return cell, density, _apportioned(fractions, n)
        raise UnphysicalError(
            f"none of {_MAX_DRAWS} draws gave {low} to {high} atoms with edge_A {self.edge_A}, angles_deg "
            f"{self.angles_deg} and density_g_cm3 {self.density_g_cm3}; widen n_atoms, or change edge_A"
        )

    def _lattice(self, rng: np.random.Generator) -> Floats | None:
        """Lattice vectors as rows, a along x, b in the xy plane; None where the angles make no cell, or a flat one."""
        from alflow.numerics.packing import heights

        edges = rng.uniform(*self.edge_A, 3)
        if self.angles_deg == (90, 90):
            return np.diag(edges)
        angles = rng.uniform(*self.angles_deg, 3)
        volume = _unit_volume(angles)
        if not volume > 0:
            return None
        alpha, beta, gamma = np.cos(np.radians(angles))
        sine = np.sqrt(1 - gamma**2)
        c = [beta, (alpha - beta * gamma) / sine, volume / sine]
        cell: Floats = edges[:, None] * np.array([[1, 0, 0], [gamma, sine, 0], c])
        return cell if heights(cell).min() >= self._reach().max() else None

    def _filled(self, cell: Floats, density: float, numbers: Ints, counts: Ints, rng: np.random.Generator) -> Frames:
        from alflow.numerics.packing import add_spheres

        reach, best = self._reach(), 0
        for _ in range(_MAX_ATTEMPTS):
            species = rng.permutation(np.repeat(np.arange(len(counts)), counts))
            positions, placed = add_spheres(cell, species, reach, rng, _MAX_TRIALS)
            if placed == len(species):
                return Frames.single(numbers[species], positions, cell)
            best = max(best, placed)
        edges = np.linalg.norm(cell, axis=1)
        raise UnphysicalError(
            f"a cell of {edges[0]:.2f} x {edges[1]:.2f} x {edges[2]:.2f} Å should hold {counts.sum()} atoms "
            f"({density:.3f} g/cm³) but only {best} ({density * best / counts.sum():.3f} g/cm³) found a place at least "
            f"{reach.min()} Å apart, in {_MAX_ATTEMPTS} attempts of {_MAX_TRIALS} trials; lower density_g_cm3 or "
            "min_distance_A"
        )


def _unit_volume(angles_deg: Sequence[float] | Floats) -> float:
    """Volume of a cell over the product of its edges; 0 if no cell has these angles."""
    a, b, c = np.cos(np.radians(angles_deg))
    return float(np.sqrt(max(0.0, 1 - a * a - b * b - c * c + 2 * a * b * c)))


def _mean_mass(masses: Floats, amounts: Floats, *, lightest: bool) -> float:
    """The extreme of sum(a m)/sum(a) over a box of amounts: as much as possible of the species at one end of the scale.

    A linear-fractional function is extreme at a corner where all species below (or above) some mass are at their most.
    """
    order = np.argsort(masses if lightest else -masses, kind="stable")
    means = []
    for k in range(1, len(order) + 1):
        amount = amounts[:, 0].copy()
        amount[order[:k]] = amounts[order[:k], 1]
        if amount.sum() > 0:
            means.append(float(amount @ masses / amount.sum()))
    return min(means) if lightest else max(means)


def _apportioned(fractions: Floats, n: int) -> Ints:
    """Whole numbers that sum to `n`, each within one of its share: the largest remainders are rounded up."""
    shares = fractions * n
    counts = np.floor(shares).astype(np.int64)
    short = n - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:short]] += 1
    return counts
