"""Products of a few rows with 64 outputs of a matrix, in LLVM's language, for `rows.py`.

A matrix lies as oneDNN's packed form for AVX-512 has it: 64 outputs together, of each the next 4
bytes of its inputs (4 in 8 bits, 2 in bfloat16), then the next 4 bytes, so that it is read once
from its beginning to its end. Numba's own language has no name for the 8-bit product.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from chat_app.llm.backends.base import cpu_flags

_BYTE, _SHORT, _INT, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_LANES = 16
_INTS, _FLOATS = ir.VectorType(_INT, _LANES), ir.VectorType(_FLOAT, _LANES)
# 4 registers hold 64 outputs, 4 rows of them stay within the 32 that there are.
_REGISTERS = 4
GROUP_BYTES = _REGISTERS * _LANES * 4


def _place(builder, address, offset, kind):
    return builder.inttoptr(builder.add(address, offset), ir.PointerType(kind))


def _all(builder, value):
    """4 bytes in all 16 lanes."""
    nothing = ir.Constant(_INTS, ir.Undefined)
    first = builder.insert_element(nothing, value, _INT(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTS, None))


def _eight(builder, sums, inputs, weights):
    """Add the products of 4 inputs in 8 bits, from 128 on, with 64 outputs' signed weights."""
    dot = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_INTS, [_INTS] * 3), "llvm.x86.avx512.vpdpbusd.512"
    )
    return [
        builder.call(dot, [each, inputs, weight])
        for each, weight in zip(sums, weights, strict=True)
    ]


class _Bfloat16(ir.Type):
    """The type that llvmlite has no name for."""

    def _to_string(self):
        return "bfloat"


_PAIRS = ir.VectorType(_Bfloat16(), 2 * _LANES)


def _sixteen(builder, sums, inputs, weights):
    """Add the products of 2 inputs with 64 outputs' weights, all in bfloat16."""
    dot = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(_FLOATS, [_FLOATS, _PAIRS, _PAIRS]),
        "llvm.x86.avx512bf16.dpbf16ps.512",
    )
    inputs = builder.bitcast(inputs, _PAIRS)
    return [
        builder.call(dot, [each, inputs, builder.bitcast(weight, _PAIRS)])
        for each, weight in zip(sums, weights, strict=True)
    ]


def _halves(builder, pairs):
    """Vectors of the first and of the second of each pair of bfloat16, in float32."""
    shift, upper = ir.Constant(_INTS, [16] * _LANES), ir.Constant(_INTS, [-65536] * _LANES)
    first, second = builder.shl(pairs, shift), builder.and_(pairs, upper)
    return builder.bitcast(first, _FLOATS), builder.bitcast(second, _FLOATS)


def _sixteen_apart(builder, sums, inputs, weights):
    """The same where the processor knows no products in bfloat16: in float32."""
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), "llvm.fma.v16f32"
    )
    low, high = _halves(builder, inputs)
    done = []
    for each, weight in zip(sums, weights, strict=True):
        first, second = _halves(builder, weight)
        done.append(builder.call(fma, [second, high, builder.call(fma, [first, low, each])]))
    return done


def _tile(rows, kind, add):
    """A function of numba: `rows` rows times 64 outputs; `add` adds a group of inputs to the sums.

    `weights` is the address of the 64 outputs, `inputs` of the rows, `stride` bytes apart;
    `groups` groups of 4 bytes; sums go to `out`, `[rows, 64]` int32 or float32.
    """

    @intrinsic
    def tile(typing, weights, inputs, stride, groups, out):
        def generate(context, builder, signature, arguments):
            weights, inputs, stride, groups, out = arguments
            before = builder.block
            loop, after = (builder.append_basic_block(name) for name in ("groups", "done"))
            builder.branch(loop)
            builder.position_at_end(loop)
            group = builder.phi(_LONG)
            group.add_incoming(_LONG(0), before)
            sums = [[builder.phi(kind) for _ in range(_REGISTERS)] for _ in range(rows)]
            base = builder.mul(group, _LONG(GROUP_BYTES))
            read = [
                builder.load(
                    _place(builder, builder.add(weights, base), _LONG(64 * part), _INTS), align=64
                )
                for part in range(_REGISTERS)
            ]
            at = builder.add(inputs, builder.mul(group, _LONG(4)))
            added = []
            for row in range(rows):
                place = _place(builder, at, builder.mul(stride, _LONG(row)), _INT)
                added.append(
                    add(builder, sums[row], _all(builder, builder.load(place, align=4)), read)
                )
            following = builder.add(group, _LONG(1))
            group.add_incoming(following, loop)
            for row in range(rows):
                for each, new in zip(sums[row], added[row], strict=True):
                    each.add_incoming(ir.Constant(kind, None), before)
                    each.add_incoming(new, loop)
            builder.cbranch(builder.icmp_signed("<", following, groups), loop, after)
            builder.position_at_end(after)
            for row in range(rows):
                for part, total in enumerate(added[row]):
                    offset = _LONG(GROUP_BYTES * row + 64 * part)
                    builder.store(total, _place(builder, out, offset, kind), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return tile


_HALF_PRODUCTS = _sixteen if "avx512_bf16" in cpu_flags() else _sixteen_apart
eight_1, eight_4 = (_tile(rows, _INTS, _eight) for rows in (1, 4))
sixteen_1, sixteen_4 = (_tile(rows, _FLOATS, _HALF_PRODUCTS) for rows in (1, 4))


@intrinsic
def pointer(typing, address):
    """What lies at an address, for `carray`."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def widened(typing, number):
    """The float32 of a bfloat16, which comes as uint16."""

    def generate(context, builder, signature, arguments):
        bits = builder.shl(builder.zext(arguments[0], _INT), _INT(16))
        return builder.bitcast(bits, _FLOAT)

    return types.float32(types.uint16), generate


def _upper(builder, number):
    """Bits of a float32 whose upper half is the nearest bfloat16, ties to even."""
    bits = builder.bitcast(number, _INT)
    odd = builder.and_(builder.lshr(bits, _INT(16)), _INT(1))
    return builder.add(bits, builder.add(odd, _INT(0x7FFF)))


@intrinsic
def narrowed(typing, number):
    """The nearest bfloat16, as uint16."""

    def generate(context, builder, signature, arguments):
        return builder.trunc(builder.lshr(_upper(builder, arguments[0]), _INT(16)), _SHORT)

    return types.uint16(types.float32), generate


@intrinsic
def rounded(typing, number):
    """The nearest bfloat16, as float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.and_(_upper(builder, arguments[0]), _INT(-65536)), _FLOAT)

    return types.float32(types.float32), generate


@intrinsic
def stepped(typing, number):
    """The nearest integer of -127 to 127, ties to even, plus 128."""

    def generate(context, builder, signature, arguments):
        nearest = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOAT, [_FLOAT]), "llvm.rint.f32"
        )
        whole = builder.fptosi(builder.call(nearest, arguments), _INT)
        return builder.trunc(builder.add(whole, _INT(128)), _BYTE)

    return types.uint8(types.float32), generate


@intrinsic
def power(typing, number):
    """2 to a whole number of -126 to 127."""

    def generate(context, builder, signature, arguments):
        exponent = builder.add(builder.fptosi(arguments[0], _INT), _INT(127))
        return builder.bitcast(builder.shl(exponent, _INT(23)), _FLOAT)

    return types.float32(types.float32), generate
