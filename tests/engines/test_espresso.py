import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from alflow.core.units import BOHR_A, HARTREE_eV, RYDBERG_eV
from alflow.engines.espresso import Asked, functional_of, read_schema, read_upf, sound_density, started
from alflow.errors import DataError

DATA = Path(__file__).parent / "data" / "espresso"
ASKED = Asked(
    ("Al", "Al"),
    np.array([[0, 0, 0], [1.9, 2.0, 2.2]]),
    np.array([[4.0, 0, 0.1], [0, 4.1, 0], [0.3, 0, 4.2]]),
    stress=True,
)
V2 = '<UPF version="2.0.1">\n<PP_HEADER\nelement="{}"\nfunctional="{}"\n{}/>\n</UPF>\n'
V1 = """<PP_INFO>
Generated using Vanderbilt code, version   7  3  6
</PP_INFO>
<PP_HEADER>
   0                   Version Number
  W                    Element
   US                  Ultrasoft pseudopotential
    T                  Nonlinear Core Correction
SLA  PW   PBE  PBE     PBE  Exchange-Correlation functional
   23.557    371.902 Suggested cutoff for wfc and rho
</PP_HEADER>
"""


@pytest.fixture
def upf(tmp_path):
    def write(text):
        path = tmp_path / "X.UPF"
        path.write_text(text)
        return path

    return write


# ---- pseudopotentials ----------------------------------------------------------------------------------------------


def test_headers_of_version_two(upf):
    more = (
        'generated="Generated using &quot;atomic&quot; code" author=\'ADC\'\ndate="10Oct2014"\n'
        'pseudo_type="PAW"\nwfc_cutoff="2.949E+001"\nrho_cutoff="1.4348D+02"\n'
    )
    found = read_upf(upf(V2.format("al ", " SLA  PW   PBX  PBC", more)))
    assert (found.element, found.functional, found.augmented) == ("Al", "PBE", True)
    assert (found.wfc_cutoff_Ry, found.rho_cutoff_Ry) == (29.49, 143.48)
    assert found.title == 'Generated using "atomic" code, ADC, 10Oct2014'


def test_headers_of_version_one(upf):
    found = read_upf(upf(V1))
    assert (found.element, found.functional, found.augmented) == ("W", "PBE", True)
    assert (found.wfc_cutoff_Ry, found.rho_cutoff_Ry) == (23.557, 371.902)
    assert found.title == "Generated using Vanderbilt code, version 7 3 6"
    assert not read_upf(upf(V1.replace("US   ", "NC   "))).augmented


def test_cutoffs_that_say_nothing_are_zero(upf):
    found = read_upf(upf(V2.format("Al", "PBE", 'pseudo_type="NC"\nwfc_cutoff="none"\n')))
    assert (found.wfc_cutoff_Ry, found.rho_cutoff_Ry, found.augmented) == (0, 0, False)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("PBE", "PBE"),
        (" SLA  PW   PBX  PBC", "PBE"),
        ("SLA PW PBE PBE PBE", "PBE"),
        ("sla+pw+pbx+pbc", "PBE"),
        ("SLA PW PSX PSC", "PBESOL"),
        ("PBESOL", "PBESOL"),
        ("SLA PZ NOGX NOGC PZ", "PZ"),
        ("SLA PW TPSS TPSS", "TPSS"),
        ("SLA PW RPB PBC", "SLA PW RPB PBC"),
    ],
)
def test_a_functional_has_one_name(words, name):
    assert functional_of(words) == name


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is not a pseudopotential in UPF"),
        ("<UPF/>", "is not a pseudopotential in UPF"),
        (V2.format("Al", "PBE", "").replace("</UPF>", ""), "is cut off"),
        (V2.format("Al", "", ""), "names no element or functional"),
    ],
)
def test_what_is_no_pseudopotential_is_refused(upf, text, match):
    with pytest.raises(DataError, match=match):
        read_upf(upf(text))
    with pytest.raises(DataError, match="cannot be read"):
        read_upf(Path("/no/such/file"))


# ---- results of the real pw.x 6.7 ----------------------------------------------------------------------------------


def test_the_schema_file_holds_what_is_printed_and_more_digits():
    found = read_schema(DATA / "al2.xml", ASKED)
    printed = (DATA / "converged.out").read_text()
    energy = float(printed.split("!    total energy              =")[1].split()[0])
    assert found.energy == pytest.approx(energy * RYDBERG_eV, abs=0.6e-8 * RYDBERG_eV)
    assert found.energy != energy * RYDBERG_eV
    rows = [line.split("force =")[1].split() for line in printed.splitlines() if "   force =" in line][:2]
    np.testing.assert_allclose(found.forces, np.array(rows, float) * RYDBERG_eV / BOHR_A, rtol=0, atol=3e-7)
    block = printed.split("total   stress")[1].splitlines()[1:4]
    pressed = np.array([line.split()[:3] for line in block], float)  # pw.x counts compression positive
    np.testing.assert_allclose(found.stress, -pressed * RYDBERG_eV / BOHR_A**3, rtol=0, atol=6e-7)


def test_units_by_hand():
    text = (DATA / "al2.xml").read_text()
    etot = float(text.split("<etot>")[1].split("<")[0])
    assert read_schema(DATA / "al2.xml", ASKED).energy == etot * HARTREE_eV


def test_no_stress_is_read_that_is_not_asked_for():
    assert read_schema(DATA / "al2.xml", Asked(ASKED.symbols, ASKED.positions, ASKED.cell, stress=False)).stress is None


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (
            Asked(("Al", "Al"), ASKED.positions + 1e-5, ASKED.cell, True),
            "another structure: its positions differ by 1e-05",
        ),
        (Asked(("Al", "Al"), ASKED.positions, ASKED.cell * 1.00001, True), "another structure: its cell differ"),
        (Asked(("Al", "Cu"), ASKED.positions, ASKED.cell, True), "another structure: Al2, not Al1Cu1"),
        (Asked(("Al",), ASKED.positions[:1], ASKED.cell, True), "another structure: Al2, not Al1"),
    ],
)
def test_output_of_another_structure_is_refused(asked, match):
    with pytest.raises(DataError, match=match):
        read_schema(DATA / "al2.xml", asked)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: "", "damaged or cut off"),
        (lambda t: re.sub(r'(<output>.*?index="1">)[^<]*', r"\1*** *** ***", t, flags=re.DOTALL), "no finite pos"),
        (lambda t: t[: len(t) // 2], "damaged or cut off"),
        (lambda t: t.replace("achieved>true", "achieved>false"), "self-consistency was not achieved"),
        (lambda t: t.replace("<etot>", "<etot>NaN "), "no finite etot"),
        (lambda t: t.split("<output>")[0] + "</qes:espresso>", "has no output"),
        (lambda t: t.replace("</forces>\n    <stress", "***</forces>\n    <stress"), "no finite forces"),
        (
            lambda t: t.replace('<stress rank="2"', '<other rank="2"').replace(
                "</stress>\n  </output", "</other>\n  </output"
            ),
            "stress",
        ),
    ],
)
def test_damaged_output_is_refused(tmp_path, change, match):
    text = (DATA / "al2.xml").read_text()
    path = tmp_path / "data-file-schema.xml"
    path.write_text(change(text))
    assert path.read_text() != text
    with pytest.raises(DataError, match=match):
        read_schema(path, ASKED)


def test_missing_output_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"pw.x wrote no data-file-schema.xml"):
        read_schema(tmp_path / "data-file-schema.xml", ASKED)


def test_a_launcher_that_failed_is_told_from_the_program():
    assert started((DATA / "overlap.out").read_text())
    assert not started("mpirun: no slots")


# ---- densities -----------------------------------------------------------------------------------------------------


def record(values):
    size = np.int32(values.nbytes).tobytes()
    return size + values.tobytes() + size


@pytest.fixture
def density(tmp_path):
    """A charge density as pw.x writes it (compared with its own in tests/labelers/test_espresso_failures.py)."""
    place = tmp_path / "pwscf.save"
    place.mkdir()
    records = [np.ones(3, np.int32), np.eye(3), np.zeros((5, 3), np.int32), np.arange(10.0)]
    (place / "charge-density.dat").write_bytes(b"".join(map(record, records)))
    return place / "charge-density.dat"


def test_a_whole_and_finite_density_is_sound(tmp_path, density):
    assert sound_density(tmp_path)
    assert not sound_density(tmp_path / "elsewhere")


@pytest.mark.parametrize("cut", [1, 30, 90, 200, 238])
def test_a_density_that_is_cut_off_is_not(tmp_path, density, cut):
    density.write_bytes(density.read_bytes()[:-cut])
    assert not sound_density(tmp_path)


def test_neither_is_one_of_nan_or_of_nothing(tmp_path, density):
    whole = density.read_bytes()
    density.write_bytes(whole.replace(np.float64(7).tobytes(), np.float64(np.nan).tobytes()))
    assert not sound_density(tmp_path)
    density.write_bytes(b"")
    assert not sound_density(tmp_path)


def test_hdf5_densities_too(tmp_path, density):
    import h5py

    density.unlink()
    with h5py.File(density.with_suffix(".hdf5"), "w") as file:
        file["rhotot_g"] = np.arange(10.0)
    assert sound_density(tmp_path)
    with h5py.File(density.with_suffix(".hdf5"), "w") as file:
        file["rhotot_g"] = np.full(10, np.inf)
    assert not sound_density(tmp_path)
    shutil.copy(DATA / "al2.xml", density.with_suffix(".hdf5"))
    assert not sound_density(tmp_path)
