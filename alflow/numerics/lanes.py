"""Eight doubles at once as a value of compiled loops: what a vector register holds, so that sums stay in registers.

A compiler turns a plain loop into vector instructions only where it can prove that nothing overlaps; sums over
products of rows that tables pick are beyond it. Here the vector is said, not hoped for. Processors with shorter
registers take two or four for one.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
# ruff: noqa: ANN001, ANN201, ANN202, ARG001

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, register_model

LANES: Final = 8
"""Doubles in a value."""

_FUSE: Final = ("contract",)
_VECTOR: Final = ir.VectorType(ir.DoubleType(), LANES)
_INT: Final = ir.IntType(32)


class _Lanes(types.Type):
    """The numba type of eight doubles."""


_lanes: Final = _Lanes("Lanes")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    """Held as one vector."""

    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _address(context, builder, array_type, array, index) -> Any:
    """Where the elements from `index` on begin, as a pointer to a vector."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _spread(builder, x) -> Any:
    """Eight times x."""
    undefined, zeros = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(undefined, x, _INT(0)), undefined, zeros)


@intrinsic
def load(_context, array, index):
    """Elements index:index + 8 of a C-contiguous array of doubles, counted flat."""

    def build(context, builder, signature, args):
        return builder.load(_address(context, builder, signature.args[0], *args), align=8)

    return _lanes(array, types.int64), build


@intrinsic
def store(_context, array, index, value):
    """Write elements index:index + 8 of a C-contiguous array of doubles, counted flat."""

    def build(context, builder, signature, args):
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]), align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, _lanes), build


@intrinsic
def splat(_context, x):
    """Eight times one double."""

    def build(_c, builder, _s, args):
        return _spread(builder, args[0])

    return _lanes(types.float64), build


@intrinsic
def load_splat(_context, array, index):
    """Eight times an element of a C-contiguous array of doubles, counted flat."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _spread(builder, builder.load(builder.gep(data, [args[1]])))

    return _lanes(array, types.int64), build


@intrinsic
def times(_context, a, b):
    """The product a b."""
    return _lanes(_lanes, _lanes), lambda _c, builder, _s, args: builder.fmul(*args, flags=_FUSE)


@intrinsic
def plus(_context, a, b):
    """The sum a + b."""
    return _lanes(_lanes, _lanes), lambda _c, builder, _s, args: builder.fadd(*args, flags=_FUSE)


@intrinsic
def add_product(_context, c, a, b):
    """The sum c + a b."""

    def build(_c, builder, _s, args):
        return builder.fadd(args[0], builder.fmul(*args[1:], flags=_FUSE), flags=_FUSE)

    return _lanes(_lanes, _lanes, _lanes), build


@intrinsic
def take_product(_context, c, a, b):
    """The difference c - a b."""

    def build(_c, builder, _s, args):
        return builder.fsub(args[0], builder.fmul(*args[1:], flags=_FUSE), flags=_FUSE)

    return _lanes(_lanes, _lanes, _lanes), build


@intrinsic
def total(_context, a):
    """The sum of the eight."""

    def build(_c, builder, _s, args):
        value, undefined, width = args[0], ir.Constant(_VECTOR, ir.Undefined), LANES
        while width > 1:
            width //= 2
            order = [(k + width) % LANES for k in range(LANES)]
            moved = builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(_INT, LANES), order))
            value = builder.fadd(value, moved)
        return builder.extract_element(value, _INT(0))

    return types.float64(_lanes), build
