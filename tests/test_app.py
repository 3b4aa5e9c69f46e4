"""The page of app.py in a real browser, Debian's chromium without a window."""

import importlib.util
import itertools
import shutil
import socket
import time
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from running import call, exit_status, run_script
from skimage.data import astronaut

import app
import generate
from benchmarks.visiting import serve
from page.layout import describe

try:
    from playwright import sync_api
except ImportError:
    sync_api = None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60_000  # milliseconds
LACKING = [
    what
    for what, there in (
        ("gradio", importlib.util.find_spec("gradio")),
        ("playwright", sync_api),
        ("chromium (apt install chromium)", CHROMIUM),
    )
    if not there
]


def in_browser(test):
    """Mark a test that takes a browser: slow, and skipped where there is none."""
    needed = pytest.mark.skipif(bool(LACKING), reason=f"there is no {' nor '.join(LACKING)}")
    return pytest.mark.slow(needed(test))


@pytest.fixture(scope="module")
def address(make_checkpoint, tmp_path_factory):
    """Serve the page with an untrained network."""
    process, port = serve(make_checkpoint(tmp_path_factory.mktemp("page") / "best.pt"))
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    assert process.wait(30) == 130


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Give tests a function that opens the page as another visitor, wide or as on a phone."""
    contexts = []

    def open_one(width=1280, height=900, at=address):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(at)
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def photos(tmp_path):
    """Write two gray photographs and a file that is none."""
    Image.fromarray(astronaut()).convert("L").save(tmp_path / "astronaut.jpg")
    Image.fromarray(astronaut()[:200, :300]).convert("L").save(tmp_path / "flag.png")
    (tmp_path / "words.jpg").write_text("no picture")
    return [tmp_path / name for name in ("astronaut.jpg", "flag.png", "words.jpg")]


def upload(page, *paths):
    page.set_input_files("#upload input[type=file]", [str(path) for path in paths])


def after(page) -> str:
    """Return the address of the colored photograph, once it is there."""
    image = page.locator("#slider img").last
    image.wait_for(state="attached")  # its tab may be hidden
    return image.get_attribute("src")


def natural_size(page) -> list[int]:
    """Return width and height of the colored photograph, once the browser has decoded it."""
    image = page.locator("#slider img").last.element_handle()
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image)
    return image.evaluate("image => [image.naturalWidth, image.naturalHeight]")


def fetch(address: str) -> np.ndarray:
    return np.asarray(Image.open(urllib.request.urlopen(address)).convert("RGB"), int)


def move(page, slider: str, value: float):
    """Move a slider, without letting it go."""
    page.locator(f"#{slider} input[type=range]").evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def wait_for_another(page, than: str) -> str:
    """Return the address of the colored photograph once it is another."""
    page.wait_for_function(
        "than => [...document.querySelectorAll('#slider img')].at(-1)?.src !== than", arg=than
    )
    return after(page)


@in_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_photograph_is_colored_and_answers_to_its_sliders(width, height, open_page, photos):
    page = open_page(width, height)
    upload(page, photos[0])
    pictures = [fetch(shown := after(page))]
    assert natural_size(page) == [512, 512]
    for slider, value in (("temperature", 1.2), ("top-k", 1), ("sample", None)):
        if value:
            move(page, slider, value)
        else:
            page.locator(f"#{slider} input[type=range]").press("ArrowRight")
        pictures.append(fetch(shown := wait_for_another(page, shown)))
    for one, other in itertools.pairwise(pictures):
        assert np.abs(one - other).mean() > 0.5
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width


@in_browser
def test_the_download_is_the_photograph_colored(open_page, photos):
    page = open_page()
    upload(page, photos[1])
    after(page)
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "flag.png"
    image = Image.open(download.value.path())
    assert (image.format, image.size) == ("PNG", (300, 200))
    assert np.ptp(np.asarray(image), axis=-1).mean() > 3  # not gray


@in_browser
def test_several_photographs_one_of_them_none(open_page, photos):
    page = open_page()
    upload(page, *photos)
    first = after(page)
    sync_api.expect(page.get_by_text("words.jpg: not a picture")).to_be_visible(timeout=PATIENCE)
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    wait_for_another(page, first)
    assert natural_size(page) == [300, 200]
    page.locator("#compare").click()
    link = page.locator("#archive a").first
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "flag-compare.jpg"
    assert Image.open(download.value.path()).size == (600, 200)
    page.locator("#zip").click()
    sync_api.expect(page.get_by_text("All of them")).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator("#archive a").first.click()
    with zipfile.ZipFile(download.value.path()) as file:
        assert file.namelist() == ["1-astronaut.jpg", "2-flag.png"]


def open_to_say(open_page, *photos):
    """Open the page with photographs, where colors are said; return it, and what it shows."""
    page = open_page()
    upload(page, *photos)
    shown = after(page)
    page.get_by_role("tab", name="Say a color").click()
    return page, shown


def click_at(page, x: float, y: float):
    """Click on a place of the photograph, in shares of its width and height; await its colors."""
    image = page.locator("#clicked img")
    image.wait_for()
    box = image.bounding_box()
    marked = image.get_attribute("src")
    image.click(position={"x": x * box["width"], "y": y * box["height"]})
    page.wait_for_function(
        "marked => document.querySelector('#clicked img').src !== marked", arg=marked
    )
    page.locator("#swatches button.thumbnail-item").first.wait_for()


def near(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return the mean color around a place."""
    row, column = int(y * picture.shape[0]), int(x * picture.shape[1])
    return picture[row - 8 : row + 9, column - 8 : column + 9].mean((0, 1))


@in_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_color_is_said_changed_undone_and_cleared(width, height, open_page, photos):
    page = open_page(width, height)
    upload(page, photos[0])
    pictures = [fetch(shown := after(page))]
    page.get_by_role("tab", name="Say a color").click()
    click_at(page, 0.3, 0.7)
    page.locator("#swatches button.thumbnail-item").last.click()
    pictures.append(fetch(shown := wait_for_another(page, shown)))
    page.locator("#picker button").first.click()
    page.locator("#picker input[type=text]").fill("#20c040")
    page.locator("#picker input[type=text]").press("Enter")
    page.locator("#take").click()
    pictures.append(fetch(shown := wait_for_another(page, shown)))
    red, green, blue = near(pictures[2], 0.3, 0.7) - near(pictures[0], 0.3, 0.7)
    assert green > max(red, blue) + 5
    page.locator("#undo").click()
    shown = wait_for_another(page, shown)
    assert np.array_equal(fetch(shown), pictures[1])
    page.locator("#clear").click()
    shown = wait_for_another(page, shown)
    assert np.array_equal(fetch(shown), pictures[0])
    assert not page.locator("#hints").is_enabled()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@in_browser
def test_hints_stay_when_sliders_move_and_download_for_the_command(
    open_page, photos, make_checkpoint, tmp_path
):
    page, shown = open_to_say(open_page, photos[1])
    for x in (0.2, 0.7):
        click_at(page, x, 0.5)
        page.locator("#swatches button.thumbnail-item").last.click()
        shown = wait_for_another(page, shown)
    for slider, value in (("temperature", 0.8), ("vividness", 0.3)):
        move(page, slider, value)
        shown = wait_for_another(page, shown)
    page.wait_for_timeout(2000)  # for the last answer and its files: there may be one or two
    found = {}
    for button in ("hints", "download"):
        with page.expect_download() as download:
            page.locator(f"#{button}").click()
        assert download.value.suggested_filename == "flag.png"
        found[button] = Image.open(download.value.path())
    (tmp_path / "said").mkdir()
    found["hints"].save(tmp_path / "said" / "flag.png")
    options = ["--checkpoint", make_checkpoint(tmp_path / "best.pt"), "--out", tmp_path / "out"]
    options += ["--images", photos[1], "--temperature", 0.8, "--vividness", 0.3]
    assert call(generate.main, *options, "--hints", tmp_path / "said") == 0
    assert np.array_equal(Image.open(tmp_path / "out" / "flag.png"), found["download"])


@in_browser
def test_a_color_without_a_place_and_another_photograph(open_page, photos):
    page, first = open_to_say(open_page, photos[0], photos[1])
    page.locator("#take").click()
    sync_api.expect(page.get_by_text("click on a place of the photograph first")).to_be_visible(
        timeout=PATIENCE
    )
    click_at(page, 0.3, 0.7)
    page.locator("#swatches button.thumbnail-item").last.click()
    hinted = wait_for_another(page, first)
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    other = wait_for_another(page, hinted)
    sync_api.expect(page.locator("#swatches button.thumbnail-item")).to_have_count(0)
    assert not page.locator("#hints").is_enabled()
    page.locator("#gallery button.thumbnail-item").nth(0).click()
    again = wait_for_another(page, other)
    assert np.array_equal(fetch(again), fetch(hinted))


def wait_for_colors(page, number: int) -> None:
    """Wait until the picture of hints has this many blocks, and has them a second later, too."""
    end, seen = time.monotonic() + PATIENCE / 1000, []
    while seen[-2:] != [number, number]:
        assert time.monotonic() < end, f"the picture of hints had {seen} blocks, not {number}"
        page.wait_for_timeout(1000)
        with page.expect_download() as download:
            page.locator("#hints").click()
        picture = np.asarray(Image.open(download.value.path()))
        seen.append(len(np.unique(picture[picture[..., 3] > 0], axis=0)))


@in_browser
def test_clicks_in_quick_succession_all_count(open_page, photos):
    page, _ = open_to_say(open_page, photos[0])
    swatches = page.locator("#swatches button.thumbnail-item")
    for number, x in enumerate((0.2, 0.7), 1):
        click_at(page, x, 0.5)
        page.wait_for_timeout(500)  # its swatches are all there
        swatches.first.click()
        swatches.last.click()
        wait_for_colors(page, number)  # of two colors for each place
    for _ in range(2):
        page.locator("#undo").click()
    wait_for_colors(page, 1)


@in_browser
def test_what_was_said_stays_when_files_come_and_go(open_page, photos):
    page, shown = open_to_say(open_page, photos[0])
    click_at(page, 0.3, 0.7)
    page.locator("#swatches button.thumbnail-item").last.click()
    hinted = fetch(wait_for_another(page, shown))
    upload(page, photos[1])
    thumbnails = page.locator("#gallery button.thumbnail-item")
    sync_api.expect(thumbnails).to_have_count(2, timeout=PATIENCE)
    wait_for_colors(page, 1)
    assert np.array_equal(fetch(after(page)), hinted)
    thumbnails.nth(1).click()
    sync_api.expect(page.locator("#hints")).to_be_disabled(timeout=PATIENCE)


@in_browser
def test_a_click_shows_what_the_network_thinks_of_the_place(open_page, photos):
    page, _ = open_to_say(open_page, photos[0])
    click_at(page, 0.5, 0.5)
    page.get_by_text("What the network thinks of the place").click()
    page.locator("#distribution img").wait_for()
    page.get_by_role("tab", name="Uncertainty").click()
    page.locator("#uncertainty img").wait_for()


@in_browser
def test_two_visitors_do_not_see_each_other(open_page, photos):
    pages = open_page(), open_page()
    for page, photo in zip(pages, photos, strict=False):
        upload(page, photo)
    sizes = []
    for page in pages:
        after(page)
        sizes.append(natural_size(page))
    assert sizes == [[512, 512], [300, 200]]


@in_browser
def test_a_file_that_is_too_large_is_refused(open_page, tmp_path):
    page = open_page()
    (tmp_path / "large.jpg").write_bytes(b"\xff" * 51_000_000)
    upload(page, tmp_path / "large.jpg")
    sync_api.expect(page.get_by_text("large.jpg: 51 MB; at most 50")).to_be_visible(
        timeout=PATIENCE
    )


@in_browser
def test_other_machines_are_not_let_in(address):
    port = int(address.rstrip("/").rpartition(":")[2])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for other in others - {"127.0.0.1"}:
        with socket.socket() as tried:
            assert tried.connect_ex((other, port)) != 0


@in_browser
def test_a_server_that_ends_under_way_is_told(make_checkpoint, tmp_path, open_page, photos):
    process, port = serve(make_checkpoint(tmp_path / "best.pt"))
    page = open_page(at=f"http://127.0.0.1:{port}/")
    upload(page, photos[0])
    after(page)
    process.terminate()
    assert process.wait(30) == 130
    assert "Traceback" not in process.stderr.read()
    move(page, "temperature", 1.2)
    sync_api.expect(page.get_by_text("Connection").first).to_be_visible(timeout=PATIENCE)


@in_browser
def test_a_port_that_is_taken_is_one_sentence(address, make_checkpoint, tmp_path):
    port = address.rstrip("/").rpartition(":")[2]
    checkpoint = make_checkpoint(tmp_path / "best.pt")
    done = run_script("app.py", "--port", port, "--checkpoint", checkpoint)
    assert done.returncode == 1
    taken = f"127.0.0.1:{port}: address already in use; choose another --port or --host\n"
    assert done.stderr == f"app.py: error: {taken}"
    assert done.stderr.count("\n") == 1


def test_the_page_says_what_the_network_has_learned_from(tmp_path):
    info = {"dataset": "mine", "size": 64}
    card = tmp_path / "mine.md"
    contents = [None, b"", b"\xc9\xff no heading", b"---\na: b\n---\n\n# Boats, 64 px\n\n# Data"]
    headings = ["The photographs of mine, 64 px"] * 3 + ["Boats, 64 px"]
    for content, heading in zip(contents, headings, strict=True):
        if content is not None:
            card.write_bytes(content)
        said = describe({**info, "card": app.read_heading(card)})
        assert said.startswith(f"The network has learned from these: {heading}. ")


def test_without_gradio_a_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    assert exit_status(app.main) == 2
    assert "pip install -r requirements-app.txt" in capsys.readouterr().err
