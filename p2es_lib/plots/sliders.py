"""Sliders under a notebook cell: a picture that is drawn anew as they move, and a still one where no kernel listens.

Papermill, the book and GitHub get the still one; a live cell carries it as well, for those who read a saved notebook.
"""

from __future__ import annotations

import base64
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from p2es_lib.core.errors import InputError
from p2es_lib.plots.style import PaperFigure, new_figure, png_of, use_style

#: Set (to anything) in the kernels of executors: what they run is read later, without a kernel.
BATCH_VARIABLE = "P2ES_BATCH"
_DPI = 150  # sharp enough, and drawn in half the time of the 200 of a figure that stays


@dataclass(frozen=True)
class _Control:
    """One control: its name, the value it starts with, and a slider's (lowest, highest, step) or a list's choices."""

    name: str
    start: object
    limits: tuple | None = None
    choices: dict | None = None  # label: value; None with no limits either is a box to tick

    def accepts(self, value) -> bool:
        if self.limits:
            return _is_number(value) and self.limits[0] <= value <= self.limits[1]
        return value in self.choices.values() if self.choices else isinstance(value, bool)

    def caption(self, value) -> str:
        """Label and value, as the caption of a still names them."""
        if self.choices:
            value = next(label for label, choice in self.choices.items() if choice == value)
        elif isinstance(value, bool):
            value = "on" if value else "off"
        return f"{self.name.replace('_', ' ')}: {f'{value:g}' if _is_number(value) else value}"

    def widget(self):
        import ipywidgets  # where no notebook is, nothing needs it

        common = dict(value=self.start, description=self.name.replace("_", " "), style={"description_width": "8em"})
        if self.limits:
            low, high, step = self.limits
            whole = all(isinstance(value, (int, np.integer)) for value in (*self.limits, self.start))
            kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
            # Continuous: a front end sends no further value before the kernel has drawn the last one.
            widget = kind(min=low, max=high, step=step, continuous_update=True, layout={"width": "28em"}, **common)
            if not whole:
                widget.readout_format = f".{max(0, -math.floor(math.log10(step) + 1e-9))}f"
            widget.add_class("p2es-slider")
        elif self.choices:
            widget = ipywidgets.ToggleButtons(options=list(self.choices.items()), **common)
            widget.style.button_width = "auto"
        else:
            widget = ipywidgets.Checkbox(indent=True, **common)
        return widget.add_class("p2es-control").add_class(f"p2es-control-{self.name}")


def explore(
    draw: Callable[..., Figure], *, stills: Iterable[Mapping[str, object]] = ({},), **controls
) -> Explorer | PaperFigure:
    """Sliders over a picture where :func:`is_live` holds, else the picture at a few settings; a cell's last expression.

    Parameters
    ----------
    draw : callable
        ``draw(**values)`` gives a figure for one value per control. It is called at every move of a slider, so it
        should take a fifth of a second at most, and do what takes long outside.
    stills : iterable of mappings
        Settings that the still picture shows, one below the other; a control not named has its start.
    **controls
        One keyword of ``draw`` each. ``(lowest, highest, step)`` or ``(lowest, highest, step, start)`` is a slider,
        over whole numbers where all of them are whole; a list of choices, or a dictionary from label to value, is a row
        of buttons, of which the first is pressed; True or False is a box to tick. An :class:`InputError` if there is
        none, if ``draw`` does not take them, and for a still that names or shows what no control does.

    Examples
    --------
    >>> explore(lambda t, noise: plot(t, noise), t=(0.0, 1.0, 0.05), noise=True, stills=[{"t": 0.0}, {"t": 1.0}])
    """
    parsed = {name: _parse(name, control) for name, control in controls.items()}
    if not parsed:
        raise InputError("explore: needs at least one control, such as t=(0.0, 1.0, 0.05)")
    starts = {name: control.start for name, control in parsed.items()}
    try:
        inspect.signature(draw).bind(**starts)
    except TypeError as error:
        raise InputError(f"explore: draw does not take the controls {', '.join(starts)} ({error})") from None
    stills = list(stills)
    if not stills:
        raise InputError("explore: stills is empty; without it the still picture shows the start values")
    for name, value in (item for still in stills for item in still.items()):
        if name not in parsed:
            raise InputError(f"explore: a still names {name!r}, which is no control; there are: {', '.join(parsed)}")
        if not parsed[name].accepts(value):
            raise InputError(f"explore: a still has {name}={value!r}, which its control cannot show")

    def still_picture() -> PaperFigure:
        settings = [starts | dict(still) for still in stills]
        captions = ["   ".join(parsed[name].caption(one) for name, one in values.items()) for values in settings]
        return _montage([_figure(draw, values) for values in settings], captions)

    return Explorer(draw, list(parsed.values()), still_picture) if is_live() else still_picture()


def is_live() -> bool:
    """Whether a person's notebook runs this, and will still be there when a slider moves.

    Papermill, nbconvert and the like have a kernel too, and end it. They cannot answer ``input()``, and say so with
    every cell that they send; notebook programs can. This project's executor sets :data:`BATCH_VARIABLE` besides.
    """
    # No import: where IPython runs, it is loaded.
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython else None
    if os.environ.get(BATCH_VARIABLE) or kernel is None:
        return False
    if "google.colab" in sys.modules:  # Colab answers input() in a way of its own
        return True
    request = kernel.get_parent("shell") if hasattr(kernel, "get_parent") else {}
    return bool((request or {}).get("content", {}).get("allow_stdin", False))


class Explorer:
    """Controls over a picture, as a notebook shows them.

    ``controls`` are the widgets by name, of the classes ``p2es-control``, ``p2es-control-<name>`` and, where they
    slide, ``p2es-slider`` in the page; ``picture`` is the figure as PNG (``p2es-picture``); ``message`` says what went
    wrong at the last move, if anything did: the picture then stays as it was.
    """

    def __init__(self, draw: Callable[..., Figure], controls: list[_Control], still_picture: Callable[[], PaperFigure]):
        import ipywidgets

        self._draw, self._still_picture = draw, still_picture
        self.controls = {control.name: control.widget() for control in controls}
        figure = self._figure()
        width = f"{round(96 * figure.get_figwidth())}px"
        self.picture = ipywidgets.Image(value=png_of(figure, _DPI), format="png")
        # Not wider than the page, and never stretched.
        self.picture.layout = ipywidgets.Layout(width=width, max_width="100%", object_fit="contain")
        self.picture.add_class("p2es-picture")
        self.message = ipywidgets.HTML()
        for widget in self.controls.values():
            widget.observe(self._redraw, names="value")
        self.box = ipywidgets.VBox([*self.controls.values(), self.message, self.picture]).add_class("p2es-explore")

    def _figure(self) -> Figure:
        return _figure(self._draw, {name: widget.value for name, widget in self.controls.items()})

    def _redraw(self, change) -> None:
        try:
            self.picture.value = png_of(self._figure(), _DPI)
            self.message.value = ""
        except Exception as error:  # in a callback it would end in a log that nobody reads
            text = f"{type(error).__name__}: {error}"
            self.message.value = text.replace("&", "&amp;").replace("<", "&lt;")

    def _repr_mimebundle_(self, **_):
        png, size = self._still_picture()._repr_png_()
        # Written out: ipywidgets 7, which Colab has, makes no bundle.
        widget = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle = {
            "application/vnd.jupyter.widget-view+json": widget,
            "text/plain": "sliders: " + ", ".join(self.controls),
            "image/png": base64.b64encode(png).decode("ascii"),  # shown where the widget cannot be
        }
        return bundle, {"image/png": size}


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) and math.isfinite(value)


def _parse(name: str, control) -> _Control:
    where = f"explore: control {name}={control!r}"
    if isinstance(control, bool):
        return _Control(name, control)
    if isinstance(control, (list, dict)):
        choices = control if isinstance(control, dict) else dict(zip(map(str, control), control))
        if len(choices) < max(2, len(control)):
            raise InputError(f"{where} needs at least two choices, all different")
        return _Control(name, next(iter(choices.values())), choices=choices)
    if not (isinstance(control, tuple) and len(control) in (3, 4) and all(map(_is_number, control))):
        raise InputError(f"{where} must be (lowest, highest, step) or (lowest, highest, step, start) in numbers, a "
                         "list of choices, or True or False")  # fmt: skip
    low, high, step, start = control if len(control) == 4 else (*control, control[0])
    if not (low < high and 0 < step <= high - low):
        raise InputError(f"{where} has no room to move: lowest < highest and 0 < step <= highest - lowest")
    if not low <= start <= high:
        raise InputError(f"{where} starts outside its range")
    return _Control(name, start, limits=(low, high, step))


def _figure(draw: Callable[..., Figure], values: Mapping[str, object]) -> Figure:
    with use_style():
        figure = draw(**values)
    if not isinstance(figure, Figure):
        raise InputError(f"explore: draw must return a matplotlib figure, not {type(figure).__name__}")
    if "matplotlib.pyplot" in sys.modules:  # which would keep it, and show it a second time
        sys.modules["matplotlib.pyplot"].close(figure)
    return figure


def _montage(figures: list[Figure], captions: list[str]) -> PaperFigure:
    """One figure of several, below one another, each pixel for pixel and under its caption."""
    width, height = np.max([figure.get_size_inches() for figure in figures], axis=0) + (0, 0.2)  # 0.2: the caption
    page = np.array([width, len(figures) * height])  # inches, as all sizes here
    whole = new_figure(*page, layout=None)
    for place, (figure, caption) in enumerate(zip(figures, captions, strict=True)):
        top = 1 - place / len(figures)
        with use_style():
            figure.set_dpi(200)  # that of the figure that shows it
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            size = figure.get_size_inches()
            ax = whole.add_axes((0, top - (0.2 + size[1]) / page[1], *(size / page)))
            ax.imshow(np.asarray(canvas.buffer_rgba()), aspect="auto", interpolation="none")
            ax.set_axis_off()
            look = {"ha": "left", "va": "top", "fontsize": 8, "fontweight": "bold"}
            whole.text(0.08 / page[0], top - 0.05 / page[1], caption, **look)
    return whole
