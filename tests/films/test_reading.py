import sys
from fractions import Fraction
from itertools import islice, pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
from made_films import BASE, RATE, SIZE, moving, plain, spoil, write_film, write_sound
from PIL import Image

from films import reading
from films.containers import load_av
from films.decoding import Pass
from films.reading import find_keyframe, open_film
from photo_files import PhotoError

MILLISECOND = Fraction(1, 1000)
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "12"}}
KINDS = {  # files of all kinds, with many keyframes
    "h264.mp4": {"options": {"g": "12"}},
    "h264.mov": {"options": {"g": "12", "bf": "0"}},
    "open.m4v": {"options": {"g": "12", "x264-params": "open-gop=1"}},
    "h264.mkv": {"options": {"g": "12"}},
    "vp9.webm": VP9,
    "mpeg4.avi": {"codec": "mpeg4", "base": Fraction(1, RATE), "options": {"g": "12", "b": "4M"}},
    "h264.avi": {"base": Fraction(1, RATE), "options": {"g": "12"}},
    "refresh.mp4": {"options": {"g": "12", "x264-params": "intra-refresh=1"}},
}


def read(film, *place):
    """Return the times and the bytes of a film's frames."""
    return [(frame.pts, frame.image.tobytes()) for frame in film.frames(*place)]


# ---- names and PyAV ----------------------------------------------------------------------------
def test_without_pyav_the_error_says_what_to_type(monkeypatch, tmp_path):
    load_av.cache_clear()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-film\.txt$"):
        open_film(tmp_path / "a.mp4")


# ---- frames and times --------------------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
def test_every_frame_comes_once_at_its_time(name, tmp_path):
    film = open_film(write_film(tmp_path / name, **KINDS[name]))
    times = [frame.pts * film.time_base for frame in film.frames()]
    expected = [Fraction(k, RATE) for k in range(48)]
    assert max(abs(a - b) for a, b in zip(times, expected, strict=True)) <= MILLISECOND / 2
    assert film.start == 0
    assert film.damaged == 0
    assert film.size == SIZE
    assert abs(film.rate - RATE) < 0.01
    assert abs(film.duration - 2) < 0.05
    assert film.estimated_frames in (48, 49)
    assert film.missing < 0.05


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_that_were_written(name, tmp_path):
    true = moving()
    film = open_film(write_film(tmp_path / name, true, **KINDS[name]))
    for frame, levels in zip(film.frames(), true, strict=True):
        error = np.abs(np.subtract(frame.image, levels, dtype=np.float32)).mean()
        assert error < 10  # the frame before or after differs by 15
        assert frame.image.mode == "RGB"


@pytest.mark.parametrize("name", KINDS)
def test_a_reading_from_the_middle_equals_an_uninterrupted_one(name, tmp_path):
    film = open_film(write_film(tmp_path / name, **KINDS[name]))
    whole = read(film)
    for after, before in [(0, 0), (30, 0), (40, 3), (46, 9), (47, 2), (2, 5)]:
        found = read(film, whole[after][0], before)
        assert found == whole[max(0, after + 1 - before) :]


def count_decoded(monkeypatch):
    """Return a list to which each decoded frame adds its time."""
    decoded, find_time = [], Pass.find_time

    def counting(self, frame):
        decoded.append(find_time(self, frame))
        return decoded[-1]

    monkeypatch.setattr(Pass, "find_time", counting)
    return decoded


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm"])
def test_a_reading_from_the_middle_decodes_little(name, monkeypatch, tmp_path):
    film = open_film(write_film(tmp_path / name, moving(96), **KINDS[name]))
    stamps = [frame.pts for frame in film.frames()]
    decoded = count_decoded(monkeypatch)
    assert len(list(film.frames(stamps[80], 2))) == 17
    assert stamps[40] < decoded[0] <= stamps[66]


@pytest.mark.parametrize("wrong", [0, 600, 900])
def test_a_seek_that_lands_late_or_fails_is_made_up_for(wrong, monkeypatch, tmp_path):
    film = open_film(write_film(tmp_path / "a.mkv", **KINDS["h264.mkv"]))
    whole, keyframe = read(film), find_keyframe(film.path, 1500, 2)
    assert keyframe == 500
    monkeypatch.setattr(reading, "find_keyframe", lambda *_: keyframe + wrong)
    if wrong == 900:  # of which no frame lies before those that are asked for
        monkeypatch.setattr(reading, "find_keyframe", lambda *_: 1500)
    assert read(film, whole[36][0], 2) == whole[35:]


def test_a_seek_that_lands_between_keyframes_is_made_up_for(monkeypatch, tmp_path):
    film = open_film(write_film(tmp_path / "a.mp4", codec="mpeg4", options={"g": "12"}))
    whole, packets, passes = read(film), Pass.packets, []

    def late(self):
        passes.append(self)
        return islice(packets(self), 5 if len(passes) == 1 else 0, None)

    monkeypatch.setattr(reading, "find_keyframe", lambda *_: 12 * 512)
    monkeypatch.setattr(Pass, "packets", late)
    assert read(film, whole[24][0], 2) == whole[23:]
    assert len(passes) == 2


def test_a_place_without_a_frame_is_gone_on_after(tmp_path):
    film = open_film(write_film(tmp_path / "a.mkv", **KINDS["h264.mkv"]))
    whole = read(film)
    assert read(film, whole[20][0] + 1) == whole[21:]
    assert read(film, whole[-1][0] + 99) == []
    assert read(film, -5, 3) == whole


@pytest.mark.parametrize("begin", [Fraction(3, 2), Fraction(100)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_late_start_is_kept(name, begin, tmp_path):
    film = open_film(write_film(tmp_path / name, begin=begin, sounds=["aac"]))
    times = [frame.pts * film.time_base for frame in film.frames()]
    assert times[0] == film.start * film.time_base == begin
    assert abs(film.duration - 2) < 0.05
    assert film.missing < 0.05


def test_frames_that_an_edit_list_cuts_are_cut(tmp_path):
    container = {"avoid_negative_ts": "disabled"}
    path = write_film(tmp_path / "a.mp4", begin=Fraction(-1, 2), container=container)
    film = open_film(path)
    whole = read(film)
    assert whole[0][0] == film.start
    assert len(whole) == 36  # the edit list cuts what lies before 0
    assert read(film, whole[20][0], 1) == whole[20:]


UNEVEN = [0, 512, 700, 2000, 2001, 2600, 3000, 9000, 9512, 9700, 12_288, 12_900]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate_is_kept_and_said(name, tmp_path):
    film = open_film(write_film(tmp_path / name, moving(12), stamps=UNEVEN))
    times = [float(frame.pts * film.time_base) for frame in film.frames()]
    assert times == pytest.approx([float(stamp * BASE) for stamp in UNEVEN], abs=0.0006 + 1e-3)
    assert all(a < b for a, b in pairwise(times))
    assert "variable frame rate: timestamps are kept" in film.notes


def test_missing_and_falling_times_are_mended(tmp_path):
    film = Pass(write_film(tmp_path / "a.mp4"))
    stamps = [None, 5, 5, None, 600, 7, 3000]
    found = [film.find_time(SimpleNamespace(pts=pts)) for pts in stamps]
    assert found == [0, 5, 6, 518, 600, 601, 3000]
    assert film.mended


# ---- damage ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mov", "h264.avi", "mpeg4.avi"])
def test_damaged_packets_are_counted_and_the_rest_is_read(name, tmp_path):
    film = open_film(write_film(tmp_path / name, **KINDS[name]))
    whole = [frame.pts for frame in film.frames()]
    spoil(film.path, (20, 21, 31), begin=0)
    found = read(film)
    assert film.damaged >= 3
    assert len(found) >= 45
    assert {pts for pts, _ in found} <= set(whole)
    assert found[-1][0] == whole[-1]
    if name != "mpeg4.avi":
        assert read(film, found[42][0], 2) == found[41:]


def test_a_film_that_breaks_off_says_how_much_is_missing(tmp_path):
    path = write_film(tmp_path / "a.mkv", moving(96), options={"g": "12", "bf": "0"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    film = open_film(path)
    number = len(read(film))
    assert 20 < number < 80
    assert film.missing == pytest.approx(4 - number / RATE, abs=0.1)


# ---- what a frame looks like -------------------------------------------------------------------
COLORS = [(0, 0, 0), (255, 255, 255), (200, 30, 40), (20, 180, 60), (30, 60, 220), (250, 240, 30)]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_colors_are_read_by_the_films_matrix_and_range(pixels, levels, matrix, tmp_path):
    tags, exact = {"matrix": matrix, "range": levels}, {"qp": "0"}
    path = write_film(tmp_path / "a.mp4", plain(COLORS), pixels=pixels, tags=tags, options=exact)
    for frame, color in zip(open_film(path).frames(), COLORS, strict=True):
        assert np.abs(np.subtract(frame.image, color, dtype=np.float32)).max() <= 2


def by_formula(rgb, red, blue):
    """Return the levels 16..235 and 16..240 of colors (N, 3), 0..255, by H.273's equations."""
    r, g, b = np.asarray(rgb, dtype=np.float64).T / 255
    y = red * r + (1 - red - blue) * g + blue * b
    levels = [16 + 219 * y, 128 + 112 * (b - y) / (1 - blue), 128 + 112 * (r - y) / (1 - red)]
    return np.stack(levels, -1).round().astype(np.uint8)


@pytest.mark.parametrize(("height", "red", "blue"), [(64, 0.299, 0.114), (720, 0.2126, 0.0722)])
def test_colors_without_a_mark_are_read_by_height_as_players_do(height, red, blue, tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as film:
        track = film.add_stream("ffv1", rate=RATE)
        track.width, track.height, track.pix_fmt = 64, height, "yuv444p"
        for levels in by_formula(COLORS, red, blue):
            planes = np.broadcast_to(levels[:, None, None], (3, height, 64)).copy()
            film.mux(track.encode(av.VideoFrame.from_ndarray(planes, "yuv444p")))
        film.mux(track.encode(None))
    for frame, color in zip(open_film(path).frames(), COLORS, strict=True):
        assert np.abs(np.subtract(frame.image, color, dtype=np.float32)).max() <= 2


@pytest.mark.parametrize("codec", ["libx264", "ffv1", "libx265"])
@pytest.mark.parametrize("levels", [0, 1, 2])  # unsaid, 16 to 235, 0 to 255
def test_gray_films_keep_black_and_white(codec, levels, tmp_path):
    path, full = tmp_path / "a.mkv", levels == 2 or (levels == 0 and codec == "ffv1")
    exact = (
        {"qp": "0"}
        if codec == "libx264"
        else {"x265-params": "lossless=1:log-level=none:bframes=0"}
    )
    with av.open(str(path), "w") as film:
        track = film.add_stream(codec, rate=RATE, options={} if codec == "ffv1" else exact)
        track.width, track.height, track.pix_fmt = *SIZE, "gray"
        track.codec_context.color_range = levels
        for pts, gray in enumerate((0, 255) if full else (16, 235)):
            frame = av.VideoFrame.from_ndarray(np.full(SIZE[::-1], gray, np.uint8), "gray")
            frame.pts, frame.time_base = pts, Fraction(1, RATE)
            film.mux(track.encode(frame))
        film.mux(track.encode(None))
    for frame, gray in zip(open_film(path).frames(), (0, 255), strict=True):
        assert np.abs(np.subtract(frame.image, gray, dtype=np.float32)).max() <= 2


TURNS = {  # degrees counterclockwise, then mirrored from left to right, from top to bottom
    (90,): Image.Transpose.ROTATE_90,
    (180,): Image.Transpose.ROTATE_180,
    (270,): Image.Transpose.ROTATE_270,
    (0, True): Image.Transpose.FLIP_LEFT_RIGHT,
    (0, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (90, True): Image.Transpose.TRANSVERSE,
    (90, False, True): Image.Transpose.TRANSPOSE,
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_upright(turn, tmp_path):
    true = plain([(128, 128, 128)])
    true[0][:24, :32] = 255, 0, 0  # at the top on the left
    film = open_film(write_film(tmp_path / "a.mp4", true, turn=turn, aspect=Fraction(4, 3)))
    upright = Image.fromarray(true[0]).transpose(TURNS[turn])
    (frame,) = film.frames()
    assert frame.image.size == film.size == upright.size
    assert np.abs(np.subtract(frame.image, upright, dtype=np.float32)).mean() < 5
    assert film.aspect == (Fraction(3, 4) if turn[0] % 180 else Fraction(4, 3))
    assert film.rotation % 180 == turn[0] % 180
    if len(turn) == 1:
        assert film.rotation == turn[0]


@pytest.mark.parametrize("angle", [10, 30, 100])
def test_a_film_that_is_turned_by_other_angles_is_left_and_said(angle, tmp_path):
    film = open_film(write_film(tmp_path / "a.mp4", turn=(angle,)))
    assert film.size == SIZE
    assert film.rotation == 0
    assert film.notes == ["turned by no multiple of 90 degrees: left as it is stored"]


NOTES = {
    "interlaced": {"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}},
    "10 bits become 8": {"pixels": "yuv420p10le"},
    "odd size: written as 4:4:4": {"frames": moving(3, (95, 64)), "pixels": "yuv444p"},
    "sound in pcm_s16le, which mp4 does not hold: written as mkv": {"sounds": ["pcm_s16le"]},
    "subtitles in mov_text: left out": {"sounds": ["pcm_s16le"], "subtitles": "mov_text"},
}


@pytest.mark.parametrize("note", NOTES)
def test_notes_say_what_is_not_kept(note, tmp_path):
    film = open_film(write_film(tmp_path / "a.mov", **NOTES[note]))
    assert sum(found.startswith(note) for found in film.notes) == 1


def test_an_ordinary_film_needs_no_notes(tmp_path):
    chapter = {"id": 1, "start": 0, "end": 2000, "time_base": MILLISECOND}
    chapter["metadata"] = {"title": "The end"}
    chapters = [chapter, chapter | {"id": 2, "start": 900}]
    film = open_film(write_film(tmp_path / "a.mp4", sounds=["aac"], chapters=chapters))
    assert film.notes == []


# ---- what cannot be read -----------------------------------------------------------------------
def test_files_that_are_no_films_are_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(PhotoError, match="No such file"):
        open_film(path)
    for data, reason in {b"": "empty", b"<html>a web page" * 9: "not a film"}.items():
        path.write_bytes(data)
        with pytest.raises(PhotoError, match=reason):
            open_film(path)


PLAYLISTS = [
    "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nb.mp4\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile b.mp4\n",
]


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_a_playlist_opens_no_other_file(playlist, tmp_path):
    write_film(tmp_path / "b.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(playlist)
    with pytest.raises(PhotoError, match="not a film"):
        open_film(path)


def test_a_damaged_header_is_refused(tmp_path):
    path = write_film(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-900])  # the index is at the end
    with pytest.raises(PhotoError, match="header is damaged"):
        open_film(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_alone_is_refused(name, tmp_path):
    with pytest.raises(PhotoError, match="sound alone"):
        open_film(write_sound(tmp_path / name))


def test_a_cover_is_no_film(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as film:
        track = film.add_stream("mjpeg", rate=1)
        track.width, track.height, track.pix_fmt = *SIZE, "yuvj420p"
        track.disposition = av.stream.Disposition.attached_pic
        film.mux(track.encode(av.VideoFrame.from_ndarray(moving(1)[0]).reformat(format="yuvj420p")))
        film.mux(track.encode(None))
    with pytest.raises(PhotoError, match="sound alone"):
        open_film(path)


def test_an_encrypted_film_is_refused(tmp_path):
    keys = {"encryption_key": "01" * 16, "encryption_kid": "02" * 16}
    keys["encryption_scheme"] = "cenc-aes-ctr"
    with pytest.raises(PhotoError, match="encrypted"):
        open_film(write_film(tmp_path / "a.mp4", container=keys))


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_a_remedy(transfer, name, tmp_path):
    tags = {"matrix": 9, "primaries": 9, "transfer": transfer}
    path = write_film(tmp_path / "a.mp4", moving(3), pixels="yuv420p10le", tags=tags)
    with pytest.raises(PhotoError, match=rf"HDR \({name}\).*convert it to SDR"):
        open_film(path)


def test_colors_of_a_rare_kind_are_refused(tmp_path):
    path = write_film(tmp_path / "a.mkv", moving(3), options={"x264-params": "colormatrix=YCgCo"})
    with pytest.raises(PhotoError, match="rare kind"):
        open_film(path)


def test_a_film_without_any_frame_is_refused(tmp_path):
    path = write_film(tmp_path / "a.mp4")
    with pytest.raises(PhotoError, match="without any frame"):
        open_film(spoil(path, range(48), begin=0))


def test_an_unknown_codec_is_refused(tmp_path):
    path = write_film(tmp_path / "a.avi", codec="mpeg4", base=Fraction(1, RATE))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ"))
    with pytest.raises(PhotoError, match="cannot decode"):
        open_film(path)


@pytest.mark.parametrize(
    ("duration", "tags", "length"),
    [
        (2500, {}, 2.5),
        (None, {"DURATION": "01:00:02.500000000"}, 3602.0),
        (None, {"DURATION": "soon"}, None),
        (None, {}, None),  # the file's own may be that of its sound
    ],
)
def test_find_length_is_that_of_the_pictures_alone(duration, tags, length):
    base = Fraction(1, 1000)
    track = SimpleNamespace(duration=duration, metadata=tags, start_time=500, time_base=base)
    assert reading.find_length(track) == length


def test_a_disk_that_cannot_be_read_is_that_of_the_film(tmp_path, monkeypatch):
    film = open_film(write_film(tmp_path / "a.mp4"))

    def fail(*_):
        raise av.error.OSError(5, "Input/output error")

    broken = Pass(film.path)
    monkeypatch.setattr(broken, "container", SimpleNamespace(demux=fail))
    with pytest.raises(PhotoError, match=r"cannot be read on \(Input/output error\)"):
        next(broken.packets())
