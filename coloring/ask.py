"""Ask for colors: for each photograph a picture with rings where a color would tell most.

A user paints inside the rings, in any program, and gives the folder of these pictures to --hints.
"""

import os
from pathlib import Path

from PIL import Image

from coloring.hints import thin
from coloring.photo import Coloring, ask, count_blocks, likely_colors, predict
from coloring.sources import Skipped, Source, find_sources, find_strokes, strokes_names
from coloring.strokes import PAINTED, draw_rings, find_hints, middle_of, read_strokes
from colorizer import Colorizer
from common.processes import ALONE, Ranks, lacks_memory
from photo_files import PhotoError
from photo_files.finding import normalize_name
from photo_files.opening import open_photo
from photo_files.writing import write_photo

OFFERED = 3  # likeliest colors to print for a place
SAME_NAME = "another photograph has its name; ask for its colors alone, with another --out"


def choose_paths(sources: list[Source], out: Path) -> tuple[list[tuple[Source, Path]], Skipped]:
    """Choose a path below a folder for each photograph's picture, where `find_strokes` finds it.

    A photograph is skipped if another one before it has its name; so is a film.
    """
    chosen, skipped, taken = [], [], set()
    for source in sources:
        if source.is_film:
            skipped.append((source.where, "a film; --stills writes pictures of it"))
            continue
        longer, name = strokes_names(source)
        keys = [normalize_name(n).casefold() for n in (longer, name)]  # as some file systems do
        if keys[0] in taken:
            skipped.append((source.where, SAME_NAME))
            continue
        chosen.append((source, out / (longer if keys[1] in taken else name)))
        taken.update(keys)  # also the longer name, which would be found first
    return chosen, skipped


def ask_about(
    colorizer: Colorizer, source: Source, coloring: Coloring, number: int, path: Path
) -> str:
    """Write a photograph's picture with rings, and with its strokes if it has any.

    Returns:
        A line for each ring: where it is, and the likeliest colors there.

    Raises:
        PhotoError: the photograph, or its picture of strokes, cannot be read or written.
        FileExistsError: the picture exists.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists, and may hold your strokes; choose another --out")
    image = open_photo(source.read())
    h, w = count_blocks(image.size, coloring.working_size)
    strokes = read_strokes(source, image.size)
    hints = find_hints(strokes, h, w) if strokes else None
    seen = predict(colorizer, image, coloring.working_size, coloring.stretch)
    blocks = ask(colorizer, seen, hints and thin(hints), number)
    picture = Image.new("RGBA", image.size)
    draw_rings(picture, blocks, h, w)
    if strokes:
        painted = strokes.getchannel("A").point(lambda alpha: 255 * (alpha >= PAINTED))
        picture.paste(strokes, mask=painted)
    write_photo(picture, path)
    lines = []
    for i, block in enumerate(blocks, start=1):
        x, y = map(int, middle_of(block, image.size, h, w))
        colors = likely_colors(colorizer, seen, coloring, block, OFFERED)
        named = ", ".join(f"#{bytes(color).hex()} {share:.0%}" for color, share in colors)
        lines.append(f"  {i:3}  x {x}, y {y}: {named}")
    return "\n".join(lines)


def ask_for_colors(
    colorizer: Colorizer,
    paths: list[Path],
    out: Path,
    coloring: Coloring,
    number: int,
    hints: Path | None = None,
    ranks: Ranks = ALONE,
) -> int:
    """Ask for the colors of photographs, each rank its share; print the places, and their colors.

    Args:
        colorizer: the checkpoint's network.
        paths: files, folders, globs and zips of photographs.
        out: the folder to write pictures with rings to.
        coloring: how the photographs will be colored.
        number: of places in each photograph.
        hints: a folder of pictures of strokes, of the colors that are known already.
        ranks: the processes that share the work.

    Returns:
        The exit status, 1 if any photograph was skipped.
    """
    sources, skipped, left_out = find_sources(paths, out, hints)
    sources = find_strokes(sources, hints) if hints else sources
    chosen, not_asked = choose_paths(sources, out)
    skipped = ranks.part(skipped + not_asked)
    for where, reason in skipped:
        print(f"skipped {where}: {reason}")
    asked = 0
    for source, path in ranks.part(chosen):
        try:
            places = ask_about(colorizer, source, coloring, number, path)
        except (PhotoError, FileExistsError) as error:
            reason = str(error)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            reason = "not enough memory to ask for its colors"
        else:
            asked += 1
            print(f"{path}, for {source.name}:\n{places}")
            continue
        skipped.append((source.where, reason))
        print(f"skipped {source.where}: {reason}")
    then = f"; paint in the rings or anywhere, then color with --hints {out}" if asked else ""
    print(f"{out}: {asked:,} pictures to paint on, {len(skipped):,} skipped{then}")
    for line in left_out:
        ranks.say(f"left out: {line}")
    return int(bool(skipped))
