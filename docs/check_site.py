"""Check the built site: links and images in its HTML, then every page in a headless browser.

    python docs/check_site.py docs/_build/html --screenshots docs/_build/screenshots

The first part needs nothing but Python: every internal link leads to a page and, if it names one,
to an anchor there; nothing is loaded from another host; every page of the gallery shows a figure;
no page tells where it was built. The second part opens the pages in Chromium, without a network: no
message on the console, no image that did not load, nothing wider than the window on a phone, no
code cut off at the width of a laptop, and the search finds the estimators. It needs selenium,
`chromium` and `chromedriver`; without them it says that it was skipped.

With `--formulas PICTURE` every formula of the site is drawn on one sheet, to be looked at.
"""

import argparse
import base64
import contextlib
import functools
import http.server
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SEARCHED = "NadarayaWatsonRegressor"
PHOTOGRAPHED = {
    "start": "index.html",
    "example": "gallery/plot_quickstart.html",
    "api": "generated/api/sknw.NadarayaWatsonRegressor.html",
    "guide": "user_guide/estimator.html",
}
WIDTHS = {1280: 900, 390: 844}
_LAPTOP = 1280
_LOADED = {
    ("img", "src"),
    ("script", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("source", "src"),
}
# Innermost elements of the text that stick out of the window, and out of nothing that scrolls.
_TOO_WIDE = """
const width = document.documentElement.clientWidth;
const scrolls = e => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
    && !e.matches("html, body, .bd-main, .bd-content, .bd-article-container")
    || scrolls(e.parentElement));
const wide = [...document.querySelectorAll("article *")]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e));
return wide.filter(e => !wide.some(inner => inner !== e && e.contains(inner)))
    .map(e => e.tagName.toLowerCase() + " " + e.textContent.trim().slice(0, 40)).slice(0, 5);
"""
# Code and outputs that are read by scrolling sideways.
_CUT_OFF = """
return [...document.querySelectorAll("article pre")]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.textContent.split("\\n").reduce((a, b) => b.length > a.length ? b : a));
"""


@dataclass
class Page(HTMLParser):
    """The links, the anchors and the images of one page."""

    path: Path
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Collect what an element refers to."""
        attributes = dict(attrs)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        for name, value in attributes.items():
            if (tag, name) == ("a", "href") and value:
                self.links.append(value)
            elif (tag, name) in _LOADED and value and attributes.get("rel") not in ("next", "prev"):
                self.loaded.append(value)
        if tag == "img" and attributes.get("src"):
            self.images.append(attributes["src"])

    def has(self, anchor: str) -> bool:
        """Whether a link may end in this anchor; the empty one is the page itself."""
        return not anchor or anchor in self.anchors


def pages_of(site: Path) -> dict[Path, Page]:
    """Return the pages of a built site by their path."""
    return {
        path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts
    }


def broken_links(pages: dict[Path, Page], site: Path) -> tuple[list[str], int]:
    """Return what is wrong with internal links and loaded files, and how many were looked at."""
    problems, n_links = [], 0
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    problems.append(f"{path.relative_to(site)} loads {link} from elsewhere")
                continue
            n_links += 1
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.exists():
                problems.append(f"{path.relative_to(site)} links to {link}: no such file")
            elif target in pages and not pages[target].has(unquote(parts.fragment)):
                problems.append(f"{path.relative_to(site)} links to {link}: no such anchor")
    return problems, n_links


def gallery_without_figures(pages: dict[Path, Page], site: Path) -> list[str]:
    """Return the pages of the gallery that show no figure of their own."""
    examples = [path for path in pages if path.match("gallery/plot_*.html")]
    problems = [] if examples else ["the gallery has no page"]
    for path in examples:
        if not any(f"sphx_glr_{path.stem}_0" in image for image in pages[path].images):
            problems.append(f"{path.relative_to(site)} shows no figure")
    return problems


def places_of_the_build(pages: dict[Path, Page], site: Path) -> list[str]:
    """Return the pages that show a path of the machine that built them."""
    places = [str(Path(__file__).resolve().parents[1]), "/site-packages/"]
    return [
        f"{path.relative_to(site)} shows {place}"
        for path in pages
        for place in places
        if place in path.read_text(encoding="utf-8")
    ]


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve the site on this machine; yield its address."""
    handler = functools.partial(_QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        """Keep requests off the console."""


@contextlib.contextmanager
def browser() -> Iterator:
    """Yield a headless Chromium that reaches this machine only."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # for root, as in containers
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver, width: int, height: int) -> None:
    """Make the viewport so large; windows cannot be as narrow as a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def page_problems(driver, address: str) -> list[str]:
    """Open a page; return messages, missing images and what does not fit at either width."""
    driver.get(address)
    missing = driver.execute_script(
        "for (const i of document.images) i.loading = 'eager';"
        "const source = i => i.decode().then(() => null, () => i.src);"
        "return Promise.all([...document.images].map(source)).then(all => all.filter(Boolean))"
    )
    problems = [f"image {source} does not load" for source in missing]
    for width, height in WIDTHS.items():
        resize(driver, width, height)
        problems += [f"too wide at {width}: {text}" for text in driver.execute_script(_TOO_WIDE)]
        if width == _LAPTOP:
            problems += [f"code cut off: {line}" for line in driver.execute_script(_CUT_OFF)]
    problems += [
        entry["message"] for entry in driver.get_log("browser") if entry["level"] != "INFO"
    ]
    return [f"{address}: {problem}" for problem in problems]


def search_problems(driver, root: str) -> list[str]:
    """Search for the estimator as a reader does; return what is wrong."""
    from selenium.webdriver.common.by import By

    driver.get(f"{root}/search.html?q={SEARCHED}")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = [
            a.get_attribute("href") for a in driver.find_elements(By.CSS_SELECTOR, ".search a")
        ]
        if any(f"sknw.{SEARCHED}.html" in (address or "") for address in found):
            return []
        time.sleep(0.2)
    return [f"the search for {SEARCHED} does not find its page, but {found}"]


def photograph(driver, root: str, folder: Path) -> None:
    """Take pictures of some pages, in both themes and at both widths."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        driver.get(root)
        driver.execute_script(f"localStorage.mode = localStorage.theme = '{theme}'")
        for width, height in WIDTHS.items():
            resize(driver, width, height)
            for name, page in PHOTOGRAPHED.items():
                driver.get(f"{root}/{page}")
                time.sleep(0.5)
                driver.save_screenshot(str(folder / f"{name}-{width}-{theme}.png"))


def formulas_of(pages: dict[Path, Page]) -> list[str]:
    """Return every formula of the site once, as it stands in the pages."""
    found = {}
    for path in pages:
        formulas = re.findall(r"<math\b.*?</math>", path.read_text(encoding="utf-8"), re.DOTALL)
        found |= dict.fromkeys(formulas)
    return list(found)


def draw_formulas(formulas: list[str], site: Path, picture: Path) -> None:
    """Draw all formulae in one picture, with the fonts of the site."""
    style = (site / "_static" / "site.css").read_text(encoding="utf-8")
    sheet = picture.with_suffix(".html")
    cells = "".join(f"<p>{formula}</p>" for formula in formulas)
    sheet.write_text(
        f"<meta charset='utf-8'><style>{style} body {{ columns: 2; }}</style>{cells}",
        encoding="utf-8",
    )
    with browser() as driver:
        driver.get(sheet.resolve().as_uri())
        resize(driver, *next(iter(WIDTHS.items())))
        whole = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    picture.write_bytes(base64.b64decode(whole["data"]))


def browser_problems(site: Path, pages: dict[Path, Page], screenshots: Path | None) -> list[str]:
    """Open every page; return what is wrong."""
    with served(site) as root, browser() as driver:
        problems = []
        for path in pages:
            resize(driver, *next(iter(WIDTHS.items())))
            problems += page_problems(driver, f"{root}/{path.relative_to(site).as_posix()}")
        problems += search_problems(driver, root)
        if screenshots is not None:
            photograph(driver, root, screenshots)
        return problems


def missing_for_browser() -> list[str]:
    """Return what the second part needs and this machine lacks."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    try:
        import selenium  # noqa: F401
    except ImportError:
        missing.append("selenium")
    return missing


def main() -> int:
    """Run both parts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of some pages")
    parser.add_argument("--formulas", type=Path, help="file for a picture of every formula")
    arguments = parser.parse_args()
    site = arguments.site.resolve()
    pages = pages_of(site)
    problems, n_links = broken_links(pages, site)
    n_broken = len(problems)
    problems += gallery_without_figures(pages, site) + places_of_the_build(pages, site)
    print(f"{len(pages)} pages, {n_links} internal links and files, {n_broken} broken")
    missing = missing_for_browser()
    if missing:
        print(f"SKIPPED: the check in a browser (not installed: {', '.join(missing)})")
    else:
        found = browser_problems(site, pages, arguments.screenshots)
        print(f"{len(pages)} pages opened in a browser, {len(found)} problems")
        problems += found
        if arguments.formulas is not None:
            draw_formulas(formulas_of(pages), site, arguments.formulas)
    print("\n".join(problems))
    return 1 if problems or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
