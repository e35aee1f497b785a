from __future__ import annotations

import gzip
import os

import pytest

from alflow.engines.vasp_potcars import check_order, find, join
from alflow.errors import InputError
from alflow.testing.fake_vasp import Element, write_library
from alflow.testing.fake_vasp.library import potcar


@pytest.fixture
def library(tmp_path):
    return write_library(
        tmp_path / "potcars", {"Al": "Al", "Cu": "Cu", "Cu_pv": "Cu", "Al_lda": Element("Al", lexch="CA")}
    )


def test_a_potcar_and_what_its_header_says(library):
    found = find(library, "Al", "Al", "PE", "here")
    assert (found.element, found.title, found.lexch, found.enmax_eV) == ("Al", "PAW_PBE Al 01Apr2000", "PE", 250.0)
    assert found.text not in repr(found)
    assert find(library, "Al_lda", "Al", "CA", "here").lexch == "CA"


def test_every_layout_gives_the_same(library, tmp_path):
    plain = find(library, "Cu_pv", "Cu", "PE", "here")
    packed = write_library(tmp_path / "packed", {"Cu_pv": "Cu"}, "pymatgen")
    assert find(packed, "Cu_pv", "Cu", "PE", "here").sha256 == plain.sha256
    inside = packed / "POT_GGA_PAW_PBE"
    assert find(inside, "Cu_pv", "Cu", "PE", "here").sha256 == plain.sha256
    (library / "Cu_pv" / "POTCAR").unlink()
    (library / "Cu_pv" / "POTCAR.gz").write_bytes(gzip.compress(plain.text.encode()))
    assert find(library, "Cu_pv", "Cu", "PE", "here").sha256 == plain.sha256


def test_a_file_that_changes_is_read_again(library):
    first = find(library, "Al", "Al", "PE", "here")
    path = library / "Al" / "POTCAR"
    path.write_text(potcar(Element("Al", date="02Apr2000")))
    os.utime(path, ns=(1, 1))
    assert find(library, "Al", "Al", "PE", "here").sha256 != first.sha256


def test_what_cannot_be_used_is_named(library, tmp_path):
    with pytest.raises(InputError, match="there is no POTCAR 'Cu_sv'") as caught:
        find(library, "Cu_sv", "Cu", "PE", "potcar_symbols.Cu")
    assert "it has Cu, Cu_pv" in caught.value.hint
    assert caught.value.where == "potcar_symbols.Cu"
    with pytest.raises(InputError, match="is a POTCAR of Cu, not of Al"):
        find(library, "Cu", "Al", "PE", "here")
    with pytest.raises(InputError, match=r"for LDA \(LEXCH = CA\), not for PBE"):
        find(library, "Al_lda", "Al", "PE", "here")
    other = write_library(tmp_path / "other", {"Al": "Al"}, "pymatgen")
    (other / "POT_GGA_PAW_PBE").rename(other / "POT_GGA_PAW_PBE_54")
    with pytest.raises(InputError, match="no POTCAR 'Al'") as caught:
        find(other, "Al", "Al", "PE", "here")
    assert "POT_GGA_PAW_PBE_54" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no TITEL, LEXCH, ENMAX"),
        (potcar(Element("Al")).encode()[:900], "has no ENMAX|0 complete datasets"),
        (potcar(Element("Al")).partition("local part")[0].encode(), "0 complete datasets"),
        (2 * potcar(Element("Al")).encode(), "2 complete datasets"),
        (potcar(Element("Al")).replace("VRHFIN", "NOTHING").encode(), "has no VRHFIN"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_damaged_potcar(library, content, words):
    (library / "Al" / "POTCAR").write_bytes(content)
    with pytest.raises(InputError, match=words):
        find(library, "Al", "Al", "PE", "here")


def test_a_damaged_archive(library):
    (library / "Al" / "POTCAR").unlink()
    for content in (b"no archive", gzip.compress(potcar(Element("Al")).encode())[:200]):
        (library / "Al" / "POTCAR.gz").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            find(library, "Al", "Al", "PE", "here")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_potcar_that_is_not_ours_to_read(library):
    (library / "Al" / "POTCAR").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        find(library, "Al", "Al", "PE", "here")


def test_the_order_is_that_of_the_poscar(library):
    al, cu = (find(library, s, s, "PE", "here") for s in ("Al", "Cu"))
    poscar = "x\n1.0\n1 0 0\n0 1 0\n0 0 1\nAl Cu\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
    check_order(poscar, join([al, cu]))
    with pytest.raises(InputError, match="POSCAR has Al Cu, POTCAR has Cu Al"):
        check_order(poscar, join([cu, al]))
    with pytest.raises(InputError, match="POTCAR has Al"):
        check_order(poscar, join([al]))
