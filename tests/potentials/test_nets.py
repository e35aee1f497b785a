import numpy as np
import pytest
import torch

from alflow.potentials._nets import ACTIVATIONS, ALPHA, Shape, add_weight_gradient, energies, gradient

CURVES = {
    "celu": lambda z: torch.where(z > 0, z, ALPHA * torch.expm1(z.clamp(max=0) / ALPHA)),  # torch's keeps float32
    "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
    "tanh": torch.tanh,
}


def case(widths, n=7, seed=0, activation="celu"):
    shape = Shape(widths, activation)
    rng = np.random.default_rng(seed)
    flat = shape.initial(rng) + torch.from_numpy(0.1 * rng.normal(size=shape.count))
    x, c, u = rng.normal(size=(n, widths[0])), rng.normal(size=n), rng.normal(size=(n, widths[0]))
    return shape, flat, torch.from_numpy(x), torch.from_numpy(c), torch.from_numpy(u)


def by_autograd(shape, flat, x):
    h = x
    for w, b in shape.views(flat)[:-1]:
        h = CURVES[shape.activation](h @ w.T + b)
    w, b = shape.views(flat)[-1]
    return (h @ w.T + b)[:, 0]


def test_every_activation_is_tested():
    assert CURVES.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("activation", CURVES)
@pytest.mark.parametrize("widths", [(5, 4, 3, 1), (3, 6, 1), (4, 5, 6, 3, 1)])
def test_every_pass_equals_autograd(widths, activation):
    shape, flat, x, c, u = case(widths, activation=activation)
    leaf, moved = flat.clone().requires_grad_(), x.clone().requires_grad_()
    e = by_autograd(shape, leaf, moved)
    (g,) = torch.autograd.grad(e.sum(), moved, create_graph=True)
    (want,) = torch.autograd.grad((c * e).sum() + (u * g).sum(), leaf)
    layers = shape.views(flat)
    tape = energies(layers, x, activation)
    torch.testing.assert_close(tape.energy, e.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(layers, tape), g.detach(), rtol=1e-12, atol=1e-12)
    got = torch.zeros_like(flat)
    add_weight_gradient(layers, tape, c, u, shape.views(got))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    (want,) = torch.autograd.grad((c * by_autograd(shape, leaf, x)).sum(), leaf)
    got.zero_()
    add_weight_gradient(layers, energies(layers, x, activation), c, None, shape.views(got))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("activation", CURVES)
def test_activations_are_right_far_out(activation):
    z = torch.tensor([-1e3, -50.0, -1.0, 0.0, 1.0, 39.0, 41.0, 1e3], dtype=torch.float64)
    value, slope = ACTIVATIONS[activation].of(z.clone())
    leaf = z.clone().requires_grad_()
    want = CURVES[activation](leaf)
    torch.testing.assert_close(value, want.detach(), rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(slope, torch.autograd.grad(want.sum(), leaf)[0], rtol=1e-14, atol=1e-16)


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
