"""A real browser before a real server, over a small run of drawn animals."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

HERE = Path(__file__).parent
LOCAL = ["127.0.0.1", "localhost", "::1"]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)
WAIT = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let these tests reach this machine, and nothing else."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.allow_hosts(LOCAL))


def new_browser() -> Chrome:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    """One browser for all tests; skips where there is none."""
    found = new_browser()
    yield found
    found.quit()


class Server:
    """`hybrid serve` in a thread, on a free port."""

    def __init__(self, run: Path, port: int = 0, **settings: Any) -> None:
        import uvicorn

        from hybrid import Run
        from hybrid.serve.app import create_app
        from hybrid.serve.model import Asked
        from hybrid.serve.service import Service
        from hybrid.serve.settings import ServeSettings

        self.run = run
        self.listening = socket.socket()
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listening.bind(("127.0.0.1", port))
        self.port = self.listening.getsockname()[1]
        self.service = Service(lambda: Run(run, wait=False), Asked(), ServeSettings(port=self.port, **settings))
        config = uvicorn.Config(create_app(self.service), log_level="warning", ws="none", timeout_graceful_shutdown=5)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.listening])), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None) -> Any:
        """What the server answers to GET `path`, or to POST with `body` as JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=WAIT) as answer:
            return json.load(answer)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(WAIT)
        self.listening.close()


class Page:
    """The page in the browser, as a person uses it: every look waits until there is something to see."""

    def __init__(self, browser: Chrome, server: Server) -> None:
        self.browser, self.server = browser, server

    def open(self, view: str = "review") -> Page:
        self.browser.get("about:blank")
        self.browser.get(f"{self.server.url}/#/{view}")
        return self

    def until(self, condition: Callable[[], Any], says: str = "") -> Any:
        """Wait until `condition` gives something true; elements that a redraw took away don't count."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.browser, WAIT, 0.02, [StaleElementReferenceException])
        return wait.until(lambda _: condition(), says)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements("css selector", selector)

    def see(self, selector: str, text: str = "") -> WebElement:
        """The first element of a selector that is to be seen and holds a text."""

        def shown() -> WebElement | None:
            return next((e for e in self.all(selector) if e.is_displayed() and text in e.text), None)

        found: WebElement = self.until(shown, f"{selector} {text!r}")
        return found

    def gone(self, selector: str) -> None:
        self.until(lambda: not any(e.is_displayed() for e in self.all(selector)), f"{selector} is gone")

    def text(self, selector: str, text: str = "") -> str:
        """What the first element to be seen that holds a text says as a whole."""
        (found,) = self.until(lambda: (self.see(selector, text).text,))
        return str(found)

    def attribute(self, selector: str, name: str) -> str | None:
        (found,) = self.until(lambda: (self.see(selector).get_attribute(name),))
        return None if found is None else str(found)

    def texts(self, selector: str) -> list[str]:
        """Of all elements at one moment, whatever redraws the page."""
        found: list[str] = self.js("return [...document.querySelectorAll(a[0])].map((e) => e.innerText)", selector)
        return found

    def attributes(self, selector: str, name: str) -> set[str]:
        """Of all elements at one moment."""
        script = "return [...document.querySelectorAll(a[0])].map((e) => e.getAttribute(a[1]))"
        return set(self.js(script, selector, name))

    def click(self, selector: str, text: str = "") -> None:
        """Click as soon as it can be clicked."""
        from selenium.common.exceptions import ElementClickInterceptedException, ElementNotInteractableException

        def clicked() -> bool:
            try:
                self.see(selector, text).click()
            except (ElementClickInterceptedException, ElementNotInteractableException):
                return False
            return True

        self.until(clicked, f"click {selector} {text!r}")

    def press(self, *keys: str) -> None:
        """Press keys, whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser, duration=0).send_keys(*keys).perform()

    def js(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page."""
        done = "arguments[arguments.length - 1]"
        wrapped = f"(async (...a) => {{{script}}})(...arguments).then({done}, (e) => {done}({{error: String(e)}}))"
        return self.browser.execute_async_script(wrapped, *arguments)

    def stop_clock(self) -> None:
        """Let nothing of this page happen because time has passed: a slow machine sees what a fast one sees."""
        never = "(f, ms = 0, ...a) => now(f, ms < 500 ? ms : 2 ** 30, ...a)"
        self.js(f"const now = window.setTimeout; window.setTimeout = {never};")

    def errors(self) -> list[str]:
        """What the browser's console complains about."""
        return [line["message"] for line in self.browser.get_log("browser") if line["level"] == "SEVERE"]

    def requested(self) -> set[str]:
        """Every address that was asked for since the last call."""
        events = [json.loads(line["message"])["message"] for line in self.browser.get_log("performance")]
        return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, hybrid: Callable[..., Any]) -> Path:
    """A run with a linear head, to copy: six seen classes and 40 photos without a label; `photos` lies beside it."""
    from hybrid.demo.animals import demo_classes
    from hybrid.demo.painting import draw

    root = tmp_path_factory.mktemp("served")
    demo = demo_classes()
    seen, unseen = demo.seen[:6], demo.unseen[:2]
    counts = [("train", a.name, a, 6) for a in seen] + [("val", a.name, a, 5) for a in seen]
    for split, label, animal, count in [*counts, *(("unlabeled", "", a, 5) for a in (*seen, *unseen))]:
        folder = root / "photos" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng((len(split), i, *animal.name.encode()))
            draw(animal, rng).save(folder / f"{animal.name.replace(' ', '-')}-{i}.jpg", quality=90)
    (root / "names.txt").write_text("\n".join(a.name for a in (*seen, *unseen)))
    run, photos = root / "run", root / "photos"
    hybrid("build-index", photos / "train", photos / "val", photos / "unlabeled", "--encoder", "tiny", "--run", run)
    hybrid("train-head", "--head", "linear", "--run", run)
    return run


@pytest.fixture
def serve(browser: Chrome) -> Iterator[Callable[..., Server]]:
    """Start a server: ``serve(run, read_only=True)``."""
    servers: list[Server] = []

    def start(run: Path, **settings: Any) -> Server:
        servers.append(Server(run, **settings))
        return servers[-1]

    yield start
    browser.get("about:blank")
    for server in servers:
        server.stop()


@pytest.fixture
def page(browser: Chrome, serve: Callable[..., Server], served: Path, tmp_path: Path) -> Page:
    """The page over a copy of the run, which the test may change."""
    browser.get_log("browser")
    browser.get_log("performance")
    return Page(browser, serve(shutil.copytree(served, tmp_path / "run")))


@pytest.fixture
def many(served: Path, serve: Callable[..., Server], tmp_path: Path) -> Server:
    """A server over a run with 10,000 more photos without a label, whose files are gone."""
    from hybrid.images.records import ImageRecord
    from hybrid.index.store import EmbeddingStore, StoredImage
    from hybrid.run.files import Layout

    run = shutil.copytree(served, tmp_path / "many")
    rng = np.random.default_rng(0)
    with EmbeddingStore(Layout(run).store) as store:
        fingerprint = json.loads((run / "run.json").read_text())["encoder_fingerprint"]
        vectors = rng.normal(size=(10_000, store.dim(fingerprint))).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        hashes = [f"{i:064x}" for i in range(len(vectors))]
        images = [StoredImage(ImageRecord(f"/gone/{h}.jpg", "/gone", None, "train", 1, 1), h) for h in hashes]
        store.write_batch(images, dict(zip(hashes, vectors, strict=True)), fingerprint)
    return serve(run)


@pytest.fixture(scope="session")
def shared_server(browser: Chrome, served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # A copy too: files that a server's readers leave and remove would be in the way of those who copy the run.
    server = Server(shutil.copytree(served, tmp_path_factory.mktemp("shared") / "run"), read_only=True)
    yield server
    browser.get("about:blank")
    server.stop()


@pytest.fixture
def reading(browser: Chrome, shared_server: Server) -> Page:
    """The page over the common run, which nobody may change."""
    browser.get_log("browser")
    browser.get_log("performance")
    return Page(browser, shared_server)
