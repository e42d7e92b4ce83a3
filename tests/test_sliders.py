"""Sliders: every control redraws, bad ones are refused; where no kernel listens there is a picture and no widget."""

from __future__ import annotations

import base64
import io
import json
import queue
import time

import numpy as np
import pytest
from jupyter_client.manager import KernelManager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from toy_workflow import write_notebook

from p2es_lib.companion.notebook_client import ThisPython
from p2es_lib.companion.notebooks import run_notebook
from p2es_lib.core.errors import InputError
from p2es_lib.plots import explore, sliders
from p2es_lib.plots.style import PaperFigure, new_figure

WIDGET = "application/vnd.jupyter.widget-view+json"
PNG = b"\x89PNG\r\n\x1a\n"
CONTROLS = {"t": (0.0, 1.0, 0.05, 0.3), "steps": (1, 8, 1), "sex": {"woman": "F", "man": "M"}, "noise": True}


def draw(t, steps, sex, noise):
    fig = new_figure(2.0, 1.0)
    fig.subplots().bar(range(4), [t, steps, sex == "F", noise])
    return fig


def shown(explorer) -> bytes:
    return bytes(explorer.picture.value)


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setattr(sliders, "is_live", lambda: True)


# ---------------------------------------------------------------------------------------------------------------- live
@pytest.mark.parametrize(("name", "value"), [("t", 0.7), ("steps", 3), ("sex", "M"), ("noise", False)])
def test_every_control_draws_the_picture_anew(live, name, value):
    explorer = explore(draw, **CONTROLS)
    before = shown(explorer)
    assert before.startswith(PNG)
    start = explorer.controls[name].value
    explorer.controls[name].value = value
    after = shown(explorer)
    assert after.startswith(PNG) and after != before and explorer.message.value == ""
    explorer.controls[name].value = start
    assert shown(explorer) == before  # nothing but the values decides


def test_controls_start_where_they_should_and_can_be_found_in_the_page(live):
    explorer = explore(draw, **CONTROLS)
    assert {name: one.value for name, one in explorer.controls.items()} == {
        "t": 0.3,
        "steps": 1,
        "sex": "F",
        "noise": True,
    }
    assert (
        type(explorer.controls["steps"]).__name__ == "IntSlider"
        and type(explorer.controls["t"]).__name__ == "FloatSlider"
    )
    assert [name for name, one in explorer.controls.items() if "p2es-slider" in one._dom_classes] == ["t", "steps"]
    assert all(f"p2es-control-{name}" in one._dom_classes for name, one in explorer.controls.items())
    assert "p2es-picture" in explorer.picture._dom_classes and "p2es-explore" in explorer.box._dom_classes
    assert explorer.controls["t"].readout_format == ".2f"


def test_a_live_cell_carries_the_still_picture_too(live):
    explorer = explore(draw, **CONTROLS, stills=[{"t": 0.0}, {"t": 1.0}])
    bundle, metadata = explorer._repr_mimebundle_()
    assert bundle[WIDGET] == explorer.box._repr_mimebundle_()[WIDGET]
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert metadata["image/png"]["height"] == round(96 * 2 * 1.2)  # two stills, each under its caption
    assert "VBox" not in bundle["text/plain"]


def test_what_goes_wrong_at_a_move_is_said_beside_the_picture(live):
    def fails_late(t):
        if t > 0.5:
            raise ValueError("t <b> is too late")
        fig = new_figure(1, 1)
        fig.text(0, 0, str(t))
        return fig

    explorer = explore(fails_late, t=(0.0, 1.0, 0.1))
    before = shown(explorer)
    explorer.controls["t"].value = 0.8
    assert explorer.message.value == "ValueError: t &lt;b> is too late" and shown(explorer) == before
    explorer.controls["t"].value = 0.3
    assert explorer.message.value == "" and shown(explorer) != before


def test_figures_of_pyplot_are_closed(live):
    def by_pyplot(t):
        return plt.subplots(figsize=(1, 1))[0]

    before = plt.get_fignums()
    explorer = explore(by_pyplot, t=(0, 3, 1))
    explorer.controls["t"].value = 2
    assert plt.get_fignums() == before


# --------------------------------------------------------------------------------------------------------------- still
def test_without_a_kernel_there_is_a_picture_of_the_stills_and_no_widget():
    assert not sliders.is_live()
    figure = explore(draw, **CONTROLS, stills=[{}, {"t": 0.9}, {"sex": "M"}])
    assert isinstance(figure, PaperFigure) and not hasattr(figure, "_repr_mimebundle_")
    assert tuple(figure.get_size_inches()) == pytest.approx((2.0, 3.6))
    assert [text.get_text() for text in figure.texts] == [
        "t: 0.3   steps: 1   sex: woman   noise: on", "t: 0.9   steps: 1   sex: woman   noise: on",
        "t: 0.3   steps: 1   sex: man   noise: on"]  # fmt: skip
    png, size = figure._repr_png_()
    assert png.startswith(PNG) and size == {"width": 192, "height": 346}


def test_stills_are_drawn_pixel_for_pixel():
    """Scaled by a hair, the text of a figure would lose or double rows."""

    def stripes(t):
        fig = new_figure(1.5, 1.0, layout=None)
        fig.figimage(np.indices((200, 300)).sum(0) % 2 * 255.0, cmap="gray")
        return fig

    png, _ = explore(stripes, t=(0, 1, 1), stills=[{}, {"t": 1}])._repr_png_()
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(int)
    assert pixels.shape == (480, 300)
    for top in (40, 280):
        board = pixels[top + 2 : top + 198, 2:298]
        assert set(np.unique(board)) == {0, 255} and (np.abs(np.diff(board, axis=1)) == 255).all()
        assert (np.abs(np.diff(board, axis=0)) == 255).all()


# ------------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "at least one control"),
        ({"t": (0.0, 1.0)}, "must be (lowest, highest, step)"),
        ({"t": (0.0, "1", 0.1)}, "must be (lowest, highest, step)"),
        ({"t": (0.0, float("nan"), 0.1)}, "must be (lowest, highest, step)"),
        ({"t": 0.5}, "must be (lowest, highest, step)"),
        ({"t": (1.0, 0.0, 0.1)}, "no room to move"),
        ({"t": (0.0, 1.0, 0.0)}, "no room to move"),
        ({"t": (0.0, 1.0, 2.0)}, "no room to move"),
        ({"t": (0.0, 1.0, 0.1, 1.5)}, "starts outside"),
        ({"t": ["only"]}, "at least two choices"),
        ({"t": ["same", "same"]}, "at least two choices, all different"),
        ({"u": (0.0, 1.0, 0.1)}, "draw does not take the controls u"),
        ({"t": (0.0, 1.0, 0.1), "stills": []}, "stills is empty"),
        ({"t": (0.0, 1.0, 0.1), "stills": [{"x": 1}]}, "names 'x', which is no control; there are: t"),
        ({"t": (0.0, 1.0, 0.1), "stills": [{"t": 2.0}]}, "t=2.0, which its control cannot show"),
        ({"t": ["a", "b"], "stills": [{"t": "c"}]}, "t='c', which its control cannot show"),
        ({"t": True, "stills": [{"t": 1}]}, "t=1, which its control cannot show"),
    ],
)
def test_bad_controls_and_stills_are_refused(arguments, says):
    def one(t):
        return new_figure(1, 1)

    with pytest.raises(InputError) as raised:
        explore(one, **arguments)
    assert says in str(raised.value)


def test_a_draw_that_gives_no_figure_is_refused():
    with pytest.raises(InputError, match="matplotlib figure, not NoneType"):
        explore(lambda t: None, t=(0, 1, 1))


def test_a_plain_figure_will_do():
    assert explore(lambda t: Figure(figsize=(1, 1)), t=(0, 1, 1))._repr_png_()[0].startswith(PNG)


# ------------------------------------------------------------------------------------------------------------- kernels
CELL = """\
from p2es_lib.plots import explore
from p2es_lib.plots.style import new_figure
def draw(t):
    fig = new_figure(2, 1)
    fig.subplots().plot([0, t])
    return fig
explore(draw, t=(0.0, 1.0, 0.1), stills=[{"t": 0.5}, {"t": 1.0}])
"""


@pytest.mark.notebook
@pytest.mark.slow
def test_an_executed_notebook_holds_a_picture_and_no_widget(tmp_path):
    write_notebook(tmp_path, "01_sliders", [CELL])
    text = run_notebook("01_sliders", {}, tmp_path / "out" / "01_sliders.ipynb", folder=tmp_path).read_text()
    (output,) = json.loads(text)["cells"][-1]["outputs"]
    assert base64.b64decode(output["data"]["image/png"]).startswith(PNG)
    assert WIDGET not in text and "widget-state" not in text


def test_this_projects_executor_says_that_nobody_is_there(monkeypatch):
    environment = ThisPython().kernel_spec.env
    assert environment == {sliders.BATCH_VARIABLE: "1"}


@pytest.mark.notebook
@pytest.mark.slow
def test_kernels_tell_a_person_from_a_batch_execution_and_answer_a_slider():
    """What JupyterLab and nbconvert do, at the level of messages: one allows ``input()``, the other does not."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        messages = answers(client, client.execute(CELL, allow_stdin=False))
        batch = next(content["data"] for kind, content in messages if kind == "execute_result")
        assert "image/png" in batch and WIDGET not in batch

        messages = answers(
            client, client.execute("explorer = " + CELL.splitlines()[-1] + "\nexplorer", allow_stdin=True)
        )
        bundle = next(content["data"] for kind, content in messages if kind == "execute_result")
        assert bundle["image/png"].strip() == batch["image/png"].strip() and "model_id" in bundle[WIDGET]

        models = {content["comm_id"]: content["data"]["state"] for kind, content in messages if kind == "comm_open"}
        slider = next(key for key, state in models.items() if state.get("_model_name") == "FloatSliderModel")
        picture = next(key for key, state in models.items() if state.get("_model_name") == "ImageModel")
        update = {"method": "update", "state": {"value": 0.7}, "buffer_paths": []}
        request = client.session.msg("comm_msg", {"comm_id": slider, "data": update})
        client.shell_channel.send(request)
        moved = answers(client, request["header"]["msg_id"])
        changed = [
            content["comm_id"]
            for kind, content in moved
            if kind == "comm_msg" and content["data"]["method"] == "update"
        ]
        assert picture in changed
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def answers(client, request: str, timeout_s: float = 120) -> list[tuple[str, dict]]:
    """Type and content of all that the kernel publishes about a request, until it is done."""
    found, end = [], time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != request:
            continue
        assert message["msg_type"] != "error", message["content"]
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return found
        found.append((message["msg_type"], message["content"]))
    raise AssertionError(f"no end of request {request} within {timeout_s} s")
