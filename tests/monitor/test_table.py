import io

from rich.console import Console

from alflow.campaign.model import Finished, Submitted, Task, Verb
from alflow.monitor.history import History
from alflow.monitor.table import final_table, sections


def evaluated(result):
    h = History(header={"stages": ["main"]})
    task = Task("0-evaluate-000000", Verb.EVALUATE, {"stage": 0})
    h.add(1.0, [Submitted(task)])
    h.add(2.0, [Finished(task.id, result)])
    return {s.title: s for s in sections(h)}


def test_a_real_run(finished_run):
    out = io.StringIO()
    Console(file=out, width=100).print(final_table(finished_run[0]))
    words = out.getvalue()
    for part in ("labels bought", "fresh disorder", "crystals never sampled", "C44", "Order of the minima"):
        assert part in words
    figures = {s.title: s for s in sections(History.read(finished_run[0]))}
    row = {r[0]: r[1:] for r in figures["Crystals of Al"].rows}["fcc"]
    assert abs(float(row[0]) - float(row[1])) < 0.1  # a0 of model and reference
    assert 4 < float(row[0]) < 5


MINIMUM = {"V0_A3_atom": 16.5, "a0_A": 4.0412, "E0_eV_atom": -3.4, "B_GPa": 79.26, "above_meV_atom": -0.02}


def test_figures_signs_and_gaps():
    curves = {
        "fcc": {"model": {**MINIMUM, "above_meV_atom": 0.0}, "reference": MINIMUM},
        "sc": {"model": {"problem": "still falling"}, "reference": {**MINIMUM, "above_meV_atom": -12.34}},
    }
    constants = {
        "crystal": "fcc",
        "model": {"C11_GPa": 99.0, "C12_GPa": None, "C44_GPa": 33.0, "B_GPa": 79.0},
        "reference": {"C11_GPa": 110.0, "C12_GPa": 60.0, "C44_GPa": 30.0, "B_GPa": 77.0},
    }
    order = {"model": ["fcc"], "reference": ["sc", "fcc"]}
    al = {"relative_to": "fcc", "curves": curves, "elastic": constants, "order": order}
    found = evaluated({"fresh": {"problem": "not asked for"}, "rattled": {}, "elements": {"Al": al}})
    crystals = found["Crystals of Al"]
    assert crystals.rows[0] == ("fcc", "4.041", "4.041", "79.3", "79.3", "0.0", "0.0")
    assert crystals.rows[1] == ("sc", "–", "4.041", "–", "79.3", "–", "−12.3")
    assert "model fcc, reference sc < fcc" in crystals.note
    assert "sc, model: still falling." in crystals.note
    elastic = found["Elastic constants of fcc Al"]
    assert elastic.rows[0] == ("C11", "99.0", "110.0", "−10.0 %")
    assert elastic.rows[1] == ("C12", "–", "60.0", "–")
    errors = found["Root mean square errors against the reference"]
    assert "fresh disorder: not asked for." in errors.note


def test_nan_of_the_model_and_failures_of_the_reference_are_told():
    errors = {"n_frames": 3, "n_no_prediction": 2, "energy_rmse_meV_atom": 5.26, "force_rmse_meV_A": None}
    found = evaluated({"fresh": errors, "reference_failed": 1, "reference_frames": 9})
    section = found["Root mean square errors against the reference"]
    assert section.rows[0][:4] == ("fresh disorder", "3", "5.26", "–")
    assert "the model gave NaN for 2 frames" in section.note
    assert "failed on 1 of 9 frames" in section.note


def test_a_run_without_evaluation_says_so():
    (section,) = sections(History())
    assert "not been held against its reference" in section.note


def test_stages_are_told_apart():
    h = History(header={"stages": ["one", "two"]})
    for stage in (0, 1):
        task = Task(f"{stage}-evaluate-000000", Verb.EVALUATE, {"stage": stage})
        h.add(1.0, [Submitted(task), Finished(task.id, {"fresh": {}})])
    assert [s.title.rpartition("(")[2] for s in sections(h)[1:]] == ["stage one)", "stage two)"]
