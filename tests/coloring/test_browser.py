"""What the page's parts call, without a browser; tests/test_app.py has the page in one."""

import pytest

from coloring.browser import parse_color, replace_colors, say_color
from coloring.hints import MOST


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("#a0522d", (160, 82, 45)),
        ("#A0522D", (160, 82, 45)),
        ("rgba(160.4, 81.6, 45, 1)", (160, 82, 45)),
        ("rgb(0, 0, 255)", (0, 0, 255)),
    ],
)
def test_parse_color_reads_what_a_color_picker_gives(text, color):
    assert parse_color(text) == color


@pytest.mark.parametrize("text", ["", None, "red", "#12345", "rgb(1, 2)", "rgb(0, 0, 256)"])
def test_parse_color_refuses_the_rest_in_a_sentence(text):
    with pytest.raises(ValueError, match="no color; choose one with the color picker"):
        parse_color(text)


def test_say_color_adds_to_one_photograph_and_changes_no_list():
    red, blue = (200, 30, 20), (20, 30, 200)
    said = [[], [(3, red)]]
    assert say_color(said, 1, 3, blue) == [[], [(3, red), (3, blue)]]
    assert replace_colors(said, 1, []) == [[], []]
    assert said == [[], [(3, red)]]


def test_say_color_refuses_no_place_and_too_many():
    with pytest.raises(ValueError, match="click on a place of the photograph first"):
        say_color([[]], 0, None, (1, 2, 3))
    with pytest.raises(ValueError, match=f"{MOST} colors are the most"):
        say_color([[(0, (1, 2, 3))] * MOST], 0, 0, (1, 2, 3))
