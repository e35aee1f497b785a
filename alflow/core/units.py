"""The one internal system: eV, angstrom, fs, K, u. Conversions are factors into or out of it (CODATA 2018)."""

from __future__ import annotations

from typing import Final

HARTREE_eV: Final = 27.211386245988
RYDBERG_eV: Final = HARTREE_eV / 2
BOHR_A: Final = 0.529177210903
KB_eV_K: Final = 8.617333262e-5
"""Boltzmann constant in eV/K."""
EV_A3_GPa: Final = 160.21766208
"""One eV/angstrom^3 in GPa."""
U_A3_g_cm3: Final = 1.66053906660
"""One atomic mass unit per cubic angstrom in g/cm^3."""
