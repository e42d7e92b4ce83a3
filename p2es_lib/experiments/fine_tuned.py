"""A trained network fine-tuned on one recording of the person, as single-subject works train theirs (PPG2ECGps).

Nobody lays the recording's beats under it: what it knows of the person afterwards is in its weights. How late the
pulses come it is told as the others are.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from p2es_lib.baselines.regression import RegressionTranslator
from p2es_lib.core.config import Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.leads import MEASURED
from p2es_lib.core.learned import Batch
from p2es_lib.core.reference import Reference
from p2es_lib.data.windows import WindowSet
from p2es_lib.data.windows.references import target_beats
from p2es_lib.experiments.regimes import recordings_of

#: Steps on the recording, and their learning rate: those with the least error on validation subjects.
N_STEPS, LEARNING_RATE = 30, 1e-3


def fine_tuned(
    model: RegressionTranslator, recording: dict, n_steps: int = N_STEPS, learning_rate: float = LEARNING_RATE
) -> RegressionTranslator:
    """A copy of the model after some steps on one recording: a batch of one, as ``TrainingBatches.batch`` makes it."""
    tuned, generator = copy.deepcopy(model).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(tuned.network.parameters(), lr=learning_rate)
    for _ in range(n_steps):
        loss, _ = tuned.training_loss(tuned, Batch(tuned, recording, generator), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return tuned.eval()


def translate_fine_tuned(
    model: RegressionTranslator, config: Config, windows: WindowSet, told: Demographics, reference: Reference,
    progress: bool = True, **options,
) -> Tensor:  # fmt: skip
    """ECG of simulated windows, (N, 1, 12, T) mV, each by a copy of the model of its own person.

    ``reference``: of :func:`.regimes.references_of`, whose recordings are trained on, its leads alone; ``told``: age
    and sex of the windows; ``options``: of :func:`fine_tuned`. InputError: real windows.
    """
    ecg, ppg = recordings_of(config, windows, config.evaluation.session)
    unseen = replace(reference, beats=torch.zeros_like(reference.beats), given=torch.zeros_like(reference.given))
    subjects, estimates = windows.index["subject"].to_numpy(), torch.empty(len(windows), 1, *ecg.shape[1:])
    for subject in tqdm(np.unique(subjects), desc="fine-tuning to test subjects", disable=not progress):
        rows = np.flatnonzero(subjects == subject)
        of_one, people = slice(rows[0], rows[0] + 1), told[rows]
        lead_mask = (reference.given[of_one] * MEASURED).to(torch.uint8)
        recording = {
            "ppg": ppg[of_one], "ecg": ecg[of_one], "lead_mask": lead_mask, "demographics": told[rows[:1]],
            "subjects": [subject], "reference": unseen[of_one],
            "r_times": target_beats(ecg[of_one], lead_mask, reference.given[of_one], config.signal.sampling_rate),
        }  # fmt: skip
        own = fine_tuned(model, recording, **options) if lead_mask.any() else model
        estimates[rows] = own.translate(np.array(windows.ppg[rows]), people, reference=unseen[rows], generator=0)
    return estimates
