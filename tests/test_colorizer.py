"""colorizer.py: shapes and sizes of both nets, the published weights, and checkpoints."""

import os
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from colorizer import Colorizer, load_colorizer, save_checkpoint
from quantize import load_centers, palette_digest


def count_parameters(colorizer: Colorizer) -> int:
    return sum(parameter.numel() for parameter in colorizer.net.parameters())


def random_L(height: int, width: int) -> Tensor:
    return 100 * torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))


# ---- networks ----------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["unet", "zhang"])
def colorizer(request) -> Colorizer:
    return Colorizer(load_centers(), request.param).eval()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((16, 16), (4, 4)),
        ((64, 64), (16, 16)),
        ((37, 50), (10, 13)),
        ((20, 9), (5, 3)),
        ((1, 1), (1, 1)),
    ],
)
@torch.inference_mode()
def test_colorizer_answers_at_quarter_resolution_rounded_up(size, expected, colorizer):
    logits = colorizer(random_L(*size))
    assert logits.shape == (2, 313, *expected)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(16, 16), (37, 50), (1, 1)])
@torch.inference_mode()
def test_predict_gives_the_logits_of_forward_and_the_features_that_give_them(size, colorizer):
    logits, features = colorizer.predict(random_L(*size))
    assert torch.equal(logits, colorizer(random_L(*size)))
    channels = 64 if colorizer.options["net"] == "unet" else 256
    assert features.shape == (2, channels, *logits.shape[-2:])
    torch.testing.assert_close(colorizer.net.head(features), logits)
    assert features.any()


def test_colorizer_takes_the_number_of_bins_from_its_centers():
    assert Colorizer(load_centers()[:7], width=8)(random_L(16, 16)).shape == (2, 7, 4, 4)


def test_colorizer_has_the_documented_number_of_parameters(colorizer):
    if colorizer.options["net"] == "zhang":
        assert count_parameters(colorizer) == 32_236_011
    else:
        assert 1_400_000 < count_parameters(colorizer) < 1_600_000


def test_colorizer_starts_near_the_uniform_distribution():
    probs = Colorizer(load_centers())(random_L(32, 32)).softmax(1)
    assert probs.min() > 0.5 / 313
    assert probs.max() < 2 / 313


@pytest.mark.parametrize("net", ["resnet", "", "UNet"])
def test_colorizer_refuses_unknown_nets(net):
    with pytest.raises(ValueError, match=f"unet or zhang, got '{net}'"):
        Colorizer(load_centers(), net)


@pytest.mark.parametrize("width", [-8, 0])
def test_colorizer_refuses_widths_below_1(width):
    with pytest.raises(ValueError, match=f"at least 1, got {width}"):
        Colorizer(load_centers(), width=width)


# ---- the published weights ---------------------------------------------------------------------
# Names and shapes of the tensors that Zhang et al. published, written down independently.
# fmt: off
ABOUT = {"dataset": "flowers", "size": 64, "temperature": 0.38, "top_k": 313}
PUBLISHED_CONVS = {  # name: (outputs, inputs, stride, dilation), each 3x3 with ReLU
    "model1.0": (64, 1, 1, 1),    "model1.2": (64, 64, 2, 1),
    "model2.0": (128, 64, 1, 1),  "model2.2": (128, 128, 2, 1),
    "model3.0": (256, 128, 1, 1), "model3.2": (256, 256, 1, 1), "model3.4": (256, 256, 2, 1),
    "model4.0": (512, 256, 1, 1), "model4.2": (512, 512, 1, 1), "model4.4": (512, 512, 1, 1),
    "model5.0": (512, 512, 1, 2), "model5.2": (512, 512, 1, 2), "model5.4": (512, 512, 1, 2),
    "model6.0": (512, 512, 1, 2), "model6.2": (512, 512, 1, 2), "model6.4": (512, 512, 1, 2),
    "model7.0": (512, 512, 1, 1), "model7.2": (512, 512, 1, 1), "model7.4": (512, 512, 1, 1),
    # model8.0 is the transposed convolution (512, 256, 4, 4) before these
    "model8.2": (256, 256, 1, 1), "model8.4": (256, 256, 1, 1),
}
PUBLISHED_NORMS = {  # name of the BatchNorm: the convolution before it
    "model1.4": "model1.2", "model2.4": "model2.2", "model3.6": "model3.4", "model4.6": "model4.4",
    "model5.6": "model5.4", "model6.6": "model6.4", "model7.6": "model7.4",
}
# fmt: on


def published_weights() -> dict[str, Tensor]:
    """Return random weights under the published names, and the true palette in model_out."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1) -> Tensor:
        return scale * torch.randn(shape, generator=random)

    weights = {}
    for name, (outputs, inputs, _, _) in PUBLISHED_CONVS.items():
        scale = (2 / (9 * inputs)) ** 0.5
        weights[f"{name}.weight"] = normal(outputs, inputs, 3, 3, scale=scale)
        weights[f"{name}.bias"] = normal(outputs, scale=0.1)
    for name, convolution in PUBLISHED_NORMS.items():
        channels = PUBLISHED_CONVS[convolution][0]
        weights[f"{name}.weight"] = 1 + normal(channels, scale=0.1)
        weights[f"{name}.bias"] = normal(channels, scale=0.1)
        weights[f"{name}.running_mean"] = normal(channels, scale=0.1)
        weights[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=random)
        weights[f"{name}.num_batches_tracked"] = torch.tensor(1000)
    weights["model8.0.weight"] = normal(512, 256, 4, 4, scale=0.02)
    weights["model8.0.bias"] = normal(256, scale=0.1)
    weights["model8.6.weight"] = normal(313, 256, 1, 1, scale=0.1)
    weights["model8.6.bias"] = normal(313)
    weights["model_out.weight"] = (load_centers() / 110).T[:, :, None, None].clone()
    return weights


def published_forward(weights: dict[str, Tensor], L: Tensor) -> Tensor:
    """Return the published network's logits; H and W multiples of 8."""
    norm_after = {convolution: norm for norm, convolution in PUBLISHED_NORMS.items()}
    x = (L - 50) / 100
    for name, (_, _, stride, dilation) in PUBLISHED_CONVS.items():
        if name == "model8.2":
            up = weights["model8.0.weight"], weights["model8.0.bias"]
            x = F.conv_transpose2d(x, *up, stride=2, padding=1).relu()
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        x = F.conv2d(x, kernel, bias, stride, padding=dilation, dilation=dilation).relu()
        if norm := norm_after.get(name):
            names = ("running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, *(weights[f"{norm}.{part}"] for part in names))
    return F.conv2d(x, weights["model8.6.weight"], weights["model8.6.bias"])


@torch.inference_mode()
def test_load_colorizer_takes_the_published_weights(tmp_path):
    weights, path = published_weights(), tmp_path / "published.pth"
    torch.save(weights, path)
    colorizer, about = load_colorizer(path)
    path.unlink()  # 129 MB, which pytest would keep for three runs
    expected = published_forward(weights, random_L(24, 16))
    assert expected.std() > 0.1
    torch.testing.assert_close(colorizer(random_L(24, 16)), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(colorizer.centers, load_centers())
    assert palette_digest(colorizer.centers) == palette_digest(load_centers())
    assert (about["net"], about["top_k"]) == ("zhang", 313)


def test_load_colorizer_refuses_the_weights_of_their_later_network(tmp_path):
    path = tmp_path / "siggraph17.pth"  # of the same names at its start, another net and no bins
    weights = {"model1.0.weight": torch.zeros(64, 4, 3, 3), "model_out.0.weight": torch.zeros(2)}
    torch.save(weights, path)
    with pytest.raises(ValueError, match=str(path)):
        load_colorizer(path)


# ---- checkpoints -------------------------------------------------------------------------------
@pytest.fixture
def checkpoint(tmp_path):
    """Return the path of a small checkpoint and the network that it holds."""
    path, colorizer = tmp_path / "best.pt", Colorizer(load_centers(), width=16)
    colorizer(random_L(32, 32))  # in training: the BatchNorms leave their first statistics
    contents = {"prior": torch.full((313,), 1 / 313), **ABOUT}
    save_checkpoint(path, colorizer.state_dict(), **colorizer.options, **contents)
    return path, colorizer


@torch.inference_mode()
def test_load_colorizer_returns_what_was_saved(checkpoint):
    path, colorizer = checkpoint
    loaded, about = load_colorizer(path)
    assert torch.equal(loaded(random_L(37, 50)), colorizer.eval()(random_L(37, 50)))
    assert torch.equal(loaded.centers, load_centers())
    assert not loaded.training
    assert torch.equal(about.pop("prior"), torch.full((313,), 1 / 313))
    assert about == {"format": 1, "net": "unet", "width": 16, "vividness": 0.0, **ABOUT}


def test_save_checkpoint_replaces_the_old_file_and_leaves_no_other(checkpoint):
    path, _ = checkpoint
    wider = Colorizer(load_centers(), width=24)
    save_checkpoint(path, wider.state_dict(), **wider.options, **ABOUT)
    assert load_colorizer(path)[1]["width"] == 24
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_save_checkpoint_keeps_the_old_file_when_it_fails(error, checkpoint, monkeypatch):
    path, colorizer = checkpoint
    before = path.read_bytes()

    def fail_when_written(descriptor):
        assert len(list(path.parent.iterdir())) == 2
        raise error

    monkeypatch.setattr(os, "fsync", fail_when_written)
    with pytest.raises(type(error)):
        save_checkpoint(path, colorizer.state_dict(), **colorizer.options)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


class Payload:
    """An object whose unpickling makes a folder."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def save_as_plain_pickle(contents, path):
    path.write_bytes(pickle.dumps(contents, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_as_plain_pickle])
def test_load_colorizer_never_runs_code(save, tmp_path):
    path, trace = tmp_path / "code.pt", tmp_path / "was here"
    contents = {"format": 1, "model": Payload(trace)}
    save(contents, path)
    with pytest.raises(ValueError, match=str(path)):
        load_colorizer(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(contents))
    assert trace.exists()  # the payload is armed


@pytest.mark.parametrize("length", [0, 100, 10_000, 200_000, -1])
def test_load_colorizer_refuses_truncated_files(length, checkpoint):
    path, _ = checkpoint
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=str(path)):
        load_colorizer(path)


@pytest.mark.parametrize(
    "content",
    [b"hello world\n", b"epoch,loss\n1,2\n", b"<html></html>\n", b"\x89PNG\r\n\x1a\n" + bytes(50)],
)
def test_load_colorizer_refuses_files_of_other_kinds(content, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        load_colorizer(path)


@pytest.mark.parametrize(
    ("contents", "found"),
    [({"format": 2, "model": {}}, "2"), ({"state_dict": {}}, "None"), ([1, 2], "list")],
)
def test_load_colorizer_refuses_other_formats(contents, found, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(contents, path)
    with pytest.raises(ValueError, match=f"{path}: expected .* format 1, found {found}"):
        load_colorizer(path)


def test_load_colorizer_refuses_tensors_that_do_not_fit(checkpoint):
    path, colorizer = checkpoint
    save_checkpoint(path, colorizer.state_dict(), net="unet", width=32, **ABOUT)
    with pytest.raises(ValueError, match=f"{path}: its tensors do not fit"):
        load_colorizer(path)


def test_load_colorizer_refuses_a_missing_tensor(checkpoint):
    path, colorizer = checkpoint
    weights = colorizer.state_dict()
    del weights["net.head.bias"]
    save_checkpoint(path, weights, **colorizer.options, **ABOUT)
    with pytest.raises(ValueError, match=f"{path}: its tensors do not fit.*net.head.bias"):
        load_colorizer(path)


def test_load_colorizer_refuses_a_checkpoint_that_does_not_say_its_size(checkpoint):
    path, colorizer = checkpoint
    about = {key: value for key, value in ABOUT.items() if key != "size"}
    save_checkpoint(path, colorizer.state_dict(), **colorizer.options, **about)
    with pytest.raises(ValueError, match=f"{path}: lacks size; train again"):
        load_colorizer(path)


@pytest.mark.parametrize(
    "prior",
    [
        torch.full((314,), 1 / 314),
        torch.full((1, 313), 1 / 313),
        torch.tensor(1.0),
        torch.zeros(313),
        torch.full((313,), float("nan")),
        torch.ones(313, dtype=torch.long),
        [1 / 313] * 313,
    ],
    ids=["more bins", "two dimensions", "a number", "zeros", "nan", "whole numbers", "a list"],
)
def test_load_colorizer_refuses_a_prior_that_is_none(prior, checkpoint):
    path, colorizer = checkpoint
    save_checkpoint(path, colorizer.state_dict(), **colorizer.options, **ABOUT, prior=prior)
    with pytest.raises(ValueError, match=r"best\.pt: its prior is not 313 positive numbers"):
        load_colorizer(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_load_colorizer_takes_a_prior_of_any_float_type(dtype, checkpoint):
    path, colorizer = checkpoint
    prior = torch.full((313,), 1 / 313, dtype=dtype)
    save_checkpoint(path, colorizer.state_dict(), **colorizer.options, **ABOUT, prior=prior)
    assert torch.equal(load_colorizer(path)[0].prior, prior.float())


def test_load_colorizer_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "best.pt")):
        load_colorizer(tmp_path / "best.pt")
