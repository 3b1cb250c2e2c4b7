"""Vector registers in compiled code: several numbers in one variable, for numba.

Loops written with them do the same on every machine, by as many numbers at a time as its registers
hold; what only some registers can do (`power_of_sixteenths`) says so.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
# Whether a register can be a table that another looks up.
HAS_TABLES = {"+avx512f", "+avx512dq"} <= set(_FEATURES)
_BYTES = 64 if HAS_TABLES else 32 if "+avx" in _FEATURES else 16
# Bits of a place in a table of doubles, which takes two registers; and half the step between the
# powers in the table, the largest remainder.
_INDEX_BITS = 4
HALF_STEP = 0.5 / (1 << _INDEX_BITS)


class Register(types.Type):
    """Several numbers in one vector register."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar, self.lanes = scalar, _BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"Register({scalar}, {self.lanes})")


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager, register):
        element = ir.DoubleType() if register.scalar == types.float64 else ir.FloatType()
        super().__init__(manager, register, ir.VectorType(element, register.lanes))


def _spread(builder, number, vector):
    """Return a vector of that type with the number in each lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, lanes)


def _constant(like, value):
    """Return the constant of a type, the same in each lane of a vector."""
    return ir.Constant(like, [value] * like.count if isinstance(like, ir.VectorType) else value)


def _mask(builder, count, lanes):
    """Return a mask of the first `count` lanes; folded away where that is all of them."""
    vector = ir.VectorType(ir.IntType(64), lanes)
    return builder.icmp_unsigned(
        "<", ir.Constant(vector, list(range(lanes))), _spread(builder, count, vector)
    )


def _call(builder, name, arguments, result, **options):
    """Call the LLVM function of that full name."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.declare_intrinsic(name, [], signature)
    return builder.call(function, arguments, **options)


def _suffix(at):
    """Return what LLVM appends to the name of a function for that type."""
    if isinstance(at, ir.VectorType):
        return f".v{at.count}{at.element.intrinsic_name}"
    return f".{at.intrinsic_name}"


def _integers(at):
    """Return the bits of the mantissa of a float type, and the integers as wide."""
    vector = isinstance(at, ir.VectorType)
    element = at.element if vector else at
    bits, integer = (52, ir.IntType(64)) if element == ir.DoubleType() else (23, ir.IntType(32))
    return bits, ir.VectorType(integer, at.count) if vector else integer


@intrinsic
def lanes_of(_context, number):
    """Return how many numbers like that a register holds."""
    lanes = Register(number).lanes

    def generate(_context, _builder, _signature, _arguments):
        return ir.Constant(ir.IntType(64), lanes)

    return types.uint64(number), generate


@intrinsic
def spread(_context, number):
    """Return a register with the number in each lane."""
    register = Register(number)

    def generate(context, builder, _signature, arguments):
        return _spread(builder, arguments[0], context.get_value_type(register))

    return register(number), generate


@intrinsic
def address(_context, array, f):
    """Return where row f of an array (k, n) of contiguous rows starts, or item f of an array (n,).

    Unlike the row as an array it is not counted as a use, which would cost calls in a loop.
    """

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        in_bytes = builder.mul(arguments[1], builder.extract_value(array.strides, 0))
        start = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        return builder.bitcast(builder.gep(start, [in_bytes]), array.data.type)

    return types.CPointer(array.dtype)(array, types.intp), generate


def _place(builder, row, j, vector):
    """Return the pointer to row[j], and its alignment as LLVM takes it."""
    pointer = builder.bitcast(builder.gep(row, [j]), vector.as_pointer())
    alignment = 8 if vector.element == ir.DoubleType() else 4
    return pointer, ir.Constant(ir.IntType(32), alignment)


@intrinsic
def load(_context, row, j, count):
    """Return `count` numbers of a row from j on; zero in the other lanes."""
    register = Register(row.dtype)

    def generate(context, builder, _signature, arguments):
        vector = context.get_value_type(register)
        place, alignment = _place(builder, *arguments[:2], vector)
        mask = _mask(builder, arguments[2], register.lanes)
        name, zeros = f"llvm.masked.load{_suffix(vector)}.p0", _constant(vector, 0.0)
        return _call(builder, name, [place, alignment, mask, zeros], vector)

    return register(row, types.uint64, types.uint64), generate


@intrinsic
def store(_context, register, row, j, count):
    """Write the first `count` lanes to a row from j on."""

    def generate(context, builder, _signature, arguments):
        vector = arguments[0].type
        place, alignment = _place(builder, *arguments[1:3], vector)
        mask = _mask(builder, arguments[3], vector.count)
        name = f"llvm.masked.store{_suffix(vector)}.p0"
        _call(builder, name, [arguments[0], place, alignment, mask], ir.VoidType())
        return context.get_dummy_value()

    return types.void(register, row, types.uint64, types.uint64), generate


@intrinsic
def sum_of_lanes(_context, register):
    """Return the sum of all lanes."""

    def generate(_context, builder, _signature, arguments):
        vector = arguments[0].type
        start = ir.Constant(vector.element, 0.0)
        name = f"llvm.vector.reduce.fadd{_suffix(vector)}"
        return _call(builder, name, [start, *arguments], vector.element, fastmath=("fast",))

    return register.scalar(register), generate


def _let_operate(symbol, name):
    """Let an operator take registers, or a register and a number; always as fastmath."""

    @intrinsic
    def by_lanes(_context, x, y):
        register = x if isinstance(x, Register) else y

        def generate(context, builder, _signature, arguments):
            vector = context.get_value_type(register)
            both = [
                side if side.type == vector else _spread(builder, side, vector)
                for side in arguments
            ]
            return getattr(builder, name)(*both, flags=("fast",))

        return register(x, y), generate

    @overload(symbol)
    def operate(x, y):
        if isinstance(x, Register) or isinstance(y, Register):
            return lambda x, y: by_lanes(x, y)
        return None


_let_operate(operator.add, "fadd")
_let_operate(operator.iadd, "fadd")
_let_operate(operator.sub, "fsub")
_let_operate(operator.mul, "fmul")


@intrinsic
def from_edge(_context, q, z):
    """Return ``1 − (q − z)`` for a number q and a register z, in this order as no fastmath is."""

    def generate(_context, builder, _signature, arguments):
        q, z = arguments
        return builder.fsub(_constant(z.type, 1.0), builder.fsub(_spread(builder, q, z.type), z))

    return z(q, z), generate


@intrinsic
def at_most(_context, x, limit):
    """Return a number, or each lane of a register, or the limit where that is smaller."""

    def generate(_context, builder, _signature, arguments):
        x, limit = arguments
        if x.type != limit.type:
            limit = _spread(builder, limit, x.type)
        return builder.select(builder.fcmp_ordered("<", limit, x), limit, x)  # a NaN stays

    return x(x, limit), generate


@intrinsic
def rounded(_context, x):
    """Round a number or each lane to the nearest integer, by one instruction."""

    def generate(_context, builder, _signature, arguments):
        at = arguments[0].type
        return _call(builder, f"llvm.rint{_suffix(at)}", arguments, at)

    return x(x), generate


@intrinsic
def lowered(_context, x, power):
    """Return ``x 2^−power`` of an integral power, taken from the bits of x's exponent.

    Adding 1.5 · 2^52 brings the power to the low bits, a shift to those of the exponent.
    """

    def generate(_context, builder, _signature, arguments):
        x, power = arguments
        mantissa, integers = _integers(x.type)
        bits = builder.fadd(power, _constant(x.type, 1.5 * 2.0**mantissa))
        bits = builder.shl(builder.bitcast(bits, integers), _constant(integers, mantissa))
        return builder.bitcast(builder.sub(builder.bitcast(x, integers), bits), x.type)

    return x(x, power), generate


# Bits of 2^(−i/16), and the i that the shift below brings into the mantissa.
_SIXTEENTHS = [
    int(np.exp2(np.float64(-2 * HALF_STEP * i)).view(np.int64)) + (i << (52 - _INDEX_BITS))
    for i in range(1 << _INDEX_BITS)
]


@intrinsic
def power_of_sixteenths(_context, s):
    """Split doubles: remainders f of the nearest multiples n of 1/16, and ``2^−n``.

    Only where there are tables. Adding 1.5 · 2^48 rounds to the multiple and leaves 16 n in the low
    bits: four of those choose from the table, the others are the exponent.
    """

    def generate(context, builder, signature, arguments):
        (s,) = arguments
        mantissa, integers = _integers(s.type)
        large = _constant(s.type, 1.5 * 2.0 ** (mantissa - _INDEX_BITS))
        bits = builder.bitcast(builder.fadd(s, large), integers)
        low, high = (
            ir.Constant(integers, _SIXTEENTHS[at : at + integers.count])
            for at in (0, integers.count)
        )
        name = "llvm.x86.avx512.vpermi2var.q.512"
        found = _call(builder, name, [low, bits, high], integers)
        shifted = builder.shl(bits, _constant(integers, mantissa - _INDEX_BITS))
        power = builder.bitcast(builder.sub(found, shifted), s.type)
        name, kept = "llvm.x86.avx512.mask.reduce.pd.512", ir.IntType(32)(_INDEX_BITS << 4 | 8)
        rest = [_constant(s.type, 0.0), ir.IntType(8)(-1), ir.IntType(32)(4)]
        remainder = _call(builder, name, [s, kept, *rest], s.type)
        return context.make_tuple(builder, signature.return_type, [remainder, power])

    return types.UniTuple(s, 2)(s), generate
