"""exp and power for compiled loops, in a form that compilers turn into vector instructions; and how loops are compiled.

A call of the C library in a loop keeps it scalar. These are polynomials and shifts of bits in float32; float64, which
only tests ask for, goes to the library.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202, D403, PLW0108

from __future__ import annotations

import math
from typing import Final

import numba as nb
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

FAST: Final = {"reassoc", "contract", "nsz", "arcp"}
"""For sums: order does not matter. NaN and infinity keep their meaning."""
EXACT: Final = {"contract"}
"""For the elementary functions: they rely on the order of operations."""
INNER: Final = {"cache": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For functions that only other compiled ones call: less to compile."""
OUTER: Final = {"cache": True, "nogil": True}
"""For functions that Python calls, several at a time: see `alflow.numerics.threads`."""


@intrinsic
def _bits(_context, x):  # noqa: ARG001  # numba calls it by name
    """The 32 bits of a float32 as an int32."""
    return types.int32(types.float32), lambda _c, builder, _s, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _from_bits(_context, x):  # noqa: ARG001
    """The float32 of 32 bits."""
    return types.float32(types.int32), lambda _c, builder, _s, args: builder.bitcast(args[0], ir.FloatType())


@nb.njit(fastmath=EXACT)
def exp32(x):
    """exp of a float32 that is not much above zero: 2^n times a polynomial, within 1e-7 (1 + |x|) (relative).

    It falls to 2^-50, not to 0: products of two such and a weight are no subnormal numbers, on which some processors
    take a hundred times as long.
    """
    f32, i32 = np.float32, np.int32
    t = x * f32(1.4426950408889634)
    t = f32(-50.0) if t < f32(-50.0) else t  # noqa: FURB136  # keeps NaN
    shifted = t + f32(12582912.0)  # the last bits of 1.5 * 2^23 + t are t rounded to a whole number
    f = t - (shifted - f32(12582912.0))
    p = f32(0.00015469731978659223)
    p = p * f + f32(0.0013400432165440936)
    p = p * f + f32(0.009618025602949195)
    p = p * f + f32(0.05550327214208994)
    p = p * f + f32(0.2402265121359532)
    p = p * f + f32(0.69314720671062)
    p = p * f + f32(1.0)
    return p * _from_bits(i32(i32(_bits(shifted) << i32(23)) + i32(0x3F800000)))


@nb.njit(fastmath=EXACT)
def power32(y, exponent):
    """(1 - y)^exponent for 0 <= y <= 1 in float32, exact also where y is so small that 1 - y rounds."""
    f32, i32 = np.float32, np.int32
    w = f32(1.0) - y
    lost = (f32(1.0) - w) - y  # what rounding took from w; log(w + lost) = log(w) + lost where it matters
    w = f32(1e-30) if w < f32(1e-30) else w  # noqa: FURB136  # keeps NaN
    b = _bits(w)
    e = i32(b - i32(0x3F3504F3)) >> i32(23)  # w = m 2^e, sqrt(1/2) <= m < sqrt(2)
    f = _from_bits(i32(b - i32(e << i32(23)))) - f32(1.0)
    q = f32(-0.08101558417048813)
    q = q * f + f32(0.12712307716044302)
    q = q * f + f32(-0.12972238975829656)
    q = q * f + f32(0.14202173815977256)
    q = q * f + f32(-0.16642247596562745)
    q = q * f + f32(0.20001468577208667)
    q = q * f + f32(-0.2500029654602897)
    q = q * f + f32(0.3333332859677252)
    log = f32(e) * f32(0.6931471805599453) + (f + (f * f * (f * q - f32(0.5)) + lost))
    return exp32(exponent * log)


def exp(x):
    """exp, of the type of x."""
    raise NotImplementedError


def power(y, exponent):
    """(1 - y)^exponent, of the type of y."""
    raise NotImplementedError


@overload(exp, jit_options={"fastmath": EXACT})
def _exp_of(x):
    if x == types.float32:
        return lambda x: exp32(x)
    return lambda x: math.exp(x)


@overload(power, jit_options={"fastmath": EXACT})
def _power_of(y, exponent):  # noqa: ARG001
    if y == types.float32:
        return lambda y, exponent: power32(y, exponent)
    return lambda y, exponent: math.exp(exponent * math.log1p(-min(y, 1.0)))
