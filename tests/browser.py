"""Chromium, driven through chromedriver by plain HTTP (the W3C protocol), for tests of pages; needs no package."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

#: No sandbox: tests may run as root in a container. The others keep the browser from calling home.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> tuple[str, str] | None:
    """Programs Chromium and chromedriver, or None where one of them is not installed."""
    chromium = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class Browser:
    """A headless Chromium with a profile of its own; use it in a ``with`` block."""

    def __init__(self, profile: Path, timeout_s: float = 120.0):
        chromium, driver = find_chromium()
        self.timeout_s = timeout_s
        self._driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            port = next(
                match[1] for line in self._driver.stdout if (match := re.search(r"successfully on port (\d+)", line))
            )
            self._url = f"http://127.0.0.1:{port}/session"
            options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            self._url += "/" + self._call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self._driver.kill()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        try:
            self._call("", method="DELETE")
        finally:
            self._driver.terminate()
            self._driver.wait()

    def _call(self, path: str, body: dict | None = None, method: str = "POST"):
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy to this machine
        try:
            with opener.open(request, timeout=self.timeout_s) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        """Load a page, with all its scripts and figures."""
        self._call("/url", {"url": address})

    def set_width(self, width: int, height: int, mobile: bool = False) -> None:
        """Width and height of the view, CSS pixels; ``mobile``: laid out as on a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._call("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def run(self, script: str):
        """Value that a script returns; a promise is waited for."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def press(self, key: str) -> None:
        """Press a key and let it go, as somebody at the page would; special keys by their code (U+E014: right)."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def errors(self) -> list[str]:
        """Script errors and files that could not be loaded, since the last call."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def screenshot(self, path: Path, whole_page: bool = False) -> None:
        """The view, or the whole page, as PNG."""
        if whole_page:
            params = {"format": "png", "captureBeyondViewport": True}
            image = self._call("/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": params})["data"]
        else:
            image = self._call("/screenshot", method="GET")
        path.write_bytes(base64.b64decode(image))
