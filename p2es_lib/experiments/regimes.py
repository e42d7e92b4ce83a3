"""What is known of the person beside the pulse: the references of test windows."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.paths import windows_dir
from p2es_lib.core.reference import Reference
from p2es_lib.data.windows import WindowSet, read_windows, simulator_config
from p2es_lib.data.windows.references import other_session, recorded_ecg
from p2es_lib.reference.mean_beat import average, make_references
from p2es_lib.reference.regimes import REGIMES, leads_of
from p2es_lib.simulator import simulate

#: When the reference was recorded: in the session of the target, or in another one.
SESSIONS = ("same", "other")
#: Of the noise in the references of test windows.
REFERENCE_SEED = 18
#: So much of a real record, from its first usable window on, makes a reference, s: as long as somebody sits still to
#: calibrate a device. What begins in it is not scored.
REFERENCE_S = 45.0
#: What tells a window of real recordings from all others.
_WINDOW = ["subject", "record", "start_s"]


def references_of(
    config: Config, windows: WindowSet, regime: str, session: str = "same", recorded: WindowSet | None = None
) -> Reference | None:
    """References of windows (N), made of other windows of the same persons; None in the regime "none".

    Simulated: another stretch of the same session, or one of another session. Real: as :func:`reference_plan` says,
    with the leads that both regime and recording have; ``given`` is all 0 where there is none.

    Parameters
    ----------
    config, windows : Config, WindowSet
    regime, session : str
        Of ``REGIMES`` and :data:`SESSIONS`; an :class:`InputError` for another one.
    recorded : WindowSet, optional
        All windows of the real recordings, of which references are made; default: those that are prepared.
    """
    check_choice("evaluation.reference", regime, REGIMES)
    check_choice("evaluation.session", session, SESSIONS)
    if regime == "none":
        return None
    if "subject_number" in windows.index:
        return _simulated_references(config, windows, regime, session)
    if recorded is None:
        recorded = read_windows(windows_dir(config.dataset, config.profile))
    return _recorded_references(config, windows, regime, session, recorded)


def recordings_of(config: Config, windows: WindowSet, session: str) -> tuple[Tensor, Tensor]:
    """Recordings of which the references of simulated windows (N) are made: ECG (N, 12, T) mV and PPG (N, 1, T).

    Another stretch of the same session, or one of another session. InputError: real windows.
    """
    if "subject_number" not in windows.index:
        raise InputError(
            f"data set {config.dataset}: whole recordings of the person are there for simulated people only"
        )
    numbers, rows = np.unique(windows.index["subject_number"].to_numpy(), return_inverse=True)
    count = config.data.windows_per_subject
    if session == "other":
        made, chosen = other_session(numbers, simulator_config(config)), rows
    else:
        made = simulate(numbers, count + 1, simulator_config(config))
        chosen = np.arange(count, len(made), count + 1)[rows]
    recorded = recorded_ecg(made.ecg, np.random.default_rng(REFERENCE_SEED), config.signal.sampling_rate)
    return torch.as_tensor(recorded[chosen]), torch.as_tensor(made.ppg[chosen])


def _simulated_references(config: Config, windows: WindowSet, regime: str, session: str) -> Reference:
    ecg, ppg = recordings_of(config, windows, session)
    elapsed_s = torch.full((len(windows),), 60.0 if session == "same" else torch.nan)
    given = leads_of(regime, len(windows))
    return make_references(ecg, given, config.signal.sampling_rate, ppg=ppg, elapsed_s=elapsed_s)


class ReferencePlan(NamedTuple):
    """Which windows (N) make references, and which have one; references are numbered, -1 stands for none."""

    makes: np.ndarray  #: Number of the reference that a window helps to make.
    served_by: np.ndarray  #: Number of the reference that a window has.
    elapsed_s: np.ndarray  #: Beginning of a window less the end of its reference; NaN: another session, or none.


def reference_plan(index: pd.DataFrame, window_s: float, session: str) -> ReferencePlan:
    """Who has which reference, by the times of real windows alone: what they hold has no say in what is scored.

    In the session "same" the windows wholly in the first :data:`REFERENCE_S` of a record make its reference, and those
    that begin later have it. In the session "other" those of the subject's first record make it, and all windows of the
    later ones have it. Records are in the order of their names, which in most sources hold a date, or count up.
    """
    record = index.groupby(["subject", "record"]).ngroup().to_numpy()  # ascending, a subject's side by side
    since_s = (index["start_s"] - index.groupby(record)["start_s"].transform("min")).to_numpy()
    is_first = since_s + window_s <= REFERENCE_S
    if session == "same":
        has = since_s >= REFERENCE_S
        return ReferencePlan(
            np.where(is_first, record, -1), np.where(has, record, -1), np.where(has, since_s - REFERENCE_S, np.nan)
        )
    earliest = pd.Series(record).groupby(index["subject"].to_numpy()).transform("min").to_numpy()
    makes, has = is_first & (record == earliest), record != earliest
    return ReferencePlan(np.where(makes, earliest, -1), np.where(has, earliest, -1), np.full(len(index), np.nan))


def _recorded_references(
    config: Config, windows: WindowSet, regime: str, session: str, recorded: WindowSet
) -> Reference:
    rate = config.signal.sampling_rate
    plan = reference_plan(recorded.index, recorded.ppg.shape[-1] / rate, session)
    known, asked = (pd.MultiIndex.from_frame(of.index[_WINDOW]) for of in (recorded, windows))
    if (rows := known.get_indexer(asked)).min(initial=0) < 0:
        problem = f"data set {config.dataset}: {(rows < 0).sum()} of {len(rows)} windows are not among the prepared"
        raise InputError(f"{problem} ones of which references are made; take windows of this store, or prepare anew")
    served_by = plan.served_by[rows]
    made = {-1: Reference.none(1, rate)}
    for number in np.unique(served_by[served_by >= 0]):
        made[number] = _reference_from(recorded.select(plan.makes == number), regime, rate)
    place = np.searchsorted(list(made), served_by)
    return replace(
        Reference.joined(list(made.values()))[torch.as_tensor(place)],
        elapsed_s=torch.as_tensor(plan.elapsed_s[rows], dtype=torch.float32),
    )


def _reference_from(windows: WindowSet, regime: str, sampling_rate: float) -> Reference:
    """One reference of several windows of a recording, of the leads that it has and the regime asks for."""
    ecg, ppg = (torch.as_tensor(np.array(part)) for part in (windows.ecg, windows.ppg))
    given = leads_of(regime, len(windows)) * torch.as_tensor(windows.lead_mask > 0)
    return average(make_references(ecg, given, sampling_rate, ppg=ppg))
