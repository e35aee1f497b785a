import numpy as np

from alflow.testing.toy_data import toy_frames, toy_model
from alflow.testing.uncertainty_contract import UncertaintyContract
from alflow.uncertainty.none import Part


class TestNone(UncertaintyContract):
    part = Part()


def test_it_trusts_even_what_is_absurd(tmp_path):
    gauge = Part().load(toy_model(tmp_path), tmp_path)
    frames = toy_frames(2)
    assert (gauge.evaluate(frames.moved(frames.positions * 0.5, frames.cell * 0.5))[1].per_frame == 0).all()
    assert np.array_equal(gauge.evaluate(frames)[0].energy, gauge.model.predict(frames).energy)
