import errno
import os
import subprocess
import sys
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import made_films
import numpy as np
import pytest
from made_films import BASE, RATE, SIZE, moving, packets_of, psnr, spoil, write_film
from PIL import Image
from running import ROOT

from common.files import half_written
from films import writing
from films.containers import open_container
from films.reading import open_film
from films.writing import join_parts, write_part
from photo_files.writing import SOFTWARE

MILLISECOND = Fraction(1, 1000)


def read(path):
    """Return the times in seconds and the pictures of a film."""
    film = open_film(path)
    return [(frame.pts * film.time_base, np.asarray(frame.image)) for frame in film.frames()]


def write_parts(film, folder, *lengths):
    """Write a film's own frames as pieces of these lengths, and of the rest; return their paths."""
    frames, parts = [(frame.pts, frame.image) for frame in film.frames()], []
    for number, length in enumerate((*lengths, len(frames))):
        parts.append(folder / f"{number}.part")
        write_part(parts[-1], film, frames[:length])
        frames = frames[length:]
    return parts


def rewrite(path, *lengths, **times):
    """Write a film again, from pieces of these lengths; return its path."""
    film = open_film(path)
    out = path.with_name(f"out{film.ending}")
    join_parts(film, write_parts(film, path.parent, *lengths), out, **times)
    return out


def images(frames):
    """Return frames (H, W, 3) as `write_part` takes them, a frame of BASE apart."""
    return [(512 * k, Image.fromarray(levels)) for k, levels in enumerate(frames)]


# ---- pieces ------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(320, 180), (321, 181)])
@pytest.mark.parametrize("tags", [{"matrix": 1}, {"matrix": 6, "range": 2}, {"matrix": 9}, {}])
def test_a_part_is_hard_to_tell_from_what_was_written(size, tags, tmp_path):
    true = moving(12, size, grain=1.0)
    film = open_film(write_film(tmp_path / "a.mp4", true, pixels="yuv444p", tags=tags))
    write_part(tmp_path / "part", film, images(true))
    out = tmp_path / "out.mp4"
    join_parts(film, [tmp_path / "part"], out)
    assert psnr([levels for _, levels in read(out)], true) > 42
    with av.open(str(out)) as container:
        track = container.streams.video[0]
        assert track.codec_context.pix_fmt == ("yuv444p" if any(n % 2 for n in size) else "yuv420p")
        assert track.codec_context.colorspace == tags.get("matrix", 6)
        assert track.codec_context.color_range == 1


def test_a_part_has_the_same_bytes_each_time(tmp_path):
    film = open_film(write_film(tmp_path / "a.mp4"))
    for name in ("a", "b"):
        write_part(tmp_path / name, film, images(moving(12)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_part_appears_when_it_is_whole(tmp_path):
    film, path = open_film(write_film(tmp_path / "a.mp4")), tmp_path / "part"

    def frames(end):
        for frame in images(moving(12)):
            assert not path.exists()
            yield frame
        raise end

    with pytest.raises(RuntimeError, match="the coloring failed"):
        write_part(path, film, frames(RuntimeError("the coloring failed")))
    with pytest.raises(KeyboardInterrupt):
        write_part(path, film, frames(KeyboardInterrupt))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_a_part_of_no_frame_or_of_another_size_is_refused(tmp_path):
    film, path = open_film(write_film(tmp_path / "a.mp4")), tmp_path / "part"
    with pytest.raises(ValueError, match="found none"):
        write_part(path, film, [])
    with pytest.raises(ValueError, match=r"expected a frame of \(96, 64\), found \(64, 96\)"):
        write_part(path, film, images(moving(2, SIZE[::-1])))
    assert not path.exists()


# ---- joining: pictures -------------------------------------------------------------------------
FILMS = {
    "a.mp4": {"sounds": ["aac", "libmp3lame"], "subtitles": "mov_text"},
    "late.mp4": {"sounds": ["aac"], "begin": Fraction(3, 2)},
    "b.mov": {"sounds": ["aac"], "options": {"bf": "0"}},
    "a.m4v": {},
    "a.mkv": {"sounds": ["libopus", "pcm_s16le"], "subtitles": "srt", "attachment": b"a font"},
    "late.mkv": {"sounds": ["aac"], "begin": Fraction(7, 2)},
    "a.avi": {"sounds": ["libmp3lame"], "base": Fraction(1, RATE), "codec": "mpeg4"},
    "ntsc.avi": {"sounds": ["libmp3lame"], "base": Fraction(1001, 30_000), "codec": "mpeg4"},
    "a.webm": {"sounds": ["libopus"], "codec": "libvpx", "options": {"deadline": "realtime"}},
}
MADE_MKV = {"pcm.mov": {"sounds": ["pcm_s16le"]}, "pcm.avi": {"sounds": ["pcm_s16le"]}}
MADE_MKV["pcm.avi"] |= {"base": Fraction(1, RATE)}
ALL = FILMS | MADE_MKV


@pytest.mark.parametrize("name", ALL)
def test_times_and_frames_are_the_sources(name, tmp_path):
    path = write_film(tmp_path / name, **ALL[name])
    out, film = rewrite(path), open_film(path)
    found, true = read(out), read(path)
    assert out.suffix == (
        ".mkv" if path.suffix in (".mkv", ".webm") or name in MADE_MKV else ".mp4"
    )
    tolerance = 0 if name in FILMS else MILLISECOND / 2  # Matroska's
    for (time, _), (expected, _) in zip(found, true, strict=True):
        assert abs(time - expected) <= tolerance
    assert psnr([levels for _, levels in found], [levels for _, levels in true]) > 37
    colored = open_film(out)
    assert colored.size == film.size
    assert colored.duration == pytest.approx(film.duration, abs=0.03)
    assert not colored.damaged


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "late.mp4"])
def test_three_parts_equal_one(name, tmp_path):
    path = write_film(tmp_path / name, **FILMS[name])
    one, three = rewrite(path).rename(tmp_path / f"one{path.suffix}"), rewrite(path, 10, 1)
    assert [time for time, _ in read(one)] == [time for time, _ in read(three)]
    assert psnr([f for _, f in read(one)], [f for _, f in read(three)]) > 40
    with av.open(str(one)) as a, av.open(str(three)) as b:
        assert a.duration == b.duration
        assert len(a.streams) == len(b.streams)
    assert packets_of(one, 1) == packets_of(three, 1)


def test_a_variable_rate_is_kept(tmp_path):
    stamps = [0, 512, 700, 2000, 2001, 2600, 3000, 9000, 9512, 9700, 12_288, 12_900]
    out = rewrite(write_film(tmp_path / "a.mp4", moving(12), stamps=stamps), 5)
    assert [time for time, _ in read(out)] == [stamp * BASE for stamp in stamps]


@pytest.mark.parametrize("base", [Fraction(1, 1000), Fraction(1001, 30_000), Fraction(1, 90_000)])
def test_a_part_keeps_each_unit_of_a_time_base(base, tmp_path):
    path = write_film(tmp_path / "a.mkv", moving(8))
    film = open_film(path)
    film.time_base, film.start, stamps = base, -70, [-70, -69, 5, 6, 1000, 100_001, 7_000_000]
    frames = [(pts, image) for pts, (_, image) in zip(stamps, images(moving(7)), strict=True)]
    write_part(tmp_path / "part", film, frames)
    with closing(open_container(tmp_path / "part")) as part:
        headers = part.streams.video[0].codec_context.extradata
    packets = list(writing.read_parts(film, [tmp_path / "part"], headers))
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets] == stamps


def test_turned_films_are_written_upright(tmp_path):
    path = write_film(tmp_path / "a.mov", turn=(90,), aspect=Fraction(4, 3))
    film = open_film(rewrite(path))
    assert film.rotation == 0
    assert film.size == SIZE[::-1]
    assert film.aspect == Fraction(3, 4)


def test_color_tags_are_the_sources(tmp_path):
    tags = {"matrix": 9, "primaries": 9, "transfer": 14}
    colors = open_film(rewrite(write_film(tmp_path / "a.mp4", moving(3), tags=tags))).colors
    assert (colors.matrix, colors.primaries, colors.transfer, colors.range) == (9, 9, 14, 1)


def test_a_damaged_film_stays_in_step(tmp_path):
    path = spoil(write_film(tmp_path / "a.mp4", sounds=["aac"], options={"bf": "0"}), (20, 21), 0)
    out = rewrite(path, 15)
    times = [time for time, _ in read(out)]
    assert times == [time for time, _ in read(path)]
    assert len(times) == 46
    assert times[-1] == Fraction(47, RATE)
    assert packets_of(out, 1) == packets_of(path, 1)


# ---- joining: all other tracks -----------------------------------------------------------------
@pytest.mark.parametrize("name", ALL)
def test_sound_and_subtitles_are_copied_byte_by_byte(name, tmp_path):
    path = write_film(tmp_path / name, **ALL[name])
    out = rewrite(path)
    with av.open(str(path)) as source, av.open(str(out)) as colored:
        assert len(colored.streams) == len(source.streams)
        kinds = [track.type for track in source.streams]
        assert [track.type for track in colored.streams] == kinds
        languages = [track.language or "und" for track in list(source.streams)[1:]]
        assert [track.language or "und" for track in list(colored.streams)[1:]] == languages
    for number, kind in enumerate(kinds):
        if kind in ("audio", "subtitle"):
            true, found = packets_of(path, number), packets_of(out, number)
            if kind == "subtitle":  # mp4's muxer ends a subtitle by an empty one
                true, found = ([(t, p) for t, p in ps if len(p) > 2] for ps in (true, found))
            assert [packet for _, packet in found] == [packet for _, packet in true]
            late = max(abs(a - b) for (a, _), (b, _) in zip(found, true, strict=True))
            assert late <= (0 if name in FILMS else MILLISECOND / 2)


def test_titles_dispositions_chapters_and_metadata_are_kept(tmp_path):
    base = {"time_base": MILLISECOND, "metadata": {"title": "The end"}}
    chapters = [
        {"id": 1, "start": 0, "end": 900, **base},
        {"id": 2, "start": 900, "end": 2000, **base},
    ]
    metadata = {"title": "A day in May", "comment": "from a reel", "artist": "Aunt Ada"}
    made = {"sounds": ["aac", "aac"], "chapters": chapters, "metadata": metadata}
    comment = av.stream.Disposition.comment
    made["dispositions"] = [av.stream.Disposition.default, comment]
    made["attachment"] = b"a font"
    for name in ("a.mkv", "a.mp4"):
        path = write_film(tmp_path / name, **made)
        with av.open(str(rewrite(path))) as film, av.open(str(path)) as source:
            found = {key.lower(): value for key, value in film.metadata.items()}
            assert found["title"] == "A day in May"
            assert found["artist"] == "Aunt Ada"
            assert found["comment"] == f"from a reel; {SOFTWARE}"
            times = [[c[key] * c["time_base"] for key in ("start", "end")] for c in film.chapters()]
            assert times == [[0, Fraction(9, 10)], [Fraction(9, 10), 2]]
            assert film.chapters()[0]["metadata"]["title"] == "The end"
            assert [t.disposition for t in film.streams] == [t.disposition for t in source.streams]
            if name == "a.mkv":
                assert film.streams.audio[1].disposition & comment
                assert film.streams.attachments[0].data == b"a font"
                del made["attachment"]  # of which mp4 knows nothing


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_an_excerpt_begins_at_0_with_its_own_sound(name, tmp_path):
    path = write_film(tmp_path / name, moving(96), begin=Fraction(1, 2), sounds=["aac"])
    film, out = open_film(path), tmp_path / f"out{path.suffix}"
    start, end = 1.465, 2.99  # frames at 1.5, ..., 2.958
    frames = [(f.pts, f.image) for f in film.frames() if start <= f.pts * film.time_base < end]
    write_part(tmp_path / "part", film, frames)
    join_parts(film, [tmp_path / "part"], out, start, end)
    times = [time for time, _ in read(out)]
    assert len(times) == 36
    assert times[0] == 0
    assert abs(times[-1] - Fraction(35, RATE)) <= MILLISECOND / 2
    true = [(t, p) for t, p in packets_of(path, 1) if Fraction(3, 2) <= t < Fraction(299, 100)]
    found = packets_of(out, 1)
    assert [packet for _, packet in found] == [packet for _, packet in true]
    for (time, _), (expected, _) in zip(found, true, strict=True):
        assert abs(time - (expected - Fraction(3, 2))) <= MILLISECOND


@pytest.mark.parametrize("lands", [True, False])
def test_an_excerpt_from_far_in_a_film_has_its_sound(lands, monkeypatch, tmp_path):
    frames, stamps = moving(30 * 4, (64, 64)), [k * 3072 for k in range(30 * 4)]
    monkeypatch.setattr(made_films, "RATE", 4)
    path = write_film(tmp_path / "a.mp4", frames, stamps=stamps, sounds=["aac"])
    film, out = open_film(path), tmp_path / "out.mp4"
    chosen = [(f.pts, f.image) for f in film.frames() if 25 <= f.pts * film.time_base < 26]
    write_part(tmp_path / "part", film, chosen)
    begun, demux = [], writing.demux_from

    def watched(container, numbers, start):
        if not lands and start is not None:
            start = Fraction(40)  # no sound is left there
        for packet in demux(container, numbers, start):
            begun.append(packet.pts)
            yield packet

    monkeypatch.setattr(writing, "demux_from", watched)
    join_parts(film, [tmp_path / "part"], out, 25, 26)
    true = [packet for time, packet in packets_of(path, 1) if 25 <= time < 26]
    assert len(true) > 40
    assert [packet for _, packet in packets_of(out, 1)] == true
    if lands:
        assert begun[0] / 48_000 > 9


def test_sound_lies_beside_its_pictures(monkeypatch, tmp_path):
    frames, stamps = moving(30 * 4, (64, 64)), [k * 3072 for k in range(30 * 4)]
    monkeypatch.setattr(made_films, "RATE", 4)
    out = rewrite(write_film(tmp_path / "a.mp4", frames, stamps=stamps, sounds=["aac"]), 50)
    with av.open(str(out)) as film:
        packets = [p for p in film.demux() if p.size]
    times = [p.dts * p.time_base for p in sorted(packets, key=lambda packet: packet.pos)]
    assert all(b - a > -1 for a, b in pairwise(times))


def test_packets_without_times_or_with_falling_ones_are_mended():
    def packet(pts, dts, size=1, stream_index=1):
        return SimpleNamespace(pts=pts, dts=dts, size=size, stream_index=stream_index)

    given = [packet(0, 0), packet(None, 5), packet(5, 4), packet(7, None), packet(3, 3, 1, 2)]
    given += [packet(None, None), packet(9, 9, 0), packet(8, 8)]
    found = [(p.stream_index, p.pts, p.dts) for p in writing.mend_times(iter(given))]
    assert found == [(1, 0, 0), (1, 5, 5), (1, 6, 6), (1, 7, 7), (2, 3, 3), (1, 8, 8)]


def test_sound_that_nothing_holds_is_left_out_and_said(tmp_path):
    path = write_film(tmp_path / "a.avi", base=Fraction(1, RATE), sounds=["adpcm_ms", "libmp3lame"])
    left = "sound in adpcm_ms: left out"
    assert left in open_film(path).notes
    out = rewrite(path)
    assert out.suffix == ".mkv"
    with av.open(str(out)) as film:
        assert [track.type for track in film.streams] == ["video", "audio"]
    assert [p for _, p in packets_of(out, 1)] == [p for _, p in packets_of(path, 2)]


# ---- joining: what may go wrong ----------------------------------------------------------------
def test_no_file_is_overwritten(tmp_path):
    path = write_film(tmp_path / "a.mp4")
    film = open_film(path)
    with pytest.raises(FileExistsError, match="never overwritten"):
        join_parts(film, write_parts(film, tmp_path), path)


def test_a_part_of_another_film_is_refused(tmp_path):
    film, out = open_film(write_film(tmp_path / "a.mp4")), tmp_path / "out.mp4"
    other = open_film(write_film(tmp_path / "b.mp4", moving(6, (64, 64))))
    (part,), (strange,) = write_parts(film, tmp_path), write_parts(other, tmp_path / "..")
    with pytest.raises(ValueError, match="of another film"):
        join_parts(film, [part, strange], out)
    strange.unlink()
    assert not out.exists()
    assert not half_written(out).exists()


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests/helpers"]
from films.reading import open_film
from films.writing import join_parts, write_part
film = open_film(Path({path!r}))
frames = [(frame.pts, frame.image) for frame in film.frames()]
part, out = Path({path!r}).with_name("part"), Path({path!r}).with_name("out.mp4")
if {what!r} == "out":
    write_part(part, film, frames)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
try:
    write_part(part, film, frames) if {what!r} == "part" else join_parts(film, [part], out)
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize("what", ["part", "out"])
@pytest.mark.parametrize("lacking", [1, 100, 10_000])
def test_a_full_disk_leaves_nothing_and_names_the_file(what, lacking, tmp_path):
    path = write_film(tmp_path / "a.mp4", sounds=["aac"])
    out = rewrite(path)
    whole = (tmp_path / "0.part" if what == "part" else out).stat().st_size
    for made in (out, tmp_path / "0.part"):
        made.unlink()
    code = FULL.format(root=str(ROOT), path=str(path), what=what, most=whole - lacking)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    name = "part" if what == "part" else "out.mp4"
    assert ended.stdout.split() == [str(errno.EFBIG), str(tmp_path / name)], ended.stderr
    assert name not in os.listdir(tmp_path)
    assert not half_written(tmp_path / name).exists()
