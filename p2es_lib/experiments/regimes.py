"""What is known of the person beside the pulse: the references of test windows."""

import numpy as np
import torch

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.reference import Reference
from p2es_lib.data.windows import WindowSet, simulator_config
from p2es_lib.data.windows.references import REGIMES, leads_of
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.simulator import simulate

#: When the reference was recorded: in the session of the target, or in another one.
SESSIONS = ("same", "other")


def references_of(config: Config, windows: WindowSet, regime: str, session: str = "same") -> Reference | None:
    """References of test windows (N), made of other windows of the same persons; None in the regime "none".

    Simulated: another stretch of the same session, or one of another session. An :class:`InputError` for an unknown
    regime or session.
    """
    check_choice("evaluation.reference", regime, REGIMES)
    check_choice("evaluation.session", session, SESSIONS)
    if regime == "none":
        return None
    if "subject_number" not in windows.index:
        raise InputError(f"data set {config.dataset}: no references of real recordings yet")
    numbers, rows = np.unique(windows.index["subject_number"].to_numpy(), return_inverse=True)
    count = config.data.windows_per_subject
    options = {"session": SESSIONS.index(session)} if session != "same" else {}
    made = simulate(numbers, count + 1, simulator_config(config), **options)
    last = np.arange(count, len(made), count + 1)[rows]
    ecg, ppg = (torch.as_tensor(part[last]) for part in (made.ecg, made.ppg))
    elapsed_s = torch.full((len(windows),), 60.0 if session == "same" else torch.nan)
    given = leads_of(regime, len(windows))
    return make_references(ecg, given, config.signal.sampling_rate, ppg=ppg, elapsed_s=elapsed_s)
