"""POTCAR files in VASP's form, with nothing of VASP's in them."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Layout = Literal["folders", "pymatgen"]

_VALENCE: Final = {"Al": 3, "Ni": 10, "Cu": 11, "Pd": 10, "Ag": 11, "Pt": 10, "Au": 11}
_MASS: Final = {"Al": 26.982, "Ni": 58.693, "Cu": 63.546, "Pd": 106.42, "Ag": 107.868, "Pt": 195.084, "Au": 196.967}


@dataclass(frozen=True, slots=True)
class Element:
    """What is written into one POTCAR.

    Attributes:
        symbol: chemical symbol.
        lexch: functional it claims: ``PE`` is PBE, ``CA`` LDA.
        enmax_eV: default cutoff it claims.
        rows: length of its body; 8,000 rows make a file as large as a real one.
        date: last word of its title.
    """

    symbol: str
    lexch: str = "PE"
    enmax_eV: float = 250.0
    rows: int = 20
    date: str = "01Apr2000"

    @property
    def title(self) -> str:
        return f"{'PAW_PBE' if self.lexch == 'PE' else 'PAW'} {self.symbol} {self.date}"


def potcar(element: Element) -> str:
    """Text of a POTCAR that VASP's header parsers take; its body is a damped sine, no potential."""
    zval, mass = _VALENCE.get(element.symbol, 4), _MASS.get(element.symbol, 50.0)
    body = "\n".join(
        "".join(f" {math.exp(-k / 4e3) * math.sin(k + c):15.8E}" for c in range(5)) for k in range(element.rows)
    )
    return f"""  {element.title}
   {zval:.14f}
 parameters from PSCTR are:
   VRHFIN ={element.symbol}: stand-in
   LEXCH  = {element.lexch}
   EATOM  =    50.0000 eV,    3.6749 Ry

   TITEL  = {element.title}
   LULTRA =        F    use ultrasoft PP ?
   IUNSCR =        1    unscreen: 0-lin 1-nonlin 2-no
   RPACOR =    1.500    partial core radius
   POMASS = {mass:8.3f}; ZVAL   = {zval:8.3f}    mass and valenz
   RCORE  =    1.900    outmost cutoff radius
   RWIGS  =    2.650; RWIGS  =    1.402    wigner-seitz radius (au A)
   ENMAX  =  {element.enmax_eV:.3f}; ENMIN  =  {0.75 * element.enmax_eV:.3f} eV
   ICORE  =        2    local potential
   LCOR   =        T    correct aug charges
   LPAW   =        T    paw PP
   EAUG   =  300.000
   RMAX   =    1.950    core radius for proj-oper
   RAUG   =    1.300    factor for augmentation sphere
   RDEP   =    2.000    radius for radial grids
   RDEPT  =    1.600    core radius for aug-charge

   Atomic configuration
    1 entries
     n  l   j            E        occ.
     3  0  0.50        -7.0000   2.0000
   Description
     l       E           TYP  RCUT    TYP  RCUT
     0      -7.0000       23  1.900
   Error from kinetic energy argument (eV)
   NDATA  =      100
   STEP   =   20.000   1.050
   1.00      0.500      0.100E-01
END of PSCTR-controll parameters
 local part
{body}
 End of Dataset
"""


def write_library(folder: Path, elements: Mapping[str, Element | str], layout: Layout = "folders") -> Path:
    """Write POTCARs: name of each in the library (``Al``, ``W_pv``) -> its element.

    Args:
        folder: where; made if need be.
        elements: by the name in the library.
        layout: ``folders`` as VASP unpacks (``Al/POTCAR``), or ``pymatgen``'s (``POT_GGA_PAW_PBE/POTCAR.Al.gz``).
    """
    for name, given in elements.items():
        element = Element(given) if isinstance(given, str) else given
        path = folder / name / "POTCAR"
        if layout == "pymatgen":
            kind = "POT_GGA_PAW_PBE" if element.lexch == "PE" else "POT_LDA_PAW"
            path = folder / kind / f"POTCAR.{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = potcar(element).encode()
        path.write_bytes(gzip.compress(data) if layout == "pymatgen" else data)
    return folder
