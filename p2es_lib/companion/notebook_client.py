"""How a notebook's cells are executed and watched: this environment's kernel, and progress lines in the terminal."""

from __future__ import annotations

import html
import re
import shutil
import sys
import tempfile
import threading
import time
import weakref
from typing import TextIO

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines

ENGINE = "p2es"


class CellProgress:
    """Lines in the terminal that show what a running notebook does, with its name (``label``) in front.

    What cells print appears line by line; progress bars (text, and the widgets of ``tqdm.auto``) at most every
    ``bar_every_s`` seconds; a cell that is silent for ``silence_s`` seconds is named with its running time.
    """

    def __init__(self, label: str, stream: TextIO, *, bar_every_s: float = 10.0, silence_s: float = 30.0):
        self.label, self.stream, self.bar_every_s, self.silence_s = label, stream, bar_every_s, silence_s
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._started = self._cell_started = self._last_line = time.monotonic()
        self._last_bar = float("-inf")
        self._partial = ""  # a line whose end has not come yet
        self._bar_left = ""  # left half of a widget bar: description and percentage
        self._cell = (0, 0)  # number of the running code cell, number of code cells

    def __enter__(self) -> CellProgress:
        self._line(f"started at {time.strftime('%H:%M:%S')}")
        threading.Thread(target=self._watch_silence, daemon=True).start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._stop.set()
        self._flush()
        outcome = "finished" if kind is None else "stopped"
        self._line(f"{outcome} after {duration(time.monotonic() - self._started)}")

    def cell(self, number: int, total: int) -> None:
        """Code cell ``number`` of ``total`` begins."""
        self._flush()
        with self._lock:
            self._cell, self._cell_started, self._last_bar = (number, total), time.monotonic(), float("-inf")

    def where(self) -> str:
        """The running cell, in words."""
        return f"code cell {self._cell[0]} of {self._cell[1]}"

    def text(self, text: str) -> None:
        """Take a piece of what a cell printed; complete lines are shown, bars are thinned out."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(_last_state(line))
        if "\r" in self._partial:
            self._bar(_last_state(self._partial))
            self._partial = "\r" + self._partial.rsplit("\r", 1)[1]

    def widget(self, state: dict) -> None:
        """Take the new state of a widget; the text on both sides of a progress bar is recognised."""
        value = state.get("value")
        if not isinstance(value, str):
            return
        value = html.unescape(re.sub(r"<[^>]*>", "", value)).replace("\u2007", " ").strip()
        if re.fullmatch(r"(.*:)?\s*\d+%", value):
            self._bar_left = value
        elif re.search(r"\d+(\.\d+)?\w*(/\d+(\.\d+)?\w*)? \[.*\]", value):
            self._bar(f"{self._bar_left} {value}".strip(), last=self._bar_left.endswith("100%"))

    def _bar(self, line: str, last: bool = False) -> None:
        now = time.monotonic()
        if line and (last or now - self._last_bar >= self.bar_every_s):
            self._last_bar = now
            self._line(line)

    def _flush(self) -> None:
        if line := _last_state(self._partial):
            self._line(line)
        self._partial = self._bar_left = ""

    def _line(self, line: str) -> None:
        with self._lock:
            self._last_line = time.monotonic()
            # One call: lines of parallel notebooks stay whole.
            self.stream.write(f"{self.label} | {line}".rstrip() + "\n")
            self.stream.flush()

    def _watch_silence(self) -> None:
        while not self._stop.wait(min(self.silence_s, 1.0)):
            now = time.monotonic()
            if now - self._last_line >= self.silence_s:
                self._line(f"{self.where()}, running for {duration(now - self._cell_started)}")


def _last_state(line: str) -> str:
    """What a terminal would show of a line that returns to its start."""
    return next((part for part in reversed(line.rstrip("\r").split("\r")) if part.strip()), "").rstrip()


def duration(seconds: float) -> str:
    """Whole seconds below two minutes, then minutes and seconds."""
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60:02d} s"


class ThisPython(AsyncKernelManager):
    """Kernel manager that starts the running Python, whatever kernel is installed elsewhere under the name python3."""

    def __init__(self, **kwargs):
        # Sockets in a private folder: kernels would race for ports, which are open to all users. A socket's path may
        # have about 100 characters.
        folder = tempfile.mkdtemp(prefix="p2es-", dir=None if len(tempfile.gettempdir()) < 70 else "/tmp")
        # Not TemporaryDirectory, which warns when nobody has closed it: nobody is asked to.
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        super().__init__(transport="ipc", connection_file=f"{folder}/kernel.json", **kwargs)

    @property
    def kernel_spec(self) -> KernelSpec:
        """Command line and environment of the kernel."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        # The name that p2es_lib.plots.sliders looks for: nobody will be there to move a slider.
        return KernelSpec(argv=argv, env={"P2ES_BATCH": "1"}, display_name="Python 3", language="python")


class _WatchedClient(PapermillNotebookClient):
    """Papermill's client, with every message from the kernel shown to a :class:`CellProgress` first."""

    def __init__(self, nb_man, *, progress: CellProgress, **kwargs):
        super().__init__(nb_man, **kwargs)
        self._progress = progress
        self._code_cells = [index for index, cell in enumerate(self.nb.cells) if cell.cell_type == "code"]

    def execute_cell(self, cell, cell_index, *args, **kwargs):
        # Not from the kernel's own message: a kernel that dies at once may not have sent it.
        if cell_index in self._code_cells:
            self._progress.cell(self._code_cells.index(cell_index) + 1, len(self._code_cells))
        return super().execute_cell(cell, cell_index, *args, **kwargs)

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        if msg["msg_type"] == "stream":
            self._progress.text(content["text"])
        elif msg["msg_type"] in ("comm_open", "comm_msg"):
            self._progress.widget(content.get("data", {}).get("state", {}))
        return super().process_message(msg, cell, cell_index)


class _WatchedEngine(Engine):
    """Papermill engine that executes with this environment's Python and shows progress."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, progress, execution_timeout, start_timeout, **_):
        # Nothing of value is left in the kernel at its end, and an interrupted one must go at once.
        kernel = {"kernel_name": kernel_name, "kernel_manager_class": ThisPython, "shutdown_kernel": "immediate"}
        limits = {"timeout": execution_timeout, "startup_timeout": start_timeout}
        return _WatchedClient(nb_man, progress=progress, **kernel, **limits).execute()


papermill_engines.register(ENGINE, _WatchedEngine)
