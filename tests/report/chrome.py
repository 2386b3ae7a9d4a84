"""A real browser by the WebDriver protocol (W3C) over plain HTTP: chromedriver is all it takes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def missing() -> str:
    """Why the tests cannot run here; empty if they can."""
    absent = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"not on PATH: {', '.join(absent)} (apt-get install chromium chromium-driver)" if absent else ""


@dataclass(frozen=True)
class Browser:
    """One session."""

    url: str

    def call(self, path: str, **body: Any) -> Any:
        return _request("POST", f"{self.url}/{path}", body)

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.call("goog/cdp/execute", cmd=command, params=parameters)

    def show(
        self, page: Path, *, width: int = 1000, scheme: Literal["light", "dark"] = "light", media: str = ""
    ) -> None:
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("url", url=page.as_uri())

    def evaluate(self, expression: str) -> Any:
        return self.call("execute/sync", script=f"return {expression}", args=[])

    def screenshot(self) -> bytes:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def console(self) -> list[str]:
        """Errors and warnings since the last call, those of the content security policy among them."""
        return [entry["message"] for entry in self.call("se/log", type="browser")]

    def requests(self) -> list[str]:
        """URLs that the page asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.call("se/log", type="performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A headless Chromium with a fresh profile; gone afterwards."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=profile
    )
    try:
        assert driver.stdout
        port = next(found[1] for line in driver.stdout if (found := re.search(r"on port (\d+)\.$", line.strip())))
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}
        session = _request("POST", f"http://127.0.0.1:{port}/session", {"capabilities": wanted})
        one = Browser(f"http://127.0.0.1:{port}/session/{session['sessionId']}")
        try:
            yield one
        finally:
            _request("DELETE", one.url)
    finally:
        driver.terminate()
        driver.communicate(timeout=30)


def _request(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    content = None if body is None else json.dumps(body)
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, parts.path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.load(answer)["value"]
    assert answer.status == 200, value
    return value
