"""A stored image as the part that sees wants it: a square of three colours, from -1 to 1."""

import numpy as np
import torch
from torch import Tensor


def pixels(path: str, side: int) -> Tensor:
    """`[3, side, side]`, whatever the image's own proportions. Raises OSError, ValueError."""
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG")) as image:
        square = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    values = np.asarray(square, dtype=np.float32).transpose(2, 0, 1)
    return torch.from_numpy(values / 127.5 - 1.0)
