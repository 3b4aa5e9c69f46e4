"""What comparisons of one checkpoint on one cache share: options, what they open, their scores."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from compare_losses import read_scores, write_scores

from colorizer import Colorizer, load_colorizer
from common.command_line import (
    add_cache_options,
    add_decoding_options,
    choose_decoding,
    make_parser,
    number,
)
from dataset import Cache
from generate import open_cache
from quantize import Decoding

Entry = dict[str, Any]


def make_checkpoint_parser(
    doc: str, out: str, files: str
) -> tuple[argparse.ArgumentParser, argparse._ArgumentGroup]:
    """Return a parser of the common options, and its group for more; `files` go to `out`."""
    parser = make_parser(doc)
    # fmt: off
    group = parser.add_argument_group("files")
    group.add_argument("--checkpoint", type=Path, required=True, default=argparse.SUPPRESS, metavar="FILE", help="of the network")
    add_cache_options(group, "the checkpoint's own")
    group.add_argument("--out", type=Path, default=Path(out), metavar="DIR", help=f"folder of {files}")
    add_decoding_options(parser)
    group = parser.add_argument_group("scoring")
    group.add_argument("--photos", type=number(int, 1), metavar="N", help="photographs, evenly spread over the split; default: all")
    # fmt: on
    return parser, group


def open_run(args: argparse.Namespace) -> tuple[Colorizer, Decoding, Cache, Entry]:
    """Open the checkpoint and the cache; return the decoding too, and what names these scores."""
    torch.set_num_threads(1)  # a photograph is small work
    colorizer, info = load_colorizer(args.checkpoint)
    decoding = choose_decoding(args, info, len(colorizer.centers))
    cache = open_cache(args, colorizer, info)
    run = {"dataset": cache.name, "size": cache.size, "cache": cache.digest}
    run |= {"checkpoint": args.checkpoint.stem, "decoding": asdict(decoding)}
    return colorizer, decoding, cache, run


def add_entry(path: Path, run: Entry, scores: Entry) -> list[Entry]:
    """Add the scores of a run to a file, in place of its earlier ones; return all that it has."""
    entries = [other for other in read_scores(path) if not run.items() <= other.items()]
    entries.append({**run, **scores})
    write_scores(path, entries)
    return entries
