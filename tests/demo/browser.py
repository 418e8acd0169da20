"""Headless Chromium over a pipe: what a page shows, how it takes a click, what it logs and what it asks the network
for."""
import base64
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 120
# Chromium reads commands from descriptor 3 and answers on 4, so these two must be the pipes' ends.
START = "import os, sys; r, w = int(sys.argv[1]), int(sys.argv[2]); h = max(r, w) + 1; os.dup2(r, h); " \
        "os.dup2(w, h + 1); os.dup2(h, 3); os.dup2(h + 1, 4); os.execv(sys.argv[3], sys.argv[3:])"


class Browser:
    """One tab. `problems`: console errors, exceptions and failed requests so far; `addresses`: all that was asked
    for."""

    def __init__(self, executable: str, folder: Path, width: int, height: int = 900):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        self.reader, self.writer, self.buffer, self.number = ours_in, ours_out, b"", 0
        self.problems, self.addresses = [], []
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs_in), str(theirs_out), executable, "--headless", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions",
             f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 500)

    def close(self) -> None:
        """End Chromium."""
        self.process.terminate()
        self.process.wait(20)
        os.close(self.reader)
        os.close(self.writer)

    def call(self, method: str, **params) -> dict:
        """A command of the DevTools protocol, and its answer; events that come before are noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + LIMIT_S
        while True:
            answer = self.receive(deadline)
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.note(answer)

    def receive(self, deadline: float) -> dict:
        """The next message."""
        while b"\0" not in self.buffer:
            assert select.select([self.reader], [], [], max(deadline - time.monotonic(), 0))[0], "Chromium is silent"
            part = os.read(self.reader, 1 << 20)
            assert part, "Chromium ended"
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def note(self, event: dict) -> None:
        """Keep what went wrong, and what was asked for."""
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.addresses.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(" ".join(str(each.get("value", each.get("description"))) for each in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def run(self, script: str):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, script: str, limit_s: float = LIMIT_S) -> None:
        """Return once a JavaScript expression is true."""
        deadline = time.monotonic() + limit_s
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"never true: {script}; problems: {self.problems}; text: " \
                f"{self.run('document.body.innerText')[:1500]}"
            time.sleep(0.05)

    def open(self, address: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=address)

    def centre(self, selector: str) -> tuple[float, float]:
        """Of an element, scrolled into view: x, y in the window."""
        return tuple(self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView("
                              "{block: 'center'}); const b = e.getBoundingClientRect(); "
                              "return [b.x + b.width / 2, b.y + b.height / 2]; })()"))

    def pointer(self, kind: str, x: float, y: float) -> None:
        """kind: mousePressed, mouseMoved, mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"),
                  clickCount=1)

    def click(self, selector: str) -> None:
        """On the middle of an element."""
        at = self.centre(selector)
        self.pointer("mousePressed", *at)
        self.pointer("mouseReleased", *at)

    def write(self, selector: str, text: str) -> None:
        """Text into a field, in place of what is there."""
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1})["data"]
        Path(path).write_bytes(base64.b64decode(data))
