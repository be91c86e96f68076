"""The addresses behind the page. Each asks for the token of a labeller, and answers JSON.

A page is this labeller's by its link, `/#NAME:TOKEN`: what stands behind the # is sent to no server
and stands in no log. Texts reach the page as JSON and are put into it as text, and its policy lets
no script run but its own: what is written in an answer is shown, never executed.
"""

import hmac
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel, Field

from orchestrator.stages.asking.items import Item
from orchestrator.verbs.label.store import (
    AlreadyJudged,
    Judgement,
    LabelError,
    LabelsAway,
    Store,
)

PAGE = Path(__file__).with_name("page")
FILES = {"": "index.html", "page.js": "page.js", "page.css": "page.css"}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
STATUS = {AlreadyJudged: 409, LabelsAway: 503}
HELD_S = 600.0  # for so long an item that one labeller looks at is not given to another
VALUES: dict[str, float | None] = {
    **{"left": 1.0, "right": 0.0, "neither": 0.5, "pass": None},
    **{str(rating): float(rating) for rating in range(1, 6)},
}
"""What a verdict is worth, of a comparison whose first answer stands on the left."""


class Told(BaseModel):
    """What a page sends when its labeller has answered."""

    id: Annotated[str, Field(min_length=8, max_length=64)]
    item: Annotated[str, Field(min_length=1, max_length=32)]
    verdict: str
    note: Annotated[str, Field(max_length=10_000)] = ""
    seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class Desk:
    """Who looks at what."""

    def __init__(self, store: Store, overlap: int, clock: Callable[[], float] = time.monotonic):
        """Hand out the items of a store, each until `overlap` labellers have judged it."""
        self.store, self.overlap, self._clock = store, overlap, clock
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def next(self, labeller: str) -> dict[str, Any]:
        """The labeller's next item, and how far the work is."""
        with self._lock:
            now = self._clock()
            self._held = {
                item: held
                for item, held in self._held.items()
                if held[0] != labeller and now - held[1] < HELD_S
            }
            taken = self._held if self.overlap == 1 else ()
            item = self.store.next(labeller, self.overlap, taken)
            if item is not None:
                self._held[item.id] = labeller, now
        return self.told(labeller, item)

    def undo(self, labeller: str) -> dict[str, Any]:
        """The item of the labeller's last judgement, which counts no more."""
        item = self.store.undo(labeller)
        if item is None:
            raise HTTPException(404, "there is nothing to undo")
        return self.told(labeller, item)

    def told(self, labeller: str, item: Item | None) -> dict[str, Any]:
        """What the page is told."""
        done, of = self.store.progress(labeller)
        shown = None
        if item is not None:
            texts = [item.first] if item.second is None else [item.first, item.second]
            if not first_left(labeller, item.id):
                texts.reverse()
            shown = {"id": item.id, "prompt": item.prompt, "texts": texts}
        return {"item": shown, "done": done, "of": of, "labeller": labeller}

    def judge(self, labeller: str, told: Told) -> None:
        """Keep what a labeller said."""
        if told.verdict not in VALUES:
            raise LabelError(f"{told.verdict[:20]!r} is no verdict; try {', '.join(VALUES)}")
        value, straight = VALUES[told.verdict], first_left(labeller, told.item)
        if told.verdict in ("left", "right"):
            value = float((told.verdict == "left") == straight)
        self.store.judge(
            Judgement(told.id, told.item, labeller, value, straight, told.note, told.seconds)
        )


def first_left(labeller: str, item: str) -> bool:
    """Whether the first answer of an item stands on the left: by a coin, always the same."""
    return sha256(f"{labeller} {item}".encode()).digest()[0] % 2 == 0


def application(desk: Desk) -> FastAPI:
    """The addresses."""
    app = FastAPI(openapi_url=None)

    def who(authorization: Annotated[str, Header()] = "") -> str:
        name, _, token = authorization.removeprefix("Bearer ").rpartition(":")
        if not name or not hmac.compare_digest(token.encode(), desk.store.token(name).encode()):
            raise HTTPException(401, "this link is none of this page's: ask for a new one")
        return name

    labeller = Depends(who)

    @app.exception_handler(LabelError)
    def refused(request: Request, error: LabelError) -> Response:
        del request
        return Response(str(error), STATUS.get(type(error), 422), HEADERS, "text/plain")

    @app.get("/")
    @app.get("/{name}")
    def page(name: str = "") -> Response:
        if name not in FILES:
            raise HTTPException(404)
        file = PAGE / FILES[name]
        return Response(file.read_bytes(), 200, HEADERS, TYPES[file.suffix])

    @app.get("/api/next")
    def following(name: Annotated[str, labeller]) -> dict[str, Any]:
        return desk.next(name)

    @app.post("/api/judgements")
    def judged(told: Told, name: Annotated[str, labeller]) -> dict[str, Any]:
        desk.judge(name, told)
        return {"kept": told.id}

    @app.post("/api/undo")
    def undone(name: Annotated[str, labeller]) -> dict[str, Any]:
        return desk.undo(name)

    return app


def serve(desk: Desk, host: str, port: int) -> None:
    """Answer until Ctrl-C."""
    uvicorn.run(application(desk), host=host, port=port, log_level="warning")
