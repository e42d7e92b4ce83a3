"""JupyterLab as ``make lab`` starts it: its kernel is this environment's, a notebook runs in it, and all of it ends."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from browser import Browser, find_chromium

from p2es_lib.core.processes import stop_with_parent

CHECKOUT = Path(__file__).resolve().parents[1]
NOTEBOOK = "02_forward_process"
TOKEN = "only-for-this-test"
#: By /proc all that was started is found again and ended.
NEEDS_PROC = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="no /proc on this system, so JupyterLab was not started"
)
#: A Python and a JupyterLab of somebody else, which must not be started.
FOREIGN = "#!/bin/sh\necho the wrong $0 was started >&2\nexit 1\n"


def _in_its_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    stop_with_parent()  # even if these tests are killed


class Lab:
    """JupyterLab of a small checkout, started by its Makefile, with settings of its own; ends with all its kernels.

    The user it is started for has a JupyterLab of theirs on PATH, and kernels named python3 in two places.
    """

    def __init__(self, folder: Path):
        self.folder, self.checkout, self.home = folder, folder / "checkout", folder / "home"
        (self.checkout / "notebooks").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "requirements-lock.txt"):
            shutil.copy(CHECKOUT / name, self.checkout)
        source = (CHECKOUT / "notebooks" / f"{NOTEBOOK}.ipynb").read_text()
        assert source.count('profile = \\"quick\\"') == 1
        source = source.replace('profile = \\"quick\\"', 'profile = \\"smoke\\"')
        (self.checkout / "notebooks" / f"{NOTEBOOK}.ipynb").write_text(source)

        foreign = folder / "foreign"
        for place in (foreign / "bin" / "jupyter-lab", foreign / "bin" / "python"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(FOREIGN)
            place.chmod(0o755)
        for data in (folder / "user" / "data", foreign / "jupyter"):
            (data / "kernels" / "python3").mkdir(parents=True)
            argv = [str(foreign / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
            (data / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MAKE", "MFLAGS", "JUPYTER", "P2ES_"))
        }
        own = {f"JUPYTER_{name.upper()}_DIR": name for name in ("config", "data", "runtime")}
        own |= {f"JUPYTERLAB_{name.upper()}_DIR": name for name in ("settings", "workspaces")}
        own |= {"HOME": "home", "IPYTHONDIR": "ipython"}
        self.environment = kept | {key: str(folder / "user" / name) for key, name in own.items()} | {
            "PATH": f"{foreign / 'bin'}{os.pathsep}{kept['PATH']}", "JUPYTER_PATH": str(foreign / "jupyter"),
            "JUPYTER_PREFER_ENV_PATH": "0", "PYTHONPATH": str(CHECKOUT), "P2ES_HOME": "../home", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def __enter__(self) -> Lab:
        options = "--no-browser --port=0 --ip=127.0.0.1 --allow-root --expose-app-in-browser"
        options += f" --IdentityProvider.token={TOKEN}"
        # Nobody asks a server elsewhere for news. No STAMP: this environment is used as it is.
        options += " --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url="
        command = ["make", "lab", f"VENV={sys.prefix}", "STAMP=", f"LAB={options}"]
        self.log = open(self.folder / "log.txt", "wb")
        # A terminal of its own: what is typed there reaches all that runs in it, and not this test.
        self.keyboard, terminal = os.openpty()
        self.process = subprocess.Popen(
            command, cwd=self.checkout, env=self.environment, stdin=terminal, stdout=self.log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_in_its_terminal,
        )  # fmt: skip
        os.close(terminal)
        try:
            runtime = Path(self.environment["JUPYTER_RUNTIME_DIR"])
            self.wait_for(lambda: [path for path in runtime.glob("jpserver-*.json") if path.read_text().endswith("}")])
            self.server = json.loads(next(runtime.glob("jpserver-*.json")).read_text())
            self.wait_for(self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        while pids := self.processes():  # one of them may just have started another
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self.process.wait()
        self.log.close()
        os.close(self.keyboard)

    def type(self, text: str) -> None:
        """Type into the terminal; ``\\x03`` is Ctrl-C."""
        os.write(self.keyboard, text.encode())

    def _answers(self) -> bool:
        try:
            return self.ask("/api/status") is not None
        except OSError:
            return False

    def wait_for(self, condition, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.printed()
            time.sleep(0.1)

    def printed(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def ask(self, path: str, body: dict | None = None):
        """Answer of the server's interface."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server['port']}{path}", data, {"Authorization": f"token {TOKEN}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.load(answer)

    def processes(self) -> list[int]:
        """All that was started with this environment: make, server, kernels and what they started."""
        mark, found = f"IPYTHONDIR={self.environment['IPYTHONDIR']}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # ended meanwhile, or another user's
                pass
        return found


# --- without a browser ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@NEEDS_PROC
def test_the_kernel_is_this_environments_and_ends_with_the_server(tmp_path):
    with Lab(tmp_path) as lab:
        assert Path(lab.server["root_dir"]) == lab.checkout.resolve()
        kernel = lab.ask("/api/kernels", {"name": "python3", "path": "notebooks"})
        assert [entry["id"] for entry in lab.ask("/api/kernels")] == [kernel["id"]]

        def kernels():
            commands = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in lab.processes()}
            return [pid for pid, command in commands.items() if "ipykernel_launcher" in command]

        lab.wait_for(lambda: len(kernels()) == 1)
        pid = kernels()[0]
        assert Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0] == sys.executable
        assert os.readlink(f"/proc/{pid}/cwd") == str(lab.checkout.resolve() / "notebooks")
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        home = next(entry.removeprefix("P2ES_HOME=") for entry in environment if entry.startswith("P2ES_HOME="))
        assert os.path.isabs(home) and Path(home).resolve() == lab.home.resolve()  # given as ../home

        lab.type("\x03")  # Jupyter asks whether that was meant; a second one, or "y", says that it was
        lab.wait_for(lambda: "Shut down this Jupyter server" in lab.printed())
        lab.type("y\n")
        deadline = time.monotonic() + 20
        while lab.processes():
            assert time.monotonic() < deadline, lab.printed()
            time.sleep(0.1)
        assert "was started" not in lab.printed()


@pytest.mark.parametrize("where", ["checkout", "notebooks", "elsewhere"])
def test_files_are_found_from_any_working_folder(where, tmp_path, monkeypatch):
    """JupyterLab starts kernels in the notebook's folder, VS Code there or in the opened one, by a setting."""
    monkeypatch.delenv("P2ES_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))  # as an installation in editable mode has it
    program = "from p2es_lib.core.paths import *; print(figures_dir('simulated', 'quick'), home(), sep='\\n')"
    folder = {"checkout": CHECKOUT, "notebooks": CHECKOUT / "notebooks", "elsewhere": tmp_path}[where]
    shown = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [str(CHECKOUT / "figures" / "simulated-quick"), str(CHECKOUT)]
    assert not list(tmp_path.iterdir())


# --- in a browser -----------------------------------------------------------------------------------------------------

#: ``panel`` is the open notebook, or undefined; then a script of ours.
PANEL = """
const app = window.jupyterapp;
const panel = app && [...app.shell.widgets('main')].find(w => w.context && w.content.widgets);
"""
STATUS = PANEL + "return panel && panel.sessionContext.session ? panel.sessionContext.session.kernel.status : 'none';"
RUN_ALL = PANEL + "window.ran = 0; app.commands.execute('notebook:run-all-cells').then(() => { window.ran = 1; });"
RAN = PANEL + "return window.ran === 1 && panel.sessionContext.session.kernel.status === 'idle';"
CELLS = PANEL + "return panel.context.model.toJSON().cells;"
#: The figure of one cell, once the page has laid it out: its width in the file, and whether it is in view.
FIGURE = (
    PANEL
    + """
panel.content.activeCellIndex = INDEX;
const show = panel.content.scrollToItem(INDEX, 'center');
return Promise.resolve(show).then(() => new Promise(done => {
  let tries = 0;
  const look = () => {
    const image = panel.content.widgets[INDEX].node.querySelector('.jp-OutputArea-output img');
    if (image && image.complete && image.naturalWidth) {
      image.scrollIntoView({block: 'center'});
      const box = image.getBoundingClientRect();
      return done([image.naturalWidth, box.width > 100 && box.height > 50 && box.bottom > 0 && box.top < innerHeight]);
    }
    tries++ < 100 ? setTimeout(look, 50) : done(null);
  };
  look();
}));
"""
)
FOCUS = """
const slider = document.querySelector('.p2es-explore .p2es-slider [role=slider]');
if (!slider) return false;
slider.scrollIntoView({block: 'center'}); slider.focus();
return slider === document.activeElement;
"""
#: Address of the picture beside that slider, its value, and its bytes as numbers. Decoding fails if a new picture comes
#: meanwhile; one that can never be decoded ends in the browser's own time limit.
PICTURE = """
const picture = document.querySelector('.p2es-explore .p2es-picture');
const value = document.querySelector('.p2es-explore .p2es-slider [role=slider]').getAttribute('aria-valuetext');
const decoded = () => picture.decode().catch(() => new Promise(then => setTimeout(then, 100)).then(decoded));
return decoded().then(() => fetch(picture.src)).then(file => file.arrayBuffer()).then(bytes => (
  {src: picture.src, value: value, width: picture.naturalWidth, bytes: [...new Uint8Array(bytes)].join(' ')}));
"""
RIGHT, LEFT = "\ue014", "\ue012"


@pytest.mark.slow(seconds=60)
@pytest.mark.notebook
@NEEDS_PROC
@pytest.mark.skipif(
    find_chromium() is None, reason="Chromium and chromedriver are not installed, so no notebook was run in JupyterLab"
)
def test_a_notebook_runs_in_jupyterlab_and_its_slider_moves_the_picture(tmp_path):
    """As a student meets it: fresh checkout, nothing prepared, open notebook 02, Run All Cells, take the slider."""
    with Lab(tmp_path) as lab, Browser(tmp_path / "profile") as browser:
        browser.set_width(1400, 1000)
        browser.open(f"http://127.0.0.1:{lab.server['port']}/lab/tree/notebooks/{NOTEBOOK}.ipynb?token={TOKEN}")
        lab.wait_for(lambda: browser.run(STATUS) == "idle", 90)
        browser.run(RUN_ALL)
        lab.wait_for(lambda: browser.run(RAN), 240)

        cells = list(enumerate(browser.run(CELLS)))
        code = [(index, cell) for index, cell in cells if cell["cell_type"] == "code"]
        errors = [
            f"{output['ename']}: {output['evalue']}"
            for _, cell in code
            for output in cell["outputs"]
            if output["output_type"] == "error"
        ]
        assert not errors
        assert [cell["execution_count"] for _, cell in code] == list(range(1, len(code) + 1))
        printed = [
            "".join(output["text"]) for _, cell in code for output in cell["outputs"] if output.get("name") == "stderr"
        ]
        assert not printed, "warnings"
        figures = [
            index for index, cell in code if any("image/png" in output.get("data", {}) for output in cell["outputs"])
        ]
        assert len(figures) >= 6
        for index in figures:
            width, seen = browser.run(FIGURE.replace("INDEX", str(index))) or (0, False)
            assert width > 300 and seen, f"no figure below cell {index}"
        assert browser.errors() == []

        assert browser.run(FOCUS), "no slider that can be reached"
        first = browser.run(PICTURE)
        assert first["width"] > 300
        browser.press(RIGHT)
        lab.wait_for(lambda: browser.run(PICTURE)["src"] != first["src"], 20)
        moved = browser.run(PICTURE)
        assert moved["value"] != first["value"] and moved["bytes"] != first["bytes"]
        browser.press(LEFT)
        lab.wait_for(lambda: browser.run(PICTURE)["bytes"] == first["bytes"], 20)
        assert browser.errors() == []

        assert (lab.home / "data" / "windows" / "simulated-smoke" / "settings.json").is_file()
        assert (lab.home / "figures" / "simulated-smoke" / "fig03_forward_process.png").stat().st_size > 10_000
        assert {path.name for path in (lab.checkout / "notebooks").iterdir()} <= {
            f"{NOTEBOOK}.ipynb",
            ".ipynb_checkpoints",
        }
