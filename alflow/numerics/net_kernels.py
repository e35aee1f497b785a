"""Compiled passes through many small CELU nets at once: energies, and their gradients by the inputs.

Products of matrices as small as these run as fast in plain loops as in a library, and on the threads of
`alflow.numerics.threads` they neither start another pool nor wait for one on a busy node.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001

from __future__ import annotations

from typing import Final

import numba as nb
import numpy as np

from alflow.numerics.vector_math import EXACT, FAST, INNER, OUTER, exp32

ROWS: Final = 64
"""Atoms taken through all nets together: what they leave behind fits into the second-level cache."""


@nb.njit(fastmath=FAST, **INNER)
def add_product(n, x, w, out) -> None:
    """Add x[:n] @ w to out[:n], n even; two rows and four columns of x a pass, to load and store less."""
    for r in range(0, n, 2):
        o0, o1 = out[r], out[r + 1]
        k = 0
        while k + 4 <= x.shape[1]:
            a0, a1, a2, a3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
            b0, b1, b2, b3 = x[r + 1, k], x[r + 1, k + 1], x[r + 1, k + 2], x[r + 1, k + 3]
            for j in range(w.shape[1]):
                w0, w1, w2, w3 = w[k, j], w[k + 1, j], w[k + 2, j], w[k + 3, j]
                o0[j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                o1[j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
            k += 4
        while k < x.shape[1]:
            for j in range(w.shape[1]):
                o0[j] += x[r, k] * w[k, j]
                o1[j] += x[r + 1, k] * w[k, j]
            k += 1


@nb.njit(fastmath=EXACT, **INNER)
def celu(n, alpha, h, slope) -> None:
    """Replace z by its CELU in h[:n]; its derivative into slope[:n]. NaN stays NaN."""
    zero, rate = np.float32(0), np.float32(1 / alpha)
    for r in range(n):
        row, out = h[r], slope[r]
        for j in range(h.shape[1]):
            z = row[j]
            e = exp32((zero if z > zero else z) * rate)  # noqa: FURB136  # keeps NaN
            out[j] = e
            row[j] = max(zero, z) + alpha * (e - np.float32(1))


@nb.njit(fastmath=FAST, **INNER)
def last_layer(n, h, w, slope, energy) -> None:
    """Energies h[:n] @ w; the slopes become the gradient by what enters the activation."""
    for r in range(n):
        total = w.dtype.type(0)
        for j in range(len(w)):
            total += h[r, j] * w[j]
        energy[r] = total
        row = slope[r]
        for j in range(len(w)):
            row[j] *= w[j]


@nb.njit(**INNER)
def _multiply(n, a, slope) -> None:
    for r in range(n):
        for j in range(a.shape[1]):
            slope[r, j] *= a[r, j]


@nb.njit(**INNER)
def _clear(n, out) -> None:
    for r in range(n):
        for j in range(out.shape[1]):
            out[r, j] = 0


@nb.njit(**INNER)
def _fill(n, row, out) -> None:
    for r in range(n):
        for j in range(len(row)):
            out[r, j] = row[j]


@nb.njit(**OUTER)
def passes(first, last, x, inward, outward, bias, out_w, alpha, energy, mean, each) -> None:
    """Energies of rows first:last in all nets, and their gradients by x.

    Args:
        first: where to begin.
        last: where to end.
        x: inputs, (n, fan_in).
        inward: weights of each hidden layer, (m, fan_in, fan_out).
        outward: the same transposed, (m, fan_out, fan_in).
        bias: of each hidden layer, (m, fan_out).
        out_w: weights of the output, (m, width).
        alpha: of CELU.
        energy: output without its bias, (m, n).
        mean: gradient of the mean over the nets, (n, fan_in); holds zeros.
        each: gradient of each net, (m, n, fan_in), holding zeros; or (0, n, fan_in) if not wanted.
    """
    depth = len(bias)
    h = [np.empty((ROWS, b.shape[1]), np.float32) for b in bias]
    slope = [np.empty((ROWS, b.shape[1]), np.float32) for b in bias]
    block, part = np.zeros((ROWS, x.shape[1]), np.float32), np.empty((ROWS, x.shape[1]), np.float32)
    output, share = np.empty(ROWS, np.float32), np.float32(1 / len(out_w))
    for begin in range(first, last, ROWS):
        n = min(ROWS, last - begin)
        even = n + n % 2  # a row then has the same bits whichever its neighbours are
        rows = slice(begin, begin + n)
        block[:n] = x[rows]
        for m in range(len(out_w)):
            for k in range(depth):
                _fill(even, bias[k][m], h[k])
                add_product(even, block if k == 0 else h[k - 1], inward[k][m], h[k])
                celu(even, alpha, h[k], slope[k])
            last_layer(even, h[depth - 1], out_w[m], slope[depth - 1], output)
            energy[m, rows] = output[:n]
            for k in range(depth - 1, 0, -1):
                _clear(even, h[k - 1])
                add_product(even, slope[k], outward[k][m], h[k - 1])
                _multiply(even, h[k - 1], slope[k - 1])
            _clear(even, part)
            add_product(even, slope[0], outward[0][m], part)
            for r in range(n):
                for j in range(x.shape[1]):
                    mean[begin + r, j] += share * part[r, j]
            if len(each):
                each[m, rows] = part[:n]
