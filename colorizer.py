"""The networks, which turn L into logits at quarter resolution, and their checkpoints.

Shapes: B batch, H and W pixels, h = ceil(H / 4) and w = ceil(W / 4), Q bins, C channels.
L is in its own unit, 0..100; this module alone normalizes it.
"""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.entries import check_entries, check_palette, check_tensors, shorten
from common.files import write_whole
from common.tensor_files import load_tensors
from quantize import BLOCK, load_imagenet_prior

FORMAT = 1  # of checkpoints
PUBLISHED_AB_UNIT = 110  # the published weights decode to ab / 110
PUBLISHED_NAMES = {"model1.0.weight", "model8.6.weight", "model_out.weight"}
PUBLISHED_SIZE = 256  # short side of the photographs that trained the published weights


# ---- networks ----------------------------------------------------------------------------------
def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with BatchNorm and ReLU.

    GroupNorm, which no split of the batch would change, costs 0.1 to 0.25 dB after 2,000 steps.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Attention(nn.Module):
    """Residual attention between all places of a photograph, two heads (Vaswani et al. 2017).

    Distant places, such as the petals of one flower, can agree on a color.
    """

    heads = 2
    attend = staticmethod(F.scaled_dot_product_attention)  # export.py sets another

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        B, C, h, w = x.shape
        parts = self.query_key_value(self.norm(x)).view(B, 3, self.heads, C // self.heads, h * w)
        # (B, heads, h w, C / heads); contiguous: torch then keeps no table of all pairs of places
        query, key, value = parts.transpose(-1, -2).contiguous().unbind(1)
        mixed = self.attend(query, key, value)
        mixed = mixed.transpose(-1, -2).reshape(B, C, h, w)
        return x + self.out(mixed.contiguous(memory_format=torch.channels_last))


class UNet(nn.Module):
    """A U-Net from quarter resolution down: its logits have quarter resolution.

    `width` is the number of channels at quarter resolution; 32 makes 1.4 M parameters.
    """

    padding = 4

    def __init__(self, Q: int, width: int = 32):
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        w, w2, w4 = width, 2 * width, 4 * width
        self.down4 = nn.Sequential(nn.PixelUnshuffle(BLOCK), conv(BLOCK**2, w), conv(w, w))
        self.down8 = nn.Sequential(conv(w, w2, stride=2), conv(w2, w2))
        self.down16 = nn.Sequential(conv(w2, w4, stride=2), conv(w4, w4), conv(w4, w4))
        self.down32 = nn.Sequential(conv(w4, w4, stride=2), conv(w4, w4), conv(w4, w4))
        self.up16 = conv(w4 + w4, w4)
        self.up8 = conv(w4 + w2, w2)
        self.attention = Attention(w2)
        self.up4 = nn.Sequential(conv(w2 + w, w2), conv(w2, w2))
        self.head = nn.Conv2d(w2, Q, 1)

    def features(self, x: Tensor) -> Tensor:
        """Map normalized L (B, 1, H, W) to (B, C, H/4, W/4); H and W multiples of 4."""
        x4 = self.down4(x)  #                           (B, width, H/4, W/4)
        x8 = self.down8(x4)  #                          (B, 2 width, H/8, W/8), rounded up
        x16 = self.down16(x8)  #                        (B, 4 width, H/16, W/16)
        x = self.down32(x16)  #                         (B, 4 width, H/32, W/32)
        x = self.up16(self.join(x, x16))  #             (B, 4 width, H/16, W/16)
        x = self.attention(self.up8(self.join(x, x8)))  # (B, 2 width, H/8, W/8)
        return self.up4(self.join(x, x4))  #            (B, 2 width, H/4, W/4)

    @staticmethod
    def join(x: Tensor, skip: Tensor) -> Tensor:
        """Enlarge x to skip's height and width, and concatenate their channels."""
        return torch.cat((F.interpolate(x, size=skip.shape[-2:]), skip), dim=1)


def zhang_block(channels: list[int], stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return 3x3 convolutions with ReLU, the last with a stride, and one BatchNorm at the end."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(channels)):
        step = stride if i == len(channels) - 2 else 1
        layers.append(nn.Conv2d(inputs, outputs, 3, step, padding=dilation, dilation=dilation))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.BatchNorm2d(channels[-1]))


class ZhangNet(nn.Module):
    """The network of Zhang et al. 2016, with the tensor names of the published PyTorch weights.

    32,236,011 parameters with Q = 313, the fixed decoding `model_out` among them.
    """

    padding = 8

    def __init__(self, Q: int):
        super().__init__()
        self.model1 = zhang_block([1, 64, 64], stride=2)
        self.model2 = zhang_block([64, 128, 128], stride=2)
        self.model3 = zhang_block([128, 256, 256, 256], stride=2)
        self.model4 = zhang_block([256, 512, 512, 512])
        self.model5 = zhang_block([512, 512, 512, 512], dilation=2)
        self.model6 = zhang_block([512, 512, 512, 512], dilation=2)
        self.model7 = zhang_block([512, 512, 512, 512])
        self.model8 = nn.Sequential(
            nn.ConvTranspose2d(512, 256, 4, 2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, Q, 1),
        )
        # for the published weights, which hold it; `quantize.decode` decodes
        self.model_out = nn.Conv2d(Q, 2, 1, bias=False).requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        """Map normalized L (B, 1, H, W) to (B, C, H/4, W/4); H and W multiples of 8."""
        x = self.model1(x)  #                           (B, 64, H/2, W/2)
        x = self.model2(x)  #                           (B, 128, H/4, W/4)
        x = self.model3(x)  #                           (B, 256, H/8, W/8)
        x = self.model4(x)  #                           (B, 512, H/8, W/8), as the next three
        x = self.model7(self.model6(self.model5(x)))
        return self.model8[:-1](x)  #                   (B, 256, H/4, W/4)

    def head(self, x: Tensor) -> Tensor:
        """Map features (B, C, h, w) to logits (B, Q, h, w)."""
        return self.model8[-1](x)


def make_net(net: str, Q: int, width: int) -> UNet | ZhangNet:
    """Return a network with Q bins and random weights."""
    if net not in ("unet", "zhang"):
        raise ValueError(f"net must be unet or zhang, got {net!r}")
    return UNet(Q, width) if net == "unet" else ZhangNet(Q)


class Colorizer(nn.Module):
    """A network with its palette: L of any height and width to logits at quarter resolution.

    The palette is a buffer, centers (Q, 2), so that `.to(device)` carries it. So is the prior (Q,)
    of the training photographs, which `load_colorizer` sets; a new network has none. `net` is
    "unet" or "zhang"; `width` is that of the U-Net.
    """

    def __init__(self, centers: Tensor, net: str = "unet", width: int = 32):
        super().__init__()
        self.net = make_net(net, len(centers), width)
        self.register_buffer("centers", centers.clone())
        self.register_buffer("prior", None, persistent=False)
        self.options = {"net": net, "width": width}
        self.apply(self.initialize)
        if net == "zhang":
            self.net.model_out.weight.data = centers.T[..., None, None] / PUBLISHED_AB_UNIT
        else:
            nn.init.normal_(self.net.head.weight, std=0.01)  # starts near the uniform distribution

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Draw weights that keep the variance through ReLU (He et al. 2015)."""
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, L: Tensor) -> Tensor:
        """Map L (B, 1, H, W), 0..100, to logits (B, Q, ceil(H / 4), ceil(W / 4))."""
        return self.predict(L)[0]

    def predict(self, L: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of `forward`, and the features (B, C, h, w) that give them."""
        h, w = ((side + BLOCK - 1) // BLOCK for side in L.shape[-2:])
        features = self.net.features(pad((L - 50) / 100, self.net.padding))
        return self.net.head(features)[..., :h, :w], features[..., :h, :w]


def pad(L: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of L (B, 1, H, W) until H and W are multiples."""
    # no -H % multiple: ONNX rounds divisions of negative integers toward 0
    down, right = ((multiple - side % multiple) % multiple for side in L.shape[-2:])
    return F.pad(L, (0, right, 0, down), mode="replicate")


# ---- checkpoints -------------------------------------------------------------------------------
def save_checkpoint(path: Path, model: dict[str, Tensor], **contents: Any) -> None:
    """Write a checkpoint under a temporary name, then rename it: it is never half written.

    Args:
        path: of the checkpoint.
        model: the state of a `Colorizer`.
        contents: tensors and plain types, NEEDED among them.
    """
    buffer = io.BytesIO()  # on a full disk, torch's own writer gives no reason
    torch.save({"format": FORMAT, "model": model, **contents}, buffer)
    write_whole(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, ours or the published weights of Zhang et al., without running code.

    Its weights fit its network, and they and all that a `Colorizer` needs are in their ranges; the
    state of a run is not looked at. Raise FileNotFoundError if the file is missing, OSError if the
    system does not let it be read, ValueError if it is damaged, holds code, or is no checkpoint of
    a known format.
    """
    if not path.is_file():
        found = "is a folder, not a checkpoint" if path.is_dir() else "no such file"
        raise FileNotFoundError(
            f"{path}: {found}; your checkpoints are runs/*/best.pt, others lie in checkpoints/"
        )
    contents = load_tensors(path)
    if isinstance(contents, dict) and PUBLISHED_NAMES.issubset(contents):
        try:
            contents = published_checkpoint(contents)
        except (IndexError, RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(f"{path}: not the published weights; take another copy") from error
    is_dict = isinstance(contents, dict)
    contents = dict(contents) if is_dict else {"format": type(contents).__name__}
    if type(contents.get("format")) is not int or contents["format"] != FORMAT:
        found = shorten(contents.get("format")) if is_dict else contents["format"]
        expected = f"expected a checkpoint of format {FORMAT}, found {found}"
        raise ValueError(f"{path}: {expected}; train again with this version")
    try:
        check_entries(contents)
        Q = check_palette(contents)
        like = expected_state(contents["net"], Q, contents["width"])
        check_tensors(dict(contents["model"]), like)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; train again, or take another copy") from error
    return contents


def expected_state(net: str, Q: int, width: int) -> dict[str, Tensor]:
    """Return the state of a `Colorizer` without numbers: one of a false width takes no memory."""
    with torch.device("meta"):
        state = make_net(net, Q, width).state_dict()
        return {**{f"net.{k}": v for k, v in state.items()}, "centers": torch.empty(Q, 2)}


def published_checkpoint(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Turn the published weights, a bare state dict, into the form of our checkpoints."""
    centers = weights["model_out.weight"][..., 0, 0].T * PUBLISHED_AB_UNIT  # -0 becomes 0 below
    model = {f"net.{name}": tensor for name, tensor in weights.items()}
    return {
        "format": FORMAT,
        "model": {**model, "centers": centers.round() + 0.0},
        "net": "zhang",
        "width": 0,
        "dataset": None,
        "size": PUBLISHED_SIZE,
        "loss": "rebalanced",
        "temperature": 1.0,  # their code takes a plain softmax
        "top_k": len(centers),
        "prior": load_imagenet_prior().float(),
    }


def load_colorizer(path: Path) -> tuple[Colorizer, dict[str, Any]]:
    """Return a checkpoint's network, ready to predict, and the checkpoint's other entries.

    Raise errors as `read_checkpoint` does.
    """
    contents = read_checkpoint(path)
    model = dict(contents.pop("model"))
    colorizer = Colorizer(model["centers"].float(), contents["net"], contents["width"])
    colorizer.load_state_dict(model)
    contents.setdefault("vividness", 0.0)  # of earlier versions
    if (prior := contents.get("prior")) is not None:
        colorizer.prior = prior.float()
    return colorizer.eval(), contents
