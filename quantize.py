"""Color as one of Q classes: Lab, bins, soft targets, priors, rebalancing weights, decoding.

The palette and the formulas are those of Zhang, Isola and Efros, "Colorful Image Colorization"
(ECCV 2016); Lab is scikit-image's (illuminant D65, 2 degree observer).

Shapes: B batch, H and W pixels, h and w blocks of BLOCK x BLOCK pixels, Q bins, K neighbors.
Units:  L 0..100, ab about -110..110, centers (Q, 2) in units of ab, rows in the palette's order.
Stored: L as uint8, 255 / 100 levels a unit, rounded; ab as int8, floored to unit cells, so that a
        stored value stands for its cell's middle, 0.5 higher. No cell straddles two bins.
Photographs are RGB and channels last, tensors are channels first.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor, nn

PALETTE = Path(__file__).parent / "zhang_palette"
GRID = 10  # distance of neighboring bin centers, in units of ab
BLOCK = 4  # side in pixels of the block that shares one bin: the network's stride
SIGMA = 5.0  # of the Gaussian that shares a color among bins, in units of ab
L_SCALE = 2.55  # stored levels in a unit of L
TEMPERATURE = 0.38  # of decoding in Zhang et al. 2016
SMALLEST_TEMPERATURE = 1e-30  # below it float32 divides by zero; it gives the mode long before
DECODE_ROWS, GPU_ROWS = 2**10, 2**18  # decoded at a time: so many fit a processor's cache, a GPU

# scikit-image's sRGB primaries and white: linear RGB -> XYZ, and D65 at 2 degrees.
XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)
GAMUT_TOLERANCE = 1e-4  # of linear RGB: a third of an 8-bit level at black
GAMUT_STEPS = 12  # bisections of chroma: to 1/4096


# ---- palette -----------------------------------------------------------------------------------
def load_centers() -> Tensor:
    """Return the bin centers of Zhang et al. 2016, (Q, 2) float32, Q = 313."""
    return torch.from_numpy(np.load(PALETTE / "pts_in_hull.npy")).float()


def load_imagenet_prior() -> Tensor:
    """Return the bins' frequencies over ImageNet, (Q,) float64, smoothed by its authors, sum 1."""
    return torch.from_numpy(np.load(PALETTE / "prior_probs.npy"))


def palette_digest(centers: Tensor) -> str:
    """Return a short name for a palette: its values and their order define the bins."""
    return hashlib.sha256(centers.numpy().astype("<f4").tobytes()).hexdigest()[:16]


# ---- RGB to Lab --------------------------------------------------------------------------------
def lab_table() -> np.ndarray:
    """Convert all 2^24 sRGB colors to Lab (1 to 3 s, 64 MB); exact, as scikit-image in float64.

    Returns (2^24, 4) uint8, row 0xRRGGBB: a and b as stored (int8), L as stored (uint8), and 0.
    """
    table = np.zeros((256, 256, 256, 4), np.uint8)
    rgb = np.empty((256, 256, 3), np.uint8)
    rgb[..., 1], rgb[..., 2] = np.mgrid[:256, :256]
    for red in range(256):
        rgb[..., 0] = red
        lab = rgb2lab(rgb)
        table[red, ..., :2] = np.floor(lab[..., 1:]).astype(np.int8).view(np.uint8)
        table[red, ..., 2] = np.rint(lab[..., 0] * L_SCALE)
    return table.reshape(-1, 4)


def rgb_to_lab(image: Image.Image, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert a photograph of mode RGB to stored L (H, W) uint8 and ab (2, H, W) int8.

    `table` comes from `lab_table`.
    """
    # Pillow packs each pixel into the table's index: as fast as a copy
    packed = np.frombuffer(image.tobytes("raw", "BGRX"), "<u4")
    rows = np.empty(packed.shape, "<u4")
    table.view("<u4").ravel().take(packed, out=rows, mode="clip")  # unchecked: half the time
    rows = rows.view(np.uint8).reshape(image.height, image.width, 4)
    return rows[..., 2], rows[..., :2].view(np.int8).transpose(2, 0, 1)


def rgb_to_L(image: Image.Image) -> np.ndarray:
    """Return the L of an RGB photograph, (H, W) float32, 0..100, to within 0.001.

    It uses no table: making one takes as long as converting 100 million pixels here.
    """
    levels = np.arange(256) / 255
    linear = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    rgb = np.asarray(image)  # (H, W, 3)
    Y = sum(
        np.float32(share * linear).take(rgb[..., channel], mode="clip")
        for channel, share in enumerate(XYZ_FROM_RGB[1])
    )
    Y = torch.from_numpy(Y)  # torch takes cube roots ten times as fast as NumPy
    f = torch.where(Y > 0.008856, Y ** (1 / 3), 7.787 * Y + 16 / 116)
    return (116 * f - 16).numpy()


def stored_to_lab(L: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
    """Turn stored L (B, H, W) and ab (B, 2, H, W), resampled or not, into float32 in Lab units."""
    return L.unsqueeze(1) / L_SCALE, ab + 0.5  # (B, 1, H, W), (B, 2, H, W)


# ---- Lab to RGB --------------------------------------------------------------------------------
@cache
@torch.inference_mode(False)
def relative_to_rgb(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix (3, 3) from XYZ relative to white to linear RGB, once for a device."""
    matrix = torch.linalg.inv(torch.tensor(XYZ_FROM_RGB, dtype=torch.float64))
    return (matrix * torch.tensor(WHITE)).to(device, dtype)


def lab_to_linear_rgb(L: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Convert Lab, three tensors (B, ...), to linear RGB (B, 3, ...), beyond 0..1 outside sRGB."""
    y = (L + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), dim=1)
    relative = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    return torch.einsum("rx,bx...->br...", relative_to_rgb(L.dtype, L.device), relative)


def in_gamut(linear: Tensor) -> Tensor:
    """Return which colors of linear RGB (B, 3, ...) an sRGB screen can show, (B, ...) bool."""
    low, high = linear.amin(1), linear.amax(1)
    return (low >= -GAMUT_TOLERANCE) & (high <= 1 + GAMUT_TOLERANCE)


def reduce_chroma(L: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Reduce the chroma of colors (P,) outside sRGB until they just fit: linear RGB (P, 3)."""
    L, a, b = L[None], a[None], b[None]  # channels first: a third of the time
    low, high = torch.zeros_like(L), torch.ones_like(L)  # shares of the chroma: fits, does not
    for _ in range(GAMUT_STEPS):
        middle = (low + high) / 2
        fits = in_gamut(lab_to_linear_rgb(L, a * middle, b * middle))
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return lab_to_linear_rgb(L, a * low, b * low)[0].T


def lab_to_rgb(L: Tensor, ab: Tensor) -> Tensor:
    """Convert L (B, 1, H, W), 0..100, and ab (B, 2, H, W) to sRGB (B, 3, H, W) uint8.

    Colors outside sRGB lose chroma and keep L and hue: clipping each channel would change the
    photograph's lightness.
    """
    L, a, b = L[:, 0], ab[:, 0], ab[:, 1]
    linear = lab_to_linear_rgb(L, a, b)
    outside = (~in_gamut(linear)).nonzero(as_tuple=True)  # once: a GPU is waited for
    if len(outside[0]):
        linear.movedim(1, -1)[outside] = reduce_chroma(L[outside], a[outside], b[outside])
    linear = linear.clamp(0, 1)
    srgb = torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return (srgb * 255).round().to(torch.uint8)


# ---- bins --------------------------------------------------------------------------------------
def block_mean(ab: np.ndarray) -> np.ndarray:
    """Average stored ab (..., 2, H, W) int8 over blocks, at cell middles: (..., 2, h, w) float32.

    The paper takes every fourth pixel; a mean is steadier, and any crop can recompute it.
    """
    *lead, height, width = ab.shape
    rows = ab.reshape(*lead, height // BLOCK, BLOCK, width).astype(np.int16)
    rows = sum(rows[..., i, :] for i in range(BLOCK))  # slices: 14 times faster than mean()
    blocks = rows.reshape(*lead, height // BLOCK, width // BLOCK, BLOCK)
    total = sum(blocks[..., i] for i in range(BLOCK))
    return total * np.float32(1 / BLOCK**2) + np.float32(0.5)


def ab_to_bins(ab: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the index of the bin center nearest to ab (..., 2) float, as (...) uint16.

    Of two centers at the same distance it takes the one with larger a, then b. On a square grid
    the nearest center is the rounded color, exact for all of sRGB. Colors whose grid point is no
    bin lie outside sRGB: they are compared with every center.
    """
    reach = int(np.abs(centers).max()) // GRID
    grid = np.full((2 * reach + 1, 2 * reach + 1), len(centers), np.uint16)
    row, column = (centers / GRID).astype(int).T + reach
    grid[row, column] = np.arange(len(centers))
    cell = np.floor((ab + GRID / 2) / GRID).astype(int) + reach
    inside = ((cell >= 0) & (cell <= 2 * reach)).all(-1)
    bins = np.where(inside, grid[tuple(np.moveaxis(cell.clip(0, 2 * reach), -1, 0))], len(centers))
    missing = bins == len(centers)
    if missing.any():
        offset = ab[missing][:, None] - centers[::-1]  # reversed: argmin takes the first of equals
        bins[missing] = len(centers) - 1 - (offset**2).sum(-1).argmin(-1)
    return bins.astype(np.uint16)


# ---- soft targets ------------------------------------------------------------------------------
class SoftEncoder(nn.Module):
    """Soft encoding of ab as a distribution over bins, from a table of unit cells.

    A normalized Gaussian shares each color among its K nearest centers (Zhang et al. 2016, section
    2.1); 1 makes hard targets. The paper says 5 neighbors, its released code takes 10. The table is
    exact at the cells' middles, where single stored colors lie.
    """

    def __init__(self, centers: Tensor, num_neighbors: int = 5):
        super().__init__()
        if not 1 <= num_neighbors <= len(centers):
            raise ValueError(
                f"num_neighbors must lie between 1 and {len(centers)}, got {num_neighbors}"
            )
        side = torch.arange(-128, 128, dtype=torch.float64) + 0.5
        cells = torch.cartesian_prod(side, side)  # (256 * 256, 2), row (a + 128) * 256 + b + 128
        squared = (cells[:, None] - centers.double()).square().sum(-1)
        nearest, neighbors = squared.topk(num_neighbors, largest=False)
        shares = torch.softmax(-nearest / (2 * SIGMA**2), dim=-1).float()
        self.register_buffer("neighbors", neighbors, persistent=False)  # (65536, K) int64
        self.register_buffer("shares", shares, persistent=False)  # (65536, K)

    def forward(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bins that share each color of ab (B, 2, h, w), and their shares.

        Both are (B, h, w, K), the nearest bin first, bins as int64; a pixel's shares have the sum
        1, and its other bins have no share.
        """
        cell = (ab.floor().long() + 128).clamp(0, 255)
        row = cell[:, 0] * 256 + cell[:, 1]  # (B, h, w)
        return self.neighbors[row], self.shares[row]


# ---- prior and weights -------------------------------------------------------------------------
def smooth_prior(counts: Tensor, centers: Tensor, sigma: float = SIGMA) -> Tensor:
    """Turn counts of bins into a prior without empty bins, (Q,) float64, sum 1.

    A Gaussian on the ab plane spreads each count over the bins (not over the bins' index, where
    neighbors in the plane may stand far apart). One more pixel, spread evenly, keeps bins far from
    every color above zero. The published ImageNet prior is smoothed already.

    Args:
        counts: (Q,), how often each bin occurs.
        centers: (Q, 2).
        sigma: of the Gaussian, in units of ab; 0 does not smooth.
    """
    counts, centers = counts.double(), centers.double()
    if sigma > 0:
        squared = (centers[:, None] - centers).square().sum(-1)  # (Q, Q)
        counts = torch.softmax(-squared / (2 * sigma**2), dim=0) @ counts
    counts = counts + 1 / len(counts)
    return counts / counts.sum()


def rebalancing_weights(prior: Tensor, uniform_mix: float = 0.5) -> Tensor:
    """Weigh bins by their rarity (Zhang et al. 2016, eq. 4), so that E_prior[w] = 1.

    Args:
        prior: (Q,), sum 1; the weights have its shape and type.
        uniform_mix: lambda, 0..1, the share of the uniform distribution mixed into the prior:
            1 weighs all bins alike, 0 by 1 / prior, which no network trains on.
    """
    if not 0 <= uniform_mix <= 1:
        raise ValueError(f"uniform_mix must lie between 0 and 1, got {uniform_mix}")
    weights = 1 / ((1 - uniform_mix) * prior + uniform_mix / len(prior))
    return weights / (prior * weights).sum()


# ---- decoding ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Decoding:
    """Settings that turn a distribution over bins into one color: the mean of its best bins.

    Args:
        temperature: T > 0. Toward 0 the mode, vivid and patchy; 1 the mean, smooth and dull.
        top_k: number of bins in the mean, 1..Q: 1 gives the mode; the paper takes all Q.
        vividness: V, 0..1, see `change_prior`.
    """

    temperature: float
    top_k: int
    vividness: float = 0.0

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if not 0 <= self.vividness <= 1:
            raise ValueError(f"vividness must lie between 0 and 1, got {self.vividness}")

    def __str__(self):
        return f"vividness {self.vividness}, temperature {self.temperature}, top-k {self.top_k}"


def change_prior(
    logits: Tensor, prior: Tensor | None, vividness: float, target: Tensor | None = None
) -> Tensor:
    """Turn p(q | x) into p(q | x) (target(q) / prior(q))^V, the posterior under another prior.

    That prior is prior^(1 - V) target^V, normalized (Saerens et al. 2002; with a uniform target the
    logit adjustment of Menon et al. 2021). A network trained with weights has learned w p(q | x)
    instead: it keeps its w.

    Args:
        logits: (..., Q), of p(q | x).
        prior: (Q,), how common each bin was in training, none 0; V = 0 needs none.
        vividness: V, 0..1. 0 changes no bit, 1 replaces the prior by the target.
        target: (Q,), none 0; None is uniform: all colors are equally common.
    """
    if vividness == 0:
        return logits
    if prior is None:
        raise ValueError("a vividness above 0 needs the training prior, and there is none")
    target = torch.full_like(prior, 1 / len(prior)) if target is None else target.to(prior)
    return logits + vividness * (target / prior).log().to(logits)


def split_rows(rows: Tensor) -> tuple[Tensor, ...]:
    """Split rows (P, ...) into blocks, large ones on a GPU: each launches the same kernels."""
    return rows.split(DECODE_ROWS if rows.device.type == "cpu" else GPU_ROWS)


def best_bins(logits: Tensor, centers: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the top_k highest logits (..., K), highest first, and their centers (..., K, 2).

    With top_k = Q, which needs no search, these are all logits (..., Q) and centers (Q, 2). Raise
    ValueError if there are fewer than top_k bins.
    """
    if top_k > len(centers):
        raise ValueError(f"top_k must be at most {len(centers)}, got {top_k}")
    if top_k == len(centers):
        return logits, centers
    best, bins = logits.topk(top_k)
    return best, centers[bins]


def annealed_mean(logits: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """Average centers by softmax(logits / T), T > 0 (Zhang et al. 2016, eq. 5): ab (..., 2).

    Logits are (..., K) float32; centers (K, 2), or (..., K, 2) where each pixel has its own.
    """
    logits = logits - logits.amax(-1, keepdim=True)  # else a small T overflows
    probs = torch.softmax(logits / max(temperature, SMALLEST_TEMPERATURE), dim=-1)
    return probs @ centers if centers.ndim == 2 else (probs[..., None] * centers).sum(-2)


@torch.no_grad()
def decode(
    logits: Tensor,
    centers: Tensor,
    decoding: Decoding,
    prior: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Turn logits (B, Q, h, w), of any float type, into ab (B, 2, h, w) float32.

    The change of the prior comes first, then the choice of the best bins, then the temperature.
    `prior` and `target` are those of `change_prior`.
    """
    B, Q, h, w = logits.shape
    rows = logits.movedim(1, -1).reshape(-1, Q).float()
    rows = change_prior(rows, prior, decoding.vividness, target)
    best = (best_bins(block, centers, decoding.top_k) for block in split_rows(rows))
    ab = torch.cat([annealed_mean(*some, decoding.temperature) for some in best])
    return ab.view(B, h, w, 2).movedim(-1, 1)
