from __future__ import annotations

import pytest

from alflow.errors import InputError
from alflow.spec import shipped


def test_a_bare_name_is_a_shipped_file_and_a_path_is_a_path(tmp_path, monkeypatch):
    assert shipped.find("laptop", "configs").name == "laptop.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "laptop.yaml").write_text("")
    assert shipped.find("laptop.yaml", "configs").resolve() == tmp_path / "laptop.yaml"
    assert shipped.find("laptop", "configs").resolve() != tmp_path / "laptop.yaml"


@pytest.mark.parametrize("given", ["laptopp", "./laptop", "laptop.yml", "nowhere/laptop.yaml"])
def test_what_is_not_there(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file") as caught:
        shipped.find(given, "configs")
    assert "'laptop'" in caught.value.hint


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        shipped.find(tmp_path, "workflows")
