"""Reads a site as readers do, in a headless Chromium without a network, and notes what is amiss."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import unquote, urldefrag

import axe_playwright_python
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    TimeoutError,
    sync_playwright,
)

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
# Axe's, by their tags; in the dark those that look at colours, as nothing else is different there.
RULES = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "dark": ["color-contrast", "link-in-text-block"],
}
# `page.js` looks at the drawings, and a table's later cells of nothing but text are as its first.
LEFT_TO_OTHERS = [".chart svg > *", "tbody tr:nth-child(n+4):not(:has(td *))"]
_SCRIPTS = [
    (Path(axe_playwright_python.__file__).with_name("axe.min.js")).read_text(encoding="utf-8"),
    Path(__file__).with_name("page.js").read_text(encoding="utf-8"),
]
_DRAWN_WITHIN = 20_000  # milliseconds


Look = Callable[[Page], Iterable[tuple[str, str]]]  # what finds faults: rules and elements


class Fault(NamedTuple):
    """What is amiss: on which page, by which rule, with which element or address."""

    page: str
    rule: str
    element: str


@contextmanager
def chromium() -> Iterator[Browser | None]:
    """The machine's Chromium; nothing where it has none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        yield None
        return
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", offline]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of a site, with what `python -m http.server` serves it by."""
    handler = partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Crawl:
    """Reads every page that links lead to from a site's first one."""

    def __init__(self, browser: Browser, site: Path, address: str):
        self.site, self.address = site, address
        self.faults: list[Fault] = []
        self.anchors: dict[str, set[str]] = {}  # by page
        self.links: list[tuple[str, str]] = []  # from a page, to an address
        self._browser = browser

    def read(self, look: Look = lambda _: ()) -> list[Fault]:
        """What is amiss on all pages; `look` adds what it finds on each."""
        waiting = ["index.html"]
        with self._browser.new_context(reduced_motion="reduce") as context:
            while waiting:
                page, name = context.new_page(), waiting.pop(0)
                self._visit(page, name, look)
                page.close()
                waiting += [new for new in self._pages() if new not in {*self.anchors, *waiting}]
        return self.faults + self._broken_links()

    def outward(self) -> set[str]:
        """The links that lead out of the site, which nothing here follows."""
        return {link for _, link in self.links if not link.startswith(self.address)}

    def _visit(self, page: Page, name: str, look: Look) -> None:
        def note(rule: str, element: str) -> None:
            self.faults.append(Fault(name, rule, element))

        self._listen(page, note)
        page.goto(self.address + name)
        try:
            settle(page)
        except TimeoutError:
            note("a chart is not drawn", page.url)
        self.anchors[name] = set(page.evaluate("look.anchors()"))
        self.links += [(name, link) for link in page.evaluate("look.links()")]
        for rule, element in look(page):
            note(rule, element)

    def _listen(self, page: Page, note: Callable[[str, str], None]) -> None:
        def requested(request: Request) -> None:
            if not request.url.startswith((self.address, "data:", "blob:")):
                note("request to another host", request.url)

        def said(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                note(f"console {message.type}", f"{message.text} {message.location['url']}")

        page.on("request", requested)
        page.on("requestfailed", lambda request: note("failed request", request.url))
        page.on("pageerror", lambda error: note("script error", str(error)))
        page.on("console", said)

    def _inside(self) -> Iterator[tuple[str, str, str]]:
        """From a page, to a file of the site, to an anchor in it."""
        for origin, link in self.links:
            if link.startswith(self.address):
                path, anchor = urldefrag(unquote(link.removeprefix(self.address)))
                folder = not path or path.endswith("/")
                yield origin, path + "index.html" * folder, anchor

    def _pages(self) -> list[str]:
        files = dict.fromkeys(path for _, path, _ in self._inside())
        return [path for path in files if path.endswith(".html") and (self.site / path).is_file()]

    def _broken_links(self) -> list[Fault]:
        return [
            Fault(origin, "broken link", f"{path}#{anchor}")
            for origin, path, anchor in dict.fromkeys(self._inside())
            if not (self.site / path).is_file()
            or (anchor and anchor not in self.anchors.get(path, ()))
        ]


def settle(page: Page) -> None:
    """Waits until a page that sends elsewhere has, adds what looks at pages, waits for charts."""
    page.wait_for_selector("meta[http-equiv=refresh]", state="detached")
    page.wait_for_load_state("load")
    for script in _SCRIPTS:
        page.evaluate(script)
    page.wait_for_function("look.isDrawn()", timeout=_DRAWN_WITHIN)


def obstacles(page: Page) -> Iterator[tuple[str, str]]:
    """What keeps readers from a page, on a screen and on a phone, in the light and in the dark."""
    views: dict[tuple[str, str], list[str]] = {}
    for width, scheme in product(WIDTHS, SCHEMES):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        for obstacle in _obstacles(page, scheme):
            views.setdefault(obstacle, []).append(f"{width} {scheme}")
    for (rule, element), where in views.items():
        yield f"{rule} ({', '.join(where)})", element


def _obstacles(page: Page, scheme: str) -> Iterator[tuple[str, str]]:
    try:
        page.wait_for_function(f"look.isDark() === {str(scheme == 'dark').lower()}", timeout=3000)
    except TimeoutError:
        yield "stays in the other scheme", "body"
    for rule in ("unnamed", "overflowing", "faint"):
        yield from ((rule, element) for element in page.evaluate(f"look.{rule}()"))
    options = {"runOnly": RULES[scheme], "preload": False, "resultTypes": ["violations"]}
    found = page.evaluate(
        "([where, options]) => axe.run(where, options)", [{"exclude": LEFT_TO_OTHERS}, options]
    )
    for violation in found["violations"]:
        for node in violation["nodes"]:
            yield f"axe {violation['id']}", f"{node['target']} {node['html'][:100]}"
