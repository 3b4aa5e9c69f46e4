"""From a photograph to its colours: the network's answer decoded, at the photograph's own size."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from colorizer import STRIDE, Colorizer
from photos import make_grid
from quantize import decode, lab_to_rgb, rgb_to_L

GRID_SIDE = 128  # pixels to which small photographs are enlarged in a grid
STRIP = 256  # rows of a photograph that become RGB at a time: memory stays small


def enlarge(ab: Tensor, height: int, width: int) -> Tensor:
    """Enlarge the network's ab (B, 2, h, w), bilinear, to (B, 2, height, width)."""
    ab = F.interpolate(ab, scale_factor=STRIDE, mode="bilinear", align_corners=False)
    return ab[..., :height, :width]


@torch.inference_mode()
def predict_ab(colorizer: Colorizer, L: Tensor, temperature: float, top_k: int) -> Tensor:
    """Predict the colours of a batch.

    Args:
        colorizer: the network, on L's device.
        L: (B, 1, H, W), 0..100.
        temperature: T > 0, see `quantize.decode`.
        top_k: bins averaged, 1..Q.

    Returns:
        ab (B, 2, H, W).
    """
    ab = decode(colorizer(L), colorizer.centers, temperature, top_k)
    return enlarge(ab, *L.shape[-2:])


@torch.inference_mode()
def color_photo(
    colorizer: Colorizer,
    image: Image.Image,
    table: np.ndarray,
    working_size: int,
    temperature: float,
    top_k: int,
) -> Image.Image:
    """Colour a photograph at its own size; its L stays, whatever colours it came with.

    Args:
        colorizer: the network.
        image: RGB.
        table: from `quantize.lab_table`.
        working_size: the short side that the network sees, in pixels; best is what it was
            trained at.
        temperature: T > 0.
        top_k: bins averaged, 1..Q.

    Returns:
        RGB, of the image's size.
    """
    device = colorizer.centers.device
    L = torch.from_numpy(rgb_to_L(image, table))[None, None].to(device)  # (1, 1, H, W)
    height, width = L.shape[-2:]
    scale = working_size / min(height, width)
    small = [max(1, round(side * scale)) for side in (height, width)]
    working = F.interpolate(L, small, mode="bilinear", antialias=True, align_corners=False)
    ab = predict_ab(colorizer, working, temperature, top_k)
    ab = F.interpolate(ab, (height, width), mode="bilinear", align_corners=False)
    rgb = torch.empty(height, width, 3, dtype=torch.uint8)
    for top in range(0, height, STRIP):
        rows = slice(top, top + STRIP)
        rgb[rows] = lab_to_rgb(L[..., rows, :], ab[..., rows, :])[0].movedim(0, -1)
    return Image.fromarray(rgb.numpy())


def draw_comparison(L: Tensor, predicted: Tensor, truth: Tensor) -> Image.Image:
    """Draw photographs in rows, gray | predicted | truth, from L (B, 1, H, W) and two ab."""
    columns = [
        lab_to_rgb(L, ab).movedim(1, -1).cpu().numpy()
        for ab in (torch.zeros_like(truth), predicted, truth)
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return make_grid(rows, scale=max(1, GRID_SIDE // L.shape[-1]))
