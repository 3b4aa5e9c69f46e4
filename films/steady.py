"""Average the network's predictions over neighboring frames, so that colors do not flicker.

The distributions are averaged, not the colors: a mean of colors is gray. A block is followed from
frame to frame to the block that is most alike, by the distance of `coloring.hints.kernel`: place, L
and the network's features, which move with what they show. At a cut this begins anew.

Shapes: P = h w blocks of a frame in rows, Q bins, D of `coloring.hints.embed`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from coloring.hints import PLACE
from coloring.photo import Prediction

REACH = 4  # frames before and after that count
NEAR = 0.2  # in short sides: a block moves less in a frame; hints reach further
CUT = 0.4  # mean distance of the most alike blocks from which a frame may begin a shot
JUMP = 2.0  # and by which it exceeds that of the frames before
ROWS = 2**22  # pairs of blocks compared at a time: 16 MB
BEFORE = REACH + 2  # frames that must have been seen for a frame to be averaged as ever


@dataclass
class Seen:
    """A frame's prediction, and what follows its blocks."""

    prediction: Prediction
    what: Any  # that belongs to it: the frame
    points: Tensor  # (P, D), by which blocks are compared
    probs: Tensor  # (P, Q)
    back: Tensor = field(default_factory=lambda: torch.empty(0))  # (P,), in the frame before
    ahead: Tensor = field(default_factory=lambda: torch.empty(0))  # (P,), in the frame after
    distance: float = 0.0  # to the frame before, the mean of the most alike blocks
    begins: bool = False  # whether it begins a shot


@torch.inference_mode()
def prepare(prediction: Prediction, what: Any) -> Seen:
    """Return a frame's prediction with what is compared, and what belongs to it."""
    points = prediction.points.clone()
    points[:, :2] *= PLACE / NEAR
    probs = prediction.logits[0].float().flatten(1).T.softmax(-1)
    return Seen(prediction, what, points, probs)


def find_nearest(x: Tensor, y: Tensor) -> Tensor:
    """Return for each row of x (X, D) the row of y (Y, D) at the least distance, (X,) int64."""
    squares = y.square().sum(1, keepdim=True) / 2
    offered = torch.cat((-y, squares), dim=1).T  # |x - y|^2 / 2 but for x's own part
    asked = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)
    found = []
    for rows in asked.split(max(1, ROWS // len(y))):
        distances = rows @ offered
        if distances.device.type == "cpu":  # NumPy's takes a tenth of the time
            found.append(torch.from_numpy(distances.numpy().argmin(1)))
        else:
            found.append(distances.argmin(1))
    return torch.cat(found)


def follow(before: Seen, after: Seen) -> None:
    """Find each block's most alike block in the next frame and the other way, and the cut."""
    before.ahead = find_nearest(before.points, after.points)
    after.back = find_nearest(after.points, before.points)
    apart = (after.points - before.points[after.back]).square().sum(1) / 2
    after.distance = float(apart.mean())
    after.begins = after.distance > max(CUT, JUMP * before.distance)


def average(seen: list[Seen], i: int) -> Prediction:
    """Average frame i of a shot's neighboring frames; a block alike counts more."""
    middle = seen[i]
    total, weights = middle.probs.clone(), torch.ones_like(middle.probs[:, :1])
    for following, others in (("ahead", seen[i + 1 :]), ("back", seen[:i][::-1])):
        at, frame = torch.arange(len(total), device=total.device), middle
        for other in others:
            at, frame = getattr(frame, following)[at], other
            distance = (middle.points - other.points[at]).square().sum(1, keepdim=True) / 2
            weight = torch.exp(-distance)
            total.addcmul_(weight, other.probs[at])
            weights += weight
    logits = (total / weights).clamp(min=torch.finfo(total.dtype).tiny).log()
    return replace(middle.prediction, logits=logits.T.reshape(middle.prediction.logits.shape))


@torch.inference_mode()
def steady(frames: Iterable[Seen]) -> Iterator[tuple[Prediction, Any, bool]]:
    """Average the predictions of a film's frames; yield them with what belongs to each.

    Yields also whether a frame begins a shot. REACH frames are seen ahead of the one that is given.
    """
    window: deque[Seen] = deque()  # of one shot
    waiting = 0  # at the window's end, not given yet

    def give(some: int) -> Iterator[tuple[Prediction, Any, bool]]:
        nonlocal waiting
        while waiting > some:
            i = len(window) - waiting
            near = list(window)[max(0, i - REACH) : i + REACH + 1]
            yield average(near, min(i, REACH)), window[i].what, window[i].begins
            waiting -= 1
            while len(window) - waiting > REACH:
                window.popleft()

    for new in frames:
        if window and new.points.shape == window[-1].points.shape:
            follow(window[-1], new)
        else:
            new.begins = True
        if new.begins:
            yield from give(0)
            window.clear()
        window.append(new)
        waiting += 1
        yield from give(REACH)
    yield from give(0)
