"""Write a checkpoint as a file to share: NAME.pt in half precision, or NAME.onnx.

generate.py reads NAME.pt as it reads the checkpoint; the file is half as large. NAME.onnx needs
none of this project: with onnxruntime it maps L (B, 1, H, W), 0..100, to ab (B, 2, H, W), decoded
and enlarged along L, for any height and width; its decoding is fixed. The options of decoding
become the file's own. Give it the photograph with the short side of its training, which the file's
metadata hold as "size".

examples:
  python export.py --checkpoint runs/flowers-64-plain/best.pt --out flowers-64.pt
  python export.py --checkpoint runs/flowers-64-plain/best.pt --out flowers-64.onnx --vividness 0.3
"""

if __name__ == "__main__":
    from common.starting import prepare

    prepare()  # before torch is imported

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coloring.enlarge import enlarge
from colorizer import Attention, Colorizer, load_colorizer, save_checkpoint
from common.command_line import add_decoding_options, choose_decoding, make_parser, run_command
from common.files import check_space, check_writable, write_whole
from quantize import Decoding, annealed_mean, best_bins, change_prior

ENDINGS = (".pt", ".onnx")
ONNX_PACKAGES = ("onnx", "onnxscript")
EXAMPLE = (2, 1, 45, 70)  # shape of L for tracing: no side is a multiple of 4


def export_weights(path: Path, colorizer: Colorizer, info: dict[str, Any]) -> None:
    """Write the weights and all else that a checkpoint holds, except the state of its run.

    Convolutions are rounded to half precision, which `load_state_dict` turns back into float32;
    BatchNorm's figures, a hundredth of all, stay exact.
    """
    weights = colorizer.state_dict()
    halves = {name: value.half() if value.ndim == 4 else value for name, value in weights.items()}
    kept = {key: value for key, value in info.items() if key not in ("format", "run")}
    save_checkpoint(path, halves, **kept)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Put onnxruntime's own attention into an ONNX file, in place of torch's.

    Its memory grows with the number of places. ONNX's operators make a table of all pairs of them.
    """
    rows = [part.transpose(1, 2).flatten(2) for part in (query, key, value)]  # (B, h w, C)
    heads, like = query.shape[1], {"dtype": query.dtype, "shape": rows[0].shape}
    operator, options = "com.microsoft::MultiHeadAttention", {"num_heads": heads}
    mixed = torch.onnx.ops.symbolic(operator, rows, options, **like, version=1)
    return mixed.unflatten(2, (heads, -1)).transpose(1, 2)


class Painter(nn.Module):
    """L to ab in one module: the network, its decoding, and the enlarging to L's size.

    It is to be traced alone: from now on the network's attention is what `attend` puts in a file.
    """

    def __init__(self, colorizer: Colorizer, decoding: Decoding):
        super().__init__()
        self.colorizer, self.decoding = colorizer, decoding
        for module in colorizer.modules():
            if isinstance(module, Attention):
                module.attend = attend

    def forward(self, L: Tensor) -> Tensor:
        """Map L (B, 1, H, W), 0..100, to ab (B, 2, H, W); `quantize.decode` without its loop."""
        logits = self.colorizer(L).movedim(1, -1)  # (B, h, w, Q)
        logits = change_prior(logits, self.colorizer.prior, self.decoding.vividness)
        best = best_bins(logits, self.colorizer.centers, self.decoding.top_k)
        return enlarge(L, annealed_mean(*best, self.decoding.temperature).movedim(-1, 1))


def export_onnx(path: Path, colorizer: Colorizer, info: dict[str, Any]) -> None:
    """Write an ONNX file for onnxruntime; its metadata say what the network was trained on."""
    import onnx

    decoding = Decoding(info["temperature"], info["top_k"], info["vividness"])
    painter = Painter(colorizer, decoding).eval()
    sides = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of absent torchvision
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch's warnings about its own code
        names = {"input_names": ["L"], "output_names": ["ab"]}
        example = (50 * torch.ones(EXAMPLE),)
        program = torch.onnx.export(painter, example, **names, dynamic_shapes=[sides], dynamo=True)
    model = program.model_proto
    kept = {key: info.get(key) for key in ("dataset", "size", "loss")} | asdict(decoding)
    onnx.helper.set_model_props(model, {key: str(value) for key, value in kept.items()})
    write_whole(path, lambda temporary: onnx.save(model, temporary))


# ---- command line ------------------------------------------------------------------------------
def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    # fmt: off
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a best.pt or last.pt, or the published weights of Zhang et al.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, NAME.pt or NAME.onnx")
    # fmt: on
    add_decoding_options(parser)
    args = parser.parse_args()
    if args.out.suffix not in ENDINGS:
        parser.error(f"--out must be NAME{' or NAME'.join(ENDINGS)}, got {args.out}")
    if os.path.realpath(args.out) == os.path.realpath(args.checkpoint):
        parser.error(f"--out must be another file than --checkpoint, {args.checkpoint}")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if args.out.suffix == ".onnx" and missing:
        parser.error(f"{args.out}: ONNX needs more packages; pip install {' '.join(missing)}")
    return args


def main() -> None:
    """Write the file."""
    args = parse_args()
    check_writable(args.out)
    colorizer, info = load_colorizer(args.checkpoint)
    export = export_weights if args.out.suffix == ".pt" else export_onnx
    info |= asdict(choose_decoding(args, info, len(colorizer.centers)))
    weights = sum(tensor.nbytes for tensor in colorizer.state_dict().values())
    check_space(args.out.parent, weights // (2 if args.out.suffix == ".pt" else 1), "--out")
    export(args.out, colorizer, info)
    print(f"wrote {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
