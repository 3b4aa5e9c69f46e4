"""What the page's parts call, without a browser; tests/test_app.py has the page in one."""

import pytest

from page.handlers import parse_color


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
