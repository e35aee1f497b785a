import hashlib
import json

import pytest

from alflow.engines.espresso_pseudos import family, named
from alflow.errors import InputError

HEADER = (
    '<UPF version="2.0.1">\n<PP_HEADER\nelement="{}"\nfunctional="{}"\n'
    'pseudo_type="{}"\nwfc_cutoff="{}"\nrho_cutoff="{}"\n/>\n</UPF>\n'
)


def write(path, element, kind="NC", wfc=0.0, rho=0.0, functional="PBE"):
    path.write_text(HEADER.format(element, functional, kind, wfc, rho))


@pytest.fixture
def plain(tmp_path):
    """A family without a list: its headers say what they can."""
    write(tmp_path / "Al.pbe.UPF", "Al", "NC", 20, 60)
    write(tmp_path / "cu_pbe_v1.2.uspp.upf", "Cu", "US", 40, 200)
    write(tmp_path / "Ni.UPF", "Ni", "PAW")
    write(tmp_path / "Si.pz.UPF", "Si", functional="SLA PZ NOGX NOGC")
    (tmp_path / "README").write_text("no pseudopotential")
    return tmp_path


@pytest.fixture
def sssp(plain):
    """The same with a list in SSSP's format."""
    files = {
        "Al": ("Al.pbe.UPF", 30.0, 240.0),
        "Cu": ("cu_pbe_v1.2.uspp.upf", 90.0, 720.0),
        "Ni": ("Ni.UPF", 45.0, 360.0),
    }
    content = {
        s: {
            "filename": f,
            "md5": hashlib.md5((plain / f).read_bytes()).hexdigest(),
            "pseudopotential": "GBRV-1.2",
            "cutoff_wfc": wfc,
            "cutoff_rho": rho,
        }
        for s, (f, wfc, rho) in files.items()
    }
    (plain / "SSSP_1.3.0_PBE_efficiency.json").write_text(json.dumps(content))
    return plain


def edit(folder, symbol, **entry):
    path = next(folder.glob("SSSP_*.json"))
    content = json.loads(path.read_text())
    content[symbol] |= entry
    path.write_text(json.dumps(content))


# ---- named files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "ecutwfc", "ecutrho", "want"),
    [
        ({"Al": "Al.pbe.UPF"}, 15, None, 60),  # norm-conserving: four times, and not less than the header says
        ({"Al": "Al.pbe.UPF"}, 30, None, 120),
        ({"Cu": "cu_pbe_v1.2.uspp.upf"}, 20, None, 200),
        ({"Cu": "cu_pbe_v1.2.uspp.upf"}, 40, None, 320),  # ultrasoft: eight times
        ({"Ni": "Ni.UPF"}, 40, None, 320),  # PAW
        ({"Al": "Al.pbe.UPF", "Cu": "cu_pbe_v1.2.uspp.upf"}, 40, None, 320),
        ({"Al": "Al.pbe.UPF", "Cu": "cu_pbe_v1.2.uspp.upf"}, 40, 170, 170),  # what is given is taken
    ],
)
def test_the_density_gets_the_cutoff_its_hardest_element_needs(plain, files, ecutwfc, ecutrho, want):
    found = named(plain, files, ecutwfc, ecutrho)
    assert (found.ecutwfc_Ry, found.ecutrho_Ry) == (ecutwfc, want)


def test_what_goes_into_the_theory_is_content_not_place(plain, tmp_path_factory):
    other = tmp_path_factory.mktemp("moved")
    (other / "Al_renamed.UPF").write_bytes((plain / "Al.pbe.UPF").read_bytes())
    first = named(plain, {"Al": "Al.pbe.UPF"}, 20, None).described()
    assert named(other, {"Al": "Al_renamed.UPF"}, 20, None).described() == first
    assert str(plain) not in json.dumps(first)
    write(other / "Al_renamed.UPF", "Al", wfc=21)
    assert named(other, {"Al": "Al_renamed.UPF"}, 20, None).described() != first


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"Al": "Al.UPF"}, r"pseudopotentials.Al: the file .*Al.UPF does not exist\n.*has for Al: Al.pbe.UPF"),
        ({"Al": "Ni.UPF"}, r"pseudopotentials.Al: .*Ni.UPF is for the element Ni, not Al"),
        ({"Al": "README"}, r"pseudopotentials.Al: .*README: is not a pseudopotential"),
        ({"Al": "Al.pbe.UPF", "Si": "Si.pz.UPF"}, r"different functionals \(Al: PBE, Si: PZ\)"),
    ],
)
def test_wrong_files_are_refused(plain, files, match):
    with pytest.raises(InputError, match=match):
        named(plain, files, 20, None)


@pytest.mark.parametrize("name", ["it's", "x" * 190])
def test_paths_that_pw_would_cut_off_are_refused(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    write(folder / "Al.UPF", "Al")
    with pytest.raises(InputError, match=r"pw.x cannot take the path"):
        named(folder, {"Al": "Al.UPF"}, 20, None)


# ---- families ------------------------------------------------------------------------------------------------------


def test_a_list_recommends_the_largest_cutoffs_of_the_elements(sssp):
    found = family(sssp, ["Al"], None, None)
    assert dict(found.files) == {"Al": "Al.pbe.UPF"}
    assert (found.ecutwfc_Ry, found.ecutrho_Ry) == (30, 240)
    found = family(sssp, ["Ni", "Al", "Cu"], None, None)
    assert (found.ecutwfc_Ry, found.ecutrho_Ry) == (90, 720)
    assert set(found.headers) == {"Al", "Cu", "Ni"}


def test_given_cutoffs_override(sssp):
    assert family(sssp, ["Al"], 35, None).ecutrho_Ry == 240
    assert family(sssp, ["Al"], 35, None).ecutwfc_Ry == 35
    assert family(sssp, ["Al"], 100, None).ecutrho_Ry == 400  # never less than four times
    assert family(sssp, ["Al"], None, 300).ecutrho_Ry == 300


def test_without_a_list_headers_recommend(plain):
    found = family(plain, ["Al", "Cu"], None, None)
    assert (found.ecutwfc_Ry, found.ecutrho_Ry) == (40, 320)
    assert found.files["Cu"] == "cu_pbe_v1.2.uspp.upf"
    with pytest.raises(InputError, match=r"ecutwfc_Ry: .* recommends none for Ni\n.*give ecutwfc_Ry"):
        family(plain, ["Al", "Ni"], None, None)
    assert family(plain, ["Al", "Ni"], 45, None).ecutrho_Ry == 360


def test_elements_that_are_not_there(plain, sssp):
    with pytest.raises(InputError, match=r"family: the list in .* has no element Si\n.*it has Al, Cu, Ni"):
        family(sssp, ["Si"], None, None)
    next(sssp.glob("SSSP_*.json")).unlink()
    with pytest.raises(InputError, match=r"family: .* has no file for Mg"):
        family(plain, ["Mg"], 20, None)
    write(plain / "Al_other.UPF", "Al")
    with pytest.raises(InputError, match=r"has 2 files for Al: Al.pbe.UPF, Al_other.UPF\n.*pseudopotentials"):
        family(plain, ["Al"], 20, None)


def test_a_file_that_is_not_the_familys_is_refused(sssp):
    write(sssp / "Al.pbe.UPF", "Al", wfc=99)
    with pytest.raises(InputError, match=r"Al.pbe.UPF is not the file that its family's list means: the md5 differs"):
        family(sssp, ["Al"], None, None)
    family(sssp, ["Cu"], None, None)  # of those that are used


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"filename": "nowhere.upf", "md5": ""}, r"nowhere.upf does not exist"),
        ({"filename": "Ni.UPF", "md5": ""}, r"is for the element Ni, not Al"),
        ({"filename": "../Al.UPF"}, r"names a file outside of it for Al"),
        ({"cutoff_wfc": "much"}, r"is damaged at Al"),
        ({"cutoff_wfc": 0}, r"recommends none for Al"),
    ],
)
def test_damaged_lists_are_refused(sssp, entry, match):
    edit(sssp, "Al", **entry)
    with pytest.raises(InputError, match=match):
        family(sssp, ["Al"], None, None)


@pytest.mark.parametrize(("text", "match"), [("{", "cannot be read"), ("[1]", "is no list of elements")])
def test_files_that_are_no_list_are_refused(plain, text, match):
    (plain / "SSSP_1.json").write_text(text)
    with pytest.raises(InputError, match=match):
        family(plain, ["Al"], None, None)


def test_two_lists_are_refused(sssp):
    (sssp / "SSSP_other.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds several lists: SSSP_1.3.0_PBE_efficiency.json, SSSP_other.json"):
        family(sssp, ["Al"], None, None)


def test_a_mixture_of_functionals_is_refused(plain):
    with pytest.raises(InputError, match=r"family: are of different functionals \(Al: PBE, Si: PZ\)"):
        family(plain, ["Al", "Si"], 20, None)
