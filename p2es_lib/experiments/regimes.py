"""What is known of the person beside the pulse: the references of test windows."""

import numpy as np
import torch

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.reference import Reference
from p2es_lib.data.windows import WindowSet, simulator_config
from p2es_lib.data.windows.references import REGIMES, leads_of, other_session, recorded_ecg
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.simulator import simulate

#: When the reference was recorded: in the session of the target, or in another one.
SESSIONS = ("same", "other")
#: Of the noise in the references of test windows.
REFERENCE_SEED = 18


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
    if session == "other":
        made, chosen = other_session(numbers, simulator_config(config)), rows
    else:
        made = simulate(numbers, count + 1, simulator_config(config))
        chosen = np.arange(count, len(made), count + 1)[rows]
    recorded = recorded_ecg(made.ecg, np.random.default_rng(REFERENCE_SEED), config.signal.sampling_rate)
    ecg, ppg = (torch.as_tensor(part[chosen]) for part in (recorded, made.ppg))
    elapsed_s = torch.full((len(windows),), 60.0 if session == "same" else torch.nan)
    given = leads_of(regime, len(windows))
    return make_references(ecg, given, config.signal.sampling_rate, ppg=ppg, elapsed_s=elapsed_s)
