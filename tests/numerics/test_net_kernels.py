"""Compiled passes through CELU nets against torch's autograd."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from alflow.numerics import net_kernels
from alflow.numerics.threads import spread


def by_autograd(x, inward, bias, out_w, alpha):
    """Energies (m, n) and gradients (m, n, fan_in) in double precision."""
    x, energies, grads = torch.from_numpy(x).double().requires_grad_(), [], []
    for m in range(len(out_w)):
        h = x
        for w, b in zip(inward, bias, strict=True):
            z = h @ torch.from_numpy(w[m]).double() + torch.from_numpy(b[m])
            h = torch.where(z > 0, z, alpha * torch.expm1(z / alpha))
        e = h @ torch.from_numpy(out_w[m]).double()
        energies.append(e.detach().numpy())
        grads.append(torch.autograd.grad(e.sum(), x)[0].numpy())
    return np.stack(energies), np.stack(grads)


@pytest.mark.parametrize("widths", [(5, 7), (9, 6, 4, 3), (32, 33, 18)])
@pytest.mark.parametrize("n", [1, 2, 67, 130])
def test_equals_autograd(widths, n):
    rng, m = np.random.default_rng(0), 3
    inward = tuple(rng.normal(size=(m, a, b)).astype("f4") / np.sqrt(a).astype("f4") for a, b in pairwise(widths))
    outward = tuple(np.ascontiguousarray(w.transpose(0, 2, 1)) for w in inward)
    bias = tuple(rng.normal(size=(m, b)).astype("f4") for b in widths[1:])
    out_w, x = rng.normal(size=(m, widths[-1])).astype("f4"), rng.normal(size=(n, widths[0])).astype("f4")
    energy, mean, each = np.empty((m, n), "f4"), np.zeros_like(x), np.zeros((m, *x.shape), "f4")
    spread(net_kernels.passes, n, x, inward, outward, bias, out_w, np.float32(0.1), energy, mean, each)
    want_energy, want_each = by_autograd(x, inward, bias, out_w, 0.1)
    np.testing.assert_allclose(energy, want_energy, rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(each, want_each, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, want_each.mean(0), rtol=1e-4, atol=1e-5)
    again = np.zeros_like(x)
    spread(net_kernels.passes, n, x, inward, outward, bias, out_w, np.float32(0.1), energy, again, each[:0])
    np.testing.assert_array_equal(again, mean)


def test_nan_goes_through():
    x, w = np.full((1, 2), np.nan, "f4"), np.ones((1, 2, 2), "f4")
    energy, mean = np.zeros((1, 1), "f4"), np.zeros_like(x)
    net_kernels.passes(
        0, 1, x, (w,), (w,), (np.zeros((1, 2), "f4"),), np.ones((1, 2), "f4"), np.float32(0.1), energy, mean,
        np.zeros((0, 1, 2), "f4"),
    )  # fmt: skip
    assert np.isnan(energy).all()
    assert np.isnan(mean).all()
