"""The functions that the page's parts call: each changes what a visitor has, or gives an answer.

Gradio is slow to import, and optional: each function imports it itself.
"""

import functools
import html
import re
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from PIL import Image

from coloring.hints import Color
from page.answers import Page, explain_failures, make_answer
from page.turns import Replaced, Turns
from page.visitors import Visitor, Visitors
from photo_files import PhotoError

AT_ONCE = 2  # visitors whose photographs are colored at the same time
MOST_WAITING = 30  # wishes of all visitors; Gradio itself takes 40 at a time
SWATCH = 64, 64  # pixels


def parse_color(text: str | None) -> Color:
    """Return the color that a color picker gives, as "#a0522d" or "rgba(160.2, 82, 45, 1)".

    Raise ValueError if it is none.
    """
    if re.fullmatch("#[0-9a-fA-F]{6}", text or ""):
        return tuple(bytes.fromhex(text[1:]))
    levels = [float(level) for level in re.findall(r"\d+\.?\d*", text or "")[:3]]
    if len(levels) < 3 or max(levels) > 255:
        raise ValueError(f"{text}: no color; choose one with the color picker")
    return tuple(map(round, levels))


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a thread; when the page ends, it is left alone."""
    from anyio import to_thread

    return await to_thread.run_sync(functools.partial(function, *args), abandon_on_cancel=True)


def answer(method: Callable[..., Awaitable[Any]], clicked: bool = False) -> Callable[..., Any]:
    """Return a method of `Handlers` as Gradio calls it; `clicked` are those that take a place.

    A failure becomes a sentence on the page; a wish that a newer one replaces changes nothing.
    """
    import gradio as gr

    async def call(request: gr.Request, *inputs: Any) -> Any:
        try:
            with explain_failures(functools.partial(gr.Error, print_exception=False)):
                return await method(request.session_hash, *inputs)
        except Replaced:
            return gr.skip()

    async def call_with_place(request: gr.Request, event: gr.SelectData, *inputs: Any) -> Any:
        return await call(request, event.index, *inputs)

    return call_with_place if clicked else call


# ---- what visitors do --------------------------------------------------------------------------
class Handlers:
    """The functions that the page's parts call; `Page` does the work, in turn.

    What a visitor has lies in `Visitors`; a request brings a session, and what was just done.
    """

    def __init__(self, page: Page, visitors: Visitors):
        self.page, self.visitors = page, visitors
        self.turns = Turns(AT_ONCE, MOST_WAITING)

    async def work(self, session: str, kind: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function when it is a visitor's turn, in a thread of its own."""
        async with self.turns.take(session, kind):
            self.visitors.check_room()
            return await in_thread(function, *args)

    # ---- photographs --------------------------------------------------------------------------
    async def receive(self, session: str, files: list[dict[str, Any]]) -> tuple:
        """Predict the photographs that a visitor's browser lists, but for those that are."""
        import gradio as gr

        visitor = self.visitors.visitor(session)
        number = self.visitors.expect_photos(visitor, [Path(file["path"]) for file in files])
        for path in list(visitor.paths):
            if number != visitor.lists:
                raise Replaced
            async with self.turns.take(session, "receive"):
                if path in visitor.paths and path not in visitor.photos:
                    await self.predict(visitor, path)
        if number != visitor.lists:
            raise Replaced
        visitor.photos = {path: visitor.photos[path] for path in visitor.paths}  # in this order
        photos, several = visitor.photos.values(), len(visitor.photos) > 1
        gallery = gr.Gallery([str(photo.before) for photo in photos], visible=several)
        listed = [str(path) for path in visitor.paths] or None
        shown = gr.Group(visible=bool(photos)), gr.Button(visible=several)
        faults, visitor.faults = "".join(f"<li>{html.escape(f)}</li>" for f in visitor.faults), []
        return listed, gr.HTML(f"<ul>{faults}</ul>", visible=bool(faults)), gallery, *shown

    async def predict(self, visitor: Visitor, path: Path) -> None:
        """Predict an uploaded photograph; note why, if it is refused."""
        try:
            with explain_failures(PhotoError):
                self.visitors.check_room()
            folder = visitor.folder / uuid.uuid4().hex
            photo = await in_thread(self.page.prepare, path, folder)
        except PhotoError as error:
            visitor.faults.append(f"{path.name}: {error}")
            self.visitors.drop([path])
            visitor.paths = [other for other in visitor.paths if other != path]
            return
        if path in visitor.paths:
            visitor.photos[path] = photo
        else:  # it was taken away meanwhile
            photo.delete()

    async def choose(self, session: str, index: int) -> tuple:
        """Show another photograph."""
        self.visitors.visitor(session).choose(index)
        return [], None

    async def show_any(self, session: str, *settings: float) -> Any:
        """Color the photograph that is shown, if there is one."""
        import gradio as gr

        found = self.visitors.visitor(session).photos
        return await self.show(session, *settings) if found else gr.skip()

    async def show(self, session: str, *settings: float) -> tuple:
        """Color the photograph that is shown, with settings of `Page.color`."""
        import gradio as gr

        visitor = self.visitors.visitor(session)
        photo, said = visitor.photo, list(visitor.photo.said)
        made = await self.work(
            session, "show", self.page.show, photo, said, visitor.place, *settings
        )
        after, marked = map(str, made)
        hints = gr.Button(interactive=bool(said))
        archive = gr.File(visible=False)  # what was made of an earlier answer
        return (str(photo.before), after), marked, str(photo.uncertainty), hints, archive

    # ---- files to download --------------------------------------------------------------------
    async def write(
        self, session: str, kind: str, function: Callable[..., Path], *settings: float
    ) -> str:
        """Write a file of the photograph that is shown by a method of `Page`; return its path."""
        photo = self.visitors.visitor(session).photo
        return str(await self.work(session, kind, function, photo, list(photo.said), *settings))

    async def download(self, session: str, *settings: float) -> str:
        """Write the photograph that is shown, colored at its own size."""
        return await self.write(session, "download", self.page.write, *settings)

    async def compare(self, session: str, *settings: float) -> Any:
        """Write the photograph that is shown beside its lightness."""
        import gradio as gr

        path = await self.write(session, "compare", self.page.compare, *settings)
        return gr.File(path, label="Gray and colored side by side", visible=True)

    async def write_hints(self, session: str) -> str:
        """Write the hints of the photograph that is shown."""
        return await self.write(session, "hints", self.page.write_hints)

    async def write_all(self, session: str, *settings: float) -> Any:
        """Color all photographs of a visitor into a zip, each in a turn of its own."""
        import gradio as gr

        visitor = self.visitors.visitor(session)
        path = make_answer(visitor.photo.folder.parent, "all") / "colored.zip"
        for number, photo in enumerate(list(visitor.photos.values()), start=1):
            add = self.page.add_to_zip, path, number, photo, list(photo.said), *settings
            await self.work(session, "zip", *add)
        return gr.File(str(path), label="All of them", visible=True)

    # ---- colors that a visitor says -----------------------------------------------------------
    async def click(self, session: str, place: list[float], vividness: float) -> tuple:
        """Choose a place, and offer its likeliest colors."""
        import gradio as gr

        visitor = self.visitors.visitor(session)
        photo, said = visitor.photo, list(visitor.photo.said)
        visitor.place = block = self.page.find_block(photo, place)
        offered, marked = await self.work(
            session, "click", self.page.offer_and_mark, photo, said, block, vividness
        )
        if (photo, block) == (visitor.photo, visitor.place):
            visitor.offered = [color for color, _ in offered]
        swatches = [(Image.new("RGB", SWATCH, color), f"{p:.0%}") for color, p in offered]
        first = f"#{bytes(offered[0][0]).hex()}"
        return gr.Gallery(swatches, selected_index=None), first, str(marked)

    async def explain(self, session: str) -> str | None:
        """Draw what the network thinks of the chosen place."""
        visitor = self.visitors.visitor(session)
        if visitor.place is None:
            return None
        explained = self.page.explain, visitor.photo, visitor.place
        return str(await self.work(session, "explain", *explained))

    async def take(self, session: str, index: int, *settings: float) -> tuple:
        """Say one of the colors that were offered for the chosen place."""
        visitor = self.visitors.visitor(session)
        if index >= len(visitor.offered):
            raise ValueError("click on a place of the photograph first")
        visitor.say(visitor.offered[index])
        return await self.show(session, *settings)

    async def take_other(self, session: str, color: str, *settings: float) -> tuple:
        """Say any other color of the chosen place."""
        self.visitors.visitor(session).say(parse_color(color))
        return await self.show(session, *settings)

    async def undo(self, session: str, *settings: float) -> tuple:
        """Take the last color back."""
        del self.visitors.visitor(session).photo.said[-1:]
        return await self.show(session, *settings)

    async def clear(self, session: str, *settings: float) -> tuple:
        """Take all colors back."""
        self.visitors.visitor(session).photo.said.clear()
        return await self.show(session, *settings)
