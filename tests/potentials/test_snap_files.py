"""SNAP files that are damaged, or ask for what is not computed here, are refused with their place."""

import numpy as np
import pytest

from alflow.errors import DataError, InputError
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.zbl import Zbl
from alflow.potentials import _snap_files
from alflow.potentials._snap_files import Snap, n_terms, read, read_pair
from alflow.potentials._snap_model import SnapModel
from alflow.registry import load_model

SETTINGS = BispectrumSettings((13, 29), 2, 4.5, (0.5, 0.4), (1.0, 0.5))


def snap(quadratic=False, zbl=None):
    terms = n_terms(SETTINGS.n_features, quadratic)
    return Snap(SETTINGS, quadratic, np.arange(2.0 * (1 + terms)).reshape(2, -1), zbl)


@pytest.fixture
def folder(tmp_path):
    _snap_files.write(tmp_path, "x", snap(zbl=Zbl(2.0, 3.0)), "for tests")
    return tmp_path


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_one_element_of_several_can_be_read(folder):
    one = read_pair(folder / "x.snapcoeff", folder / "x.snapparam", ["Cu"])
    assert one.symbols == ["Cu"]
    assert one.settings.radii == (0.4,)
    assert (one.coefficients == snap().coefficients[1:]).all()
    with pytest.raises(DataError, match=r"x\.snapcoeff: has no W, only Al, Cu"):
        read_pair(folder / "x.snapcoeff", folder / "x.snapparam", ["W"])


def test_defaults_are_those_of_lammps(folder):
    (folder / "x.snapparam").write_text("# nothing but what must be\n\n  twojmax  2 # 5 components\nrcutfac 4.5\n")
    got = read_pair(folder / "x.snapcoeff", folder / "x.snapparam")
    assert got.settings == SETTINGS
    assert not got.quadratic


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("x.snapparam", "twojmax 2", "twojmax 4", "expected 15 coefficients.*twojmax 4"),
        ("x.snapparam", "twojmax 2", "twojmax two", "not a number"),
        ("x.snapparam", "twojmax 2", "", "expected twojmax, got rcutfac"),
        ("x.snapparam", "twojmax 2", "twojmax 2 2", "line 2.*keyword and a value"),
        ("x.snapparam", "twojmax 2", "sinner", "line 2.*keyword and a value"),
        ("x.snapparam", "rmin0", "rmin", "keywords that SNAP does not have: rmin"),
        ("x.snapparam", "quadraticflag 0", "quadraticflag 1", "products"),
        ("x.snapparam", "quadraticflag 0", "chemflag 1", "chemflag: only 0 is supported"),
        ("x.snapparam", "rcutfac 4.5", "rcutfac -4.5", "rcutfac_A"),
        ("x.snapcoeff", "2 6", "2", "numbers of elements and coefficients"),
        ("x.snapcoeff", "2 6", "3 6", "cut off or damaged"),
        ("x.snapcoeff", "Al 0.5 1.0", "Al 0.5", "line 3: expected an element"),
        ("x.snapcoeff", "Al 0.5 1.0", "Xx 0.5 1.0", "line 3: expected an element"),
        ("x.snapcoeff", "Cu 0.4 0.5", "Al 0.4 0.5", "expected an element"),
        ("x.snapcoeff", "Cu 0.4 0.5", "Cu 0.4 nan", "expected one number, got 'nan'"),
        ("x.snapcoeff", "\n4.0\n", "\nfour\n", "expected one number, got 'four'"),
        ("x.snap", "zbl 13 13", "zbl 14 13", "expected the charges 13 and 13"),
        ("x.snap", "pair_coeff 1 2 zbl 13 29\n", "", "zbl is given for 2 of 3 pairs"),
        ("x.snap", "pair_coeff 1 2 zbl", "pair_coeff 1 3 zbl", "pair_coeff I J zbl Zi Zj"),
        ("x.snap", "zbl 2.0 3.0 snap", "zbl 3.0 2.0 snap", "inner_A < outer_A"),
        ("x.snap", "zbl 2.0 3.0 snap", "zbl 2.0 snap", "inner and an outer cutoff"),
        ("x.snap", "zbl 2.0 3.0 snap", "eam zbl 2.0 3.0 snap", "hybrid/overlay of zbl and snap"),
        ("x.snap", "zbl 2.0 3.0 snap", "zbl ${inner} 3.0 snap", "the variable inner is not set"),
        ("x.snap", "pair_coeff * * snap", "pair_coeff 1 1 snap", "expected one line pair_coeff"),
        ("x.snap", "x.snapcoeff", "y.snapcoeff", r"y\.snapcoeff: cannot be read"),
        ("x.snap", "pair_style", "units real\npair_style", "line 2: expected units metal .* got 'units real'"),
        ("x.snap", "pair_style", "variable u index si\nunits ${u}\npair_style", "line 3: .* got 'units si'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder, file, old, new, said):
    edited(folder / file, old, new)
    with pytest.raises(DataError, match=said):
        read(folder / "x.snap")


def test_scripts_may_have_variables_and_continuations(folder):
    (folder / "x.snap").write_text(
        "variable in index 2.0\nvariable z equal 13\npair_style hybrid/overlay & # so\n  zbl ${in} 3 &\n  snap\n"
        "pair_coeff 1 1 zbl ${z} ${z}\npair_coeff 1 2 zbl ${z} 29\npair_coeff 2 2 zbl 29 29\n"
        "pair_coeff * * snap x.snapcoeff x.snapparam Al Cu\n"
    )
    assert read(folder / "x.snap").alike(snap(zbl=Zbl(2.0, 3.0)))


def test_files_of_other_writers_are_read(folder):
    expected = read(folder / "x.snap")
    edited(folder / "x.snap", "pair_style", "units metal\npair_style")
    edited(folder / "x.snapparam", "twojmax 2", "twojmax 2\nsinner 1.0 1.0\ndinner 0.5 0.5")
    for file in ("x.snap", "x.snapparam", "x.snapcoeff"):
        text = (folder / file).read_bytes()
        (folder / file).write_bytes(b"\xef\xbb\xbf" + text + "# of José".encode("latin-1"))
    got = read(folder / "x.snap")
    assert got.alike(expected)
    assert (got.coefficients == expected.coefficients).all()


def test_names_may_have_spaces(folder):
    _snap_files.write(folder, "of two elements", snap())
    assert read(folder / "of two elements.snap").alike(snap())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("1 1 zbl 13 13/1 2 zbl 29 13/2 2 zbl 29 29", ""),
        ("* * zbl 13 29/1 1 zbl 13 13/2* *2 zbl 29 29", "line 4: expected the charges 13 and 29"),
        ("* * zbl 13 29/1*1 1 zbl 13 13/2* 2*2 zbl 29 29", ""),
        ("* * zbl 13 13/1 2 zbl 13 29", "line 2: expected the charges 29 and 29"),
        ("1 * zbl 13 13/2 2 zbl 29 29", "line 2: expected the charges 13 and 29"),
        ("1 3* zbl 13 13", "pair_coeff I J zbl Zi Zj"),
        ("1 1 zbl 13 Al", "pair_coeff I J zbl Zi Zj"),
        ("1 1* zbl 13", "pair_coeff I J zbl Zi Zj"),
    ],
)
def test_pairs_of_a_repulsion_are_named_as_in_lammps(folder, lines, said):
    coeffs = "".join(f"pair_coeff {line}\n" for line in lines.split("/"))
    (folder / "x.snap").write_text(
        f"pair_style hybrid/overlay zbl 2 3 snap\n{coeffs}pair_coeff * * snap x.snapcoeff x.snapparam Al Cu\n"
    )
    if said:
        with pytest.raises(DataError, match=said):
            read(folder / "x.snap")
    else:
        assert read(folder / "x.snap").alike(snap(zbl=Zbl(2.0, 3.0)))


def test_a_missing_or_binary_file_is_named(folder):
    (folder / "x.snapparam").unlink()
    for name in ("x.snap", "x.snapcoeff"):
        with pytest.raises(InputError, match=r"x\.snapparam"):
            load_model(folder / name)
    (folder / "x.snapcoeff").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"x\.snapcoeff: cannot be read"):
        read(folder / "x.snapcoeff")


def test_members_must_belong_together(folder):
    _snap_files.write(folder, "y", snap(zbl=None))
    with pytest.raises(DataError, match="not one ensemble"):
        SnapModel.load([folder / "x.snap", folder / "y.snap"])
    with pytest.raises(DataError, match="must have the same"):
        SnapModel([snap(), snap(quadratic=True)])
    with pytest.raises(DataError, match="none"):
        SnapModel.load([])
