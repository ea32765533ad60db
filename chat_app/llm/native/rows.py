"""Few tokens at once, of one answer or of many: the whole forward pass, compiled by Numba.

A step of one row is a thousand small operations, whose start takes as long as their work; here
there is none to start. Every row is computed in the same order whoever else is there, and however
many threads share the work. It is what `model.py` computes with `plain` and `linear`, for matrices
in 8 bits and bfloat16 as oneDNN has packed them, over the cache of `memory.py`.

Arrays are known by their addresses, in a table of whole numbers: NUMBERS of the model, then LAYER
of each layer. What one row needs is computed by one thread, products by all.
"""

import numpy as np
from numba import carray, njit, prange

from chat_app.llm.native.tiles import (
    GROUP_BYTES,
    eight_1,
    eight_4,
    narrowed,
    pointer,
    power,
    rounded,
    sixteen_1,
    sixteen_4,
    stepped,
    widened,
)

WIDTH = 64
"""Outputs that are computed together."""
MOST_ROWS = 48
LANES = 16
SHARE = 4
"""Heads that are attended together, because they see the same keys."""
BLOCK_ROOM = 16
"""Tokens that a block of the cache has at most."""
ROOM = 4096
"""Numbers that each thread has room for in PARTIAL."""

NUMBERS = 32
(
    LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, SIZE, WORDS, GELU, EIGHT, WINDOW, BLOCK,
    X, GIVEN, STEPS, QKV, QUERY, SEEN, Y, INNER_X, SUMS, SCORES, MOST_TOKENS, PARTIAL,
    POSITIONS, WIDE, NEAR, MOST_BLOCKS, HEAD, HEAD_SCALE, LOGITS, FIRST_NORM, WANTED,
) = range(32)  # fmt: skip
LAYER = 20
(
    QKV_W, QKV_SCALE, OUT_W, GATE_W, GATE_SCALE, DOWN_W, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP,
    FOLLOWING, HEADS_NORM, KEYS, VALUES, TURNS, IS_NEAR,
) = range(15)  # fmt: skip

# What is done in a layer one after the other, all threads waiting for all in between; before the
# first layer BEGIN, in the last CHOOSE before MERGE, and then SPEAK.
PROJECT, STORE, SCORE, LOOK, MERGE, JOIN, GATE, LOWER, END, BEGIN, CHOOSE, SPEAK = range(12)

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_TINY, _STEPS = np.float32(1e-12), np.float32(1 / 127)
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(87.0)
_TWOS, _TWO_HIGH, _TWO_LOW = (
    np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
)  # fmt: skip
# Taylor's series of e^x from x^6 on, for |x| <= ln(2) / 2.
_TERMS = tuple(np.float32(1 / number) for number in (720, 120, 24, 6, 2, 1, 1))
_GELU = np.float32(2 * np.sqrt(2 / np.pi))
_GELU_CUBE = np.float32(0.044715 * 2 * np.sqrt(2 / np.pi))
_ANY_ORDER = {"reassoc", "contract", "nsz"}


# Called from here alone: without what Python and C would call them by. A division by 0 is no
# exception, or no loop with a division in it could be vectorized.
_HERE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}
_part = njit(**_HERE)
_summing = njit(**_HERE, fastmath=_ANY_ORDER)


@_part
def _floats(address, count):
    return carray(pointer(address), count, np.float32)


@_part
def _halves(address, count):
    return carray(pointer(address), count, np.uint16)


@_part
def _longs(address, count):
    return carray(pointer(address), count, np.int64)


@_summing
def _exponential(x):
    """e^x to 1e-7 of it, between e^-87 and e^87. As a series, because it can be vectorized."""
    x = min(max(x, _LOWEST), _HIGHEST)
    twos = np.rint(x * _TWOS)
    x = x - twos * _TWO_HIGH - twos * _TWO_LOW
    y = _TERMS[0]
    for term in _TERMS[1:]:
        y = y * x + term
    return y * power(twos)


@_summing
def _inverse(x, epsilon):
    """1 / sqrt(mean of squares + epsilon)."""
    total = _ZERO
    for i in range(len(x)):
        total += x[i] * x[i]
    return _ONE / np.sqrt(total / np.float32(len(x)) + epsilon)


@_summing
def _give(plan, row, normed):
    """Lay a normed row out as the input of the next matrix."""
    count = len(normed)
    if plan[EIGHT]:
        most = _ZERO
        for i in range(count):
            most = max(most, abs(normed[i]))
        step = _TINY + most * _STEPS
        _floats(plan[STEPS], MOST_ROWS)[row] = step
        steps = carray(pointer(plan[GIVEN] + row * count), count, np.uint8)
        for i in range(count):
            steps[i] = stepped(normed[i] / step)
    else:
        given = _halves(plan[GIVEN] + 2 * row * count, count)
        for i in range(count):
            given[i] = narrowed(normed[i])


@_summing
def _enter(plan, row, before, epsilon):
    """Give X normed by `before`; Y has it in between."""
    hidden = plan[HIDDEN]
    x = _floats(plan[X] + 4 * row * hidden, hidden)
    y = _floats(plan[Y] + 4 * row * hidden, hidden)
    factor, inverse = _floats(before, hidden), _inverse(x, epsilon)
    for i in range(hidden):
        y[i] = x[i] * factor[i] * inverse
    _give(plan, row, y)


@_summing
def _join(plan, row, after, before, epsilon):
    """Add Y (normed by `after` first) to X, and give that sum normed by `before`."""
    hidden = plan[HIDDEN]
    x = _floats(plan[X] + 4 * row * hidden, hidden)
    y = _floats(plan[Y] + 4 * row * hidden, hidden)
    if after:
        factor, inverse = _floats(after, hidden), _inverse(y, epsilon)
        for i in range(hidden):
            x[i] += y[i] * factor[i] * inverse
    else:
        for i in range(hidden):
            x[i] += y[i]
    _enter(plan, row, before, epsilon)


@_part
def _tiles(rows, sums, eight, weights, inputs, stride, groups):
    """Products of all rows with 64 outputs, to `sums`, `[rows, 64]`; rows are padded to 4."""
    row = 0
    while row < rows:
        at, out = inputs + row * stride, sums + row * GROUP_BYTES
        if rows - row == 1:
            if eight:
                eight_1(weights, at, stride, groups, out)
            else:
                sixteen_1(weights, at, stride, groups, out)
            row += 1
        else:
            if eight:
                eight_4(weights, at, stride, groups, out)
            else:
                sixteen_4(weights, at, stride, groups, out)
            row += 4


@_part
def _block(plan, rows, thread, eight, weights, scale, inputs, count, outputs, block):
    """64 outputs of `[outputs, count]` for all rows; the address of `[rows, 64]` float32."""
    sums = plan[SUMS] + thread * MOST_ROWS * GROUP_BYTES
    each = 1 if eight else 2
    size = WIDTH * count * each
    groups = count * each // 4
    _tiles(rows, sums, eight, weights + block * size, inputs, count * each, groups)
    if eight:
        # Inputs are from 128 on; oneDNN keeps what that adds behind the matrix.
        first = 4 * block * WIDTH
        more = carray(pointer(weights + outputs * count + first), WIDTH, np.int32)
        scales = _floats(scale + first, WIDTH)
        steps = _floats(plan[STEPS], MOST_ROWS)
        whole = carray(pointer(sums), rows * WIDTH, np.int32)
        real = _floats(sums, rows * WIDTH)
        for row in range(rows):
            for i in range(WIDTH):
                total = whole[row * WIDTH + i] + np.int32(128) * more[i]
                real[row * WIDTH + i] = np.float32(np.int32(total)) * scales[i] * steps[row]
    return sums


@_part
def _product(plan, rows, thread, threads, eight, weights, scale, inputs, count, outputs, out):
    """This thread's share of a matrix's outputs, `[rows, outputs]` float32."""
    blocks = outputs // WIDTH
    for block in range(thread * blocks // threads, (thread + 1) * blocks // threads):
        sums = _block(plan, rows, thread, eight, weights, scale, inputs, count, outputs, block)
        real = _floats(sums, rows * WIDTH)
        for row in range(rows):
            to = _floats(out + 4 * (row * outputs + block * WIDTH), WIDTH)
            for i in range(WIDTH):
                to[i] = real[row * WIDTH + i]


@_summing
def _gates(plan, layer, rows, thread, threads):
    """This thread's share of gate and up, through GELU or SiLU and times each other."""
    inner, hidden, gelu = plan[INNER], plan[HIDDEN], plan[GELU]
    blocks = inner // WIDTH
    gates = _floats(plan[PARTIAL] + 4 * thread * ROOM, MOST_ROWS * WIDTH)
    for block in range(thread * blocks // threads, (thread + 1) * blocks // threads):
        for half in range(2):
            sums = _block(
                plan, rows, thread, plan[EIGHT], layer[GATE_W], layer[GATE_SCALE],
                plan[GIVEN], hidden, 2 * inner, block + half * blocks,
            )  # fmt: skip
            real = _floats(sums, rows * WIDTH)
            if half == 0 and gelu:
                for i in range(rows * WIDTH):
                    x = real[i]
                    gates[i] = x / (_ONE + _exponential(-x * (_GELU + _GELU_CUBE * x * x)))
            elif half == 0:
                for i in range(rows * WIDTH):
                    gates[i] = real[i] / (_ONE + _exponential(-real[i]))
            else:
                for row in range(rows):
                    to = _halves(plan[INNER_X] + 2 * (row * inner + block * WIDTH), WIDTH)
                    for i in range(WIDTH):
                        to[i] = narrowed(gates[row * WIDTH + i] * real[row * WIDTH + i])


@_part
def _padded(plan):
    """Rows of queries that look at the same keys, in whole groups of SHARE."""
    return -(-(plan[HEADS] // plan[KV_HEADS]) // SHARE) * SHARE


@_part
def _sight(plan, layer, row):
    """A row's position, the blocks of its answer, the first token it sees and how many."""
    position = _longs(plan[POSITIONS], MOST_ROWS)[row]
    table = plan[NEAR] if layer[IS_NEAR] else plan[WIDE]
    blocks = _longs(table + 8 * row * plan[MOST_BLOCKS], plan[MOST_BLOCKS])
    start = max(0, position - plan[WINDOW] + 1) if layer[IS_NEAR] else 0
    return position, blocks, start, position + 1 - start


@_summing
def _heads(plan, layer, row, epsilon, scale):
    """Norm and turn queries and keys of a row; keys and values go into the cache."""
    heads, kv, size = plan[HEADS], plan[KV_HEADS], plan[SIZE]
    padded = _padded(plan)
    position, blocks, _, _ = _sight(plan, layer, row)
    block = blocks[position // plan[BLOCK]]
    turns = _floats(layer[TURNS] + 4 * position * size, size)
    for head in range(heads + 2 * kv):
        x = _floats(plan[QKV] + 4 * (row * (heads + 2 * kv) + head) * size, size)
        inverse = _ONE
        looking = head < heads + kv
        if looking and layer[HEADS_NORM]:
            inverse = _inverse(x, epsilon)
            factor = _floats(layer[HEADS_NORM] + 4 * head * size, size)
            for i in range(size):
                x[i] = x[i] * factor[i] * inverse
        if looking:
            for i in range(size // 2):
                a, b = x[2 * i], x[2 * i + 1]
                c, d = turns[2 * i], turns[2 * i + 1]
                x[2 * i] = a * c - b * d
                x[2 * i + 1] = a * d + b * c
        if head < heads:
            share = heads // kv
            at = (row * kv + head // share) * padded + head % share
            query = _floats(plan[QUERY] + 4 * at * size, size)
            for i in range(size):
                query[i] = rounded(rounded(x[i]) * scale)
        else:
            key = head < heads + kv
            number = head - heads if key else head - heads - kv
            place = (block * kv + number) * plan[BLOCK] + position % plan[BLOCK]
            to = _halves((layer[KEYS] if key else layer[VALUES]) + 2 * place * size, size)
            for i in range(size):
                to[i] = narrowed(x[i])


@_summing
def _score(plan, layer, row, number, group, part, parts):
    """Products of 4 heads' queries with this part of the keys that a row sees."""
    kv, size, tokens, most = plan[KV_HEADS], plan[SIZE], plan[BLOCK], plan[MOST_TOKENS]
    _, blocks, start, count = _sight(plan, layer, row)
    at = (row * kv + number) * _padded(plan) + group * SHARE
    a = _floats(plan[QUERY] + 4 * at * size, size)
    b = _floats(plan[QUERY] + 4 * (at + 1) * size, size)
    c = _floats(plan[QUERY] + 4 * (at + 2) * size, size)
    d = _floats(plan[QUERY] + 4 * (at + 3) * size, size)
    scores = _floats(plan[SCORES] + 4 * at * most, SHARE * most)
    for token in range(count * part // parts, count * (part + 1) // parts):
        seen = start + token
        place = (blocks[seen // tokens] * kv + number) * tokens + seen % tokens
        key = _halves(layer[KEYS] + 2 * place * size, size)
        w, x, y, z = _ZERO, _ZERO, _ZERO, _ZERO
        for i in range(size):
            k = widened(key[i])
            w += a[i] * k
            x += b[i] * k
            y += c[i] * k
            z += d[i] * k
        scores[token] = w
        scores[most + token] = x
        scores[2 * most + token] = y
        scores[3 * most + token] = z


@_summing
def _see(plan, layer, row, number, group, thread, part, parts):
    """What 4 heads see: this part of their elements, from the values by the scores' softmax."""
    heads, kv, size, tokens = plan[HEADS], plan[KV_HEADS], plan[SIZE], plan[BLOCK]
    share, most = heads // kv, plan[MOST_TOKENS]
    _, blocks, start, count = _sight(plan, layer, row)
    at = (row * kv + number) * _padded(plan) + group * SHARE
    # Whole vectors, or an element would be computed otherwise with another number of parts.
    low = size // LANES * part // parts * LANES
    high = size // LANES * (part + 1) // parts * LANES if part + 1 < parts else size
    width = high - low
    # A thread's own room: chances of 4 heads and 16 tokens, then sums.
    room = plan[PARTIAL] + 4 * thread * ROOM
    chances = _floats(room, SHARE * BLOCK_ROOM)
    total = _floats(room + 4 * SHARE * BLOCK_ROOM, SHARE * width)
    for i in range(SHARE * width):
        total[i] = _ZERO
    sums = _floats(room + 4 * (SHARE * BLOCK_ROOM + SHARE * width), 2 * SHARE)
    for head in range(SHARE):
        scores = _floats(plan[SCORES] + 4 * (at + head) * most, most)
        top = scores[0]
        for token in range(1, count):
            top = max(top, scores[token])
        sums[head] = top
        sums[SHARE + head] = _ZERO
    token = 0
    while token < count:
        seen = start + token
        here = min(tokens - seen % tokens, count - token)
        for head in range(SHARE):
            scores = _floats(plan[SCORES] + 4 * ((at + head) * most + token), tokens)
            top, more = sums[head], _ZERO
            for i in range(here):
                chance = _exponential(scores[i] - top)
                chances[head * BLOCK_ROOM + i] = chance
                more += chance
            for i in range(here, BLOCK_ROOM):
                chances[head * BLOCK_ROOM + i] = _ZERO
            sums[SHARE + head] += more
        place = (blocks[seen // tokens] * kv + number) * tokens + seen % tokens
        for i in range(0, here, 4):
            one = _halves(layer[VALUES] + 2 * ((place + i) * size + low), width)
            # Beyond the last token chances are 0: any token will do.
            two = _halves(layer[VALUES] + 2 * ((place + min(i + 1, here - 1)) * size + low), width)
            three = _halves(
                layer[VALUES] + 2 * ((place + min(i + 2, here - 1)) * size + low), width
            )
            four = _halves(layer[VALUES] + 2 * ((place + min(i + 3, here - 1)) * size + low), width)
            for head in range(SHARE):
                sum_ = _floats(room + 4 * (SHARE * BLOCK_ROOM + head * width), width)
                p, q = chances[head * BLOCK_ROOM + i], chances[head * BLOCK_ROOM + i + 1]
                r, s = chances[head * BLOCK_ROOM + i + 2], chances[head * BLOCK_ROOM + i + 3]
                for j in range(width):
                    sum_[j] += (
                        p * widened(one[j])
                        + q * widened(two[j])
                        + r * widened(three[j])
                        + s * widened(four[j])
                    )
        token += here
    for head in range(min(SHARE, share - group * SHARE)):
        to = _halves(
            plan[SEEN] + 2 * ((row * heads + number * share + group * SHARE + head) * size + low),
            width,
        )
        inverse = _ONE / sums[SHARE + head]
        for i in range(width):
            to[i] = narrowed(total[head * width + i] * inverse)


@_part
def _unit(plan, rows, threads, number):
    """(row, head of keys, group of queries' heads, part, parts) of a unit; parts 0 after the last.

    Rows and groups of heads are units, in parts where they are fewer than the threads need.
    """
    kv = plan[KV_HEADS]
    groups = _padded(plan) // SHARE
    parts = 1 if rows * kv * groups >= 2 * threads else threads
    pair, part = number // parts, number % parts
    row = pair // groups // kv
    return row, pair // groups % kv, pair % groups, part, parts if row < rows else 0


@_part
def _begin(plan, rows, thread, threads, epsilon):
    """Embeddings to the first layer's inputs."""
    for row in range(thread, rows, threads):
        _enter(plan, row, plan[FIRST_NORM], epsilon)


@_part
def _attention(plan, layer, rows, thread, threads, looking):
    """Scores of the keys that every row sees; or, not `looking`, what it sees by them."""
    number = thread
    row, head, group, part, parts = _unit(plan, rows, threads, number)
    while parts:
        if looking:
            _score(plan, layer, row, head, group, part, parts)
        else:
            _see(plan, layer, row, head, group, thread, part, parts)
        number += threads
        row, head, group, part, parts = _unit(plan, rows, threads, number)


@_part
def _joins(plan, rows, thread, threads, after, before, epsilon):
    for row in range(thread, rows, threads):
        _join(plan, row, after, before, epsilon)


@_part
def _matrix(plan, layer, stage):
    """(whether in 8 bits, address, scales, inputs, their count, outputs, where to) of a stage."""
    hidden, inner, across = plan[HIDDEN], plan[INNER], plan[HEADS] * plan[SIZE]
    if stage == PROJECT:
        outputs = across + 2 * plan[KV_HEADS] * plan[SIZE]
        return (
            plan[EIGHT], layer[QKV_W], layer[QKV_SCALE], plan[GIVEN], hidden, outputs, plan[QKV]
        )  # fmt: skip
    if stage == MERGE:
        return 0, layer[OUT_W], 0, plan[SEEN], across, hidden, plan[Y]
    if stage == LOWER:
        return 0, layer[DOWN_W], 0, plan[INNER_X], inner, hidden, plan[Y]
    return (
        plan[EIGHT], plan[HEAD], plan[HEAD_SCALE], plan[GIVEN], hidden, plan[WORDS], plan[LOGITS]
    )  # fmt: skip


@_part
def _move(place, row, to, size):
    """A row of `size` bytes takes the place of another."""
    source = carray(pointer(place + row * size), size, np.uint8)
    target = carray(pointer(place + to * size), size, np.uint8)
    for i in range(size):
        target[i] = source[i]


@_part
def _choose(plan, wanted):
    """From here on only rows matter whose logits are wanted: they move to the front."""
    places = _longs(plan[WANTED], MOST_ROWS)
    for row in range(wanted):
        # They are in order, so none is overwritten before it has moved.
        _move(plan[X], places[row], row, 4 * plan[HIDDEN])
        _move(plan[SEEN], places[row], row, 2 * plan[HEADS] * plan[SIZE])


@_part
def _following(stage, index, layers):
    """(stage, layer) after this one."""
    if stage == BEGIN:
        return PROJECT, index
    if stage == LOOK and index == layers - 1:
        return CHOOSE, index
    if stage == CHOOSE:
        return MERGE, index
    if stage == END:
        return (SPEAK, index) if index == layers - 1 else (PROJECT, index + 1)
    return stage + 1, index


@_part
def _work(address, index, stage, rows, wanted, thread, threads, epsilon, scale):
    """A thread's share of a stage of a layer."""
    plan = _longs(address, NUMBERS)
    layer = _longs(address + 8 * (NUMBERS + index * LAYER), LAYER)
    if stage == BEGIN:
        _begin(plan, rows, thread, threads, epsilon)
    elif stage == CHOOSE:
        if thread == 0:
            _choose(plan, wanted)
    elif stage == STORE:
        for row in range(thread, rows, threads):
            _heads(plan, layer, row, epsilon, scale)
    elif stage in (SCORE, LOOK):
        _attention(plan, layer, rows, thread, threads, stage == SCORE)
    elif stage == GATE:
        _gates(plan, layer, rows, thread, threads)
    elif stage == JOIN:
        _joins(plan, rows, thread, threads, layer[AFTER_ATTENTION], layer[BEFORE_MLP], epsilon)
    elif stage == END:
        _joins(plan, rows, thread, threads, layer[AFTER_MLP], layer[FOLLOWING], epsilon)
    else:
        eight, weights, scales, inputs, count, outputs, out = _matrix(plan, layer, stage)
        _product(plan, rows, thread, threads, eight, weights, scales, inputs, count, outputs, out)


def step(address, rows, wanted, threads, epsilon, scale):
    """Logits of the `wanted` of `rows` rows, whose tokens' embeddings are in X.

    `address` of the table; threads share the work; `epsilon` of norms and `scale` of queries are
    float32. Rows of one answer are consecutive tokens: all are in the cache before any looks.
    `compiled.py` compiles it, because Numba asks where to keep the result as soon as it is told to.
    """
    layers = _longs(address, NUMBERS)[LAYERS]
    stage, index = BEGIN, 0
    while True:
        for thread in prange(threads):
            _work(address, index, stage, rows, wanted, np.int64(thread), threads, epsilon, scale)
        if stage == CHOOSE:
            rows = wanted
        if stage == SPEAK:
            break
        stage, index = _following(stage, index, layers)
