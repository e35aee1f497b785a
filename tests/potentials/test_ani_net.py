import numpy as np
import pytest
import torch

from alflow.potentials._ani_net import ALPHA, Shape, add_weight_gradient, energies, gradient


def case(widths, n=7, seed=0):
    shape = Shape(widths)
    rng = np.random.default_rng(seed)
    flat = shape.initial(rng) + torch.from_numpy(0.1 * rng.normal(size=shape.count))
    x, c, u = rng.normal(size=(n, widths[0])), rng.normal(size=n), rng.normal(size=(n, widths[0]))
    return shape, flat, torch.from_numpy(x), torch.from_numpy(c), torch.from_numpy(u)


def by_autograd(shape, flat, x):
    h = x
    for w, b in shape.views(flat)[:-1]:
        z = h @ w.T + b  # torch's own celu keeps ALPHA in single precision
        h = torch.where(z > 0, z, ALPHA * torch.expm1(z / ALPHA))
    w, b = shape.views(flat)[-1]
    return (h @ w.T + b)[:, 0]


@pytest.mark.parametrize("widths", [(5, 4, 3, 1), (3, 6, 1), (4, 5, 6, 3, 1)])
def test_every_pass_equals_autograd(widths):
    shape, flat, x, c, u = case(widths)
    leaf, moved = flat.clone().requires_grad_(), x.clone().requires_grad_()
    e = by_autograd(shape, leaf, moved)
    (g,) = torch.autograd.grad(e.sum(), moved, create_graph=True)
    (want,) = torch.autograd.grad((c * e).sum() + (u * g).sum(), leaf)
    layers = shape.views(flat)
    tape = energies(layers, x)
    torch.testing.assert_close(tape.energy, e.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(layers, tape), g.detach(), rtol=1e-12, atol=1e-12)
    got = torch.zeros_like(flat)
    add_weight_gradient(layers, tape, c, u, shape.views(got))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_gradients_add_up():
    shape, flat, x, c, u = case((5, 4, 3, 1), n=6)
    whole, halves = torch.zeros_like(flat), torch.zeros_like(flat)
    layers = shape.views(flat)
    for rows, out in ((slice(0, 6), whole), (slice(0, 2), halves), (slice(2, 6), halves)):
        tape = energies(layers, x[rows])
        gradient(layers, tape)
        add_weight_gradient(layers, tape, c[rows], u[rows], shape.views(out))
    torch.testing.assert_close(whole, halves)


def test_views_share_memory_with_the_vector():
    shape = Shape((3, 2, 1))
    flat = torch.arange(float(shape.count))
    (w1, b1), (w2, b2) = shape.views(flat)
    assert w1.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert b1.tolist() == [6, 7]
    assert w2.tolist() == [[8, 9]]
    assert b2.tolist() == [10]
    b2 += 1
    assert flat[-1] == 11
