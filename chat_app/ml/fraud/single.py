"""One row through trees in the time that the trees take: LightGBM's own call for single rows.

The interpreter is kept during the call, which is over in microseconds: given back, it would be
had again only after the turn of every other thread. Knows no column and no model.
"""

import ctypes
import logging
import weakref
from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

RAW_SCORE, FLOAT64 = 1, 1  # C_API_PREDICT_RAW_SCORE, C_API_DTYPE_FLOAT64
PARAMETERS = b"num_threads=1 verbosity=-1"

Scorer = Callable[["array[float]"], float]


class SingleRowFailed(RuntimeError):
    """LightGBM refused to score a row; its own words."""


def scorer(booster: Any, width: int) -> Scorer:
    """The sum of the leaves for a row of `width` floats; safe from several threads.

    What is returned raises SingleRowFailed. A LightGBM that does not offer the call of its C
    interface is asked in the usual way, which takes several times as long.
    """
    try:
        return _fast(booster, width)
    except (AttributeError, OSError, SingleRowFailed):
        log.warning("LightGBM's call for single rows is not there; the usual one is used")
        return _usual(booster)


def _fast(booster: Any, width: int) -> Scorer:
    lib = _library()
    config, count = ctypes.c_void_p(), ctypes.c_int64()
    made = lib.LGBM_BoosterPredictForMatSingleRowFastInit(
        booster._handle, RAW_SCORE, 0, 0, FLOAT64, ctypes.c_int32(width), PARAMETERS,
        ctypes.byref(config),
    )  # fmt: skip
    if made:
        raise SingleRowFailed(lib.LGBM_GetLastError().decode())
    predict, written = lib.LGBM_BoosterPredictForMatSingleRowFast, ctypes.byref(count)

    def score(row: "array[float]", owner: Any = booster) -> float:
        # The owner of the trees has to live as long as the call to them.
        found = ctypes.c_double()
        if predict(config, row.buffer_info()[0], written, ctypes.byref(found)):
            raise SingleRowFailed(lib.LGBM_GetLastError().decode())
        return found.value

    weakref.finalize(score, lib.LGBM_FastConfigFree, config)
    return score


def _usual(booster: Any) -> Scorer:
    import numpy as np

    def score(row: "array[float]") -> float:
        matrix = np.frombuffer(row, dtype=np.float64).reshape(1, -1)
        return float(booster.predict(matrix, raw_score=True, num_threads=1)[0])

    return score


@cache
def _library() -> Any:
    """The loaded library once more, by calls that keep the interpreter."""
    import lightgbm

    loaded: Any = lightgbm.basic
    lib = ctypes.PyDLL(loaded._LIB._name)
    lib.LGBM_GetLastError.restype = ctypes.c_char_p
    predict = lib.LGBM_BoosterPredictForMatSingleRowFast
    predict.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return lib
