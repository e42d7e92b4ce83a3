"""Which methods there are, by name: P2Es, its ablations, the baselines, and the references that need no training."""

from dataclasses import dataclass, field

from p2es_lib.core.config import Config, get_config
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.subject_numbers import MAX_SEED
from p2es_lib.data.sources import parse_dataset

#: What an ablation is about; the first three are the paper's innovations.
SUBJECTS = {
    "forward": "forward process",
    "reverse": "denoiser",
    "affinity": "affinity and groups",
    "demographics": "age and sex",
    "design": "our own choices",
}


@dataclass(frozen=True)
class Variant:
    """One row of a table."""

    label: str  #: As it stands in tables.
    changes: dict[str, object] = field(default_factory=dict)  #: Settings that differ from the full model.
    #: One of :data:`SUBJECTS` for an ablation, ``"sampler"`` for another number of steps of the full model,
    #: ``"more_steps"`` for more steps of another variant, ``"reference"`` for the full model with a reference of the
    #: person, ``"others_reference"`` for another variant with one, ``"baseline"`` for another method, "" for the full
    #: model.
    about: str = ""
    weights_of: str = ""  #: Variant whose finished training is taken, only used otherwise. "": it is trained itself.


def _baseline(label: str, method: str) -> Variant:
    return Variant(label, {"method.name": method}, "baseline")


def _at_test(label: str, about: str, changes: dict[str, object]) -> Variant:
    return Variant(label, changes, about, "p2es")


def _steps(n: int) -> Variant:
    # Four samples: 50 steps with as many as the full model's evaluation would take longer than training it.
    changes, label = {"sampling.n_steps": n, "sampling.n_samples": 4}, f"sampler: {n} step{'s' if n > 1 else ''}"
    return _at_test(label, "sampler", changes)


#: Which references a trained model is tried with: name, leads, session.
REFERENCED = tuple(
    (regime if session == "same" else f"{regime}_{session}", regime, session)
    for session in ("same", "other") for regime in ("I", "limb", "all")
)  # fmt: skip
#: What each regime shows, in words.
LEADS_GIVEN = {"none": "no reference", "I": "lead I", "limb": "six limb leads", "all": "12 leads"}


def _with_reference(regime: str, session: str) -> Variant:
    changes = {"evaluation.reference": regime, "evaluation.session": session}
    return _at_test(f"reference: {LEADS_GIVEN[regime]}, {session} session", "reference", changes)


#: Steps of the sampler with which ablations are compared once more: how many a model needs may be what was changed.
MORE_STEPS = 8
#: The full model, one changed thing per row (the paper's innovations first), its other uses, and the other methods.
VARIANTS: dict[str, Variant] = {
    "p2es": Variant("P2Es"),
    "spectral_blur": Variant("spectral blur", {"process.blur": "spectral"}, "forward"),
    "no_blur": Variant("no blur", {"process.blur": "none"}, "forward"),
    # Blur alone must destroy the signal by itself: all but its mean.
    "no_noise": Variant("no noise: blur alone", {"process.noise": False, "process.sigma_blur_ms": 1e4,
                                                 "process.min_response": 1e-4}, "forward"),
    "noise_then_blur": Variant("noise first, then blur", {"process.order": "noise_blur"}, "forward"),
    "single_scale": Variant("single scale", {"denoiser.scales": (1,)}, "reverse"),
    "no_deblurring": Variant("no frequency deblurring", {"denoiser.deblurring": False}, "reverse"),
    "wiener_only": Variant("deblurring without learned residual", {"denoiser.deblurring_residual": False}, "reverse"),
    "stationary_deblurring": Variant("deblurring as much between beats as in them",
                                     {"denoiser.local_deblurring": False}, "reverse"),
    "ppg_at_input": Variant("PPG enters once, at the finest scale", {"denoiser.ppg_at_every_scale": False}, "reverse"),
    "no_noise_level": Variant("stage 1 is not told t", {"denoiser.noise_level": False}, "reverse"),
    "no_affinity": Variant("no affinity", {"affinity.mixing": "identity"}, "affinity"),
    "leads_apart": Variant("filters of each lead apart: affinity alone connects leads",
                           {"denoiser.mix_leads": False}, "affinity"),
    "leads_apart_no_affinity": Variant("filters of each lead apart, no affinity",
                                       {"denoiser.mix_leads": False, "affinity.mixing": "identity"}, "affinity"),
    "shared_affinity": Variant("one shared affinity matrix", {"affinity.mixing": "shared"}, "affinity"),
    "random_groups": Variant("random groups", {"affinity.mixing": "random"}, "affinity"),
    "demographic_groups": Variant("groups by demographics only", {"affinity.inputs": "demographics"}, "affinity"),
    "waveform_groups": Variant("groups by waveform only", {"affinity.inputs": "waveform"}, "affinity"),
    "groups_without_reference": Variant("groups that do not see the reference", {"affinity.reference": False},
                                        "affinity"),
    "no_contrastive": Variant("no contrastive loss", {"affinity.contrastive": False}, "affinity"),
    "nearest_centroid": Variant("nearest centroid instead of KNN", {"affinity.clustering": "centroid"}, "affinity"),
    "two_groups": Variant("2 groups", {"affinity.n_groups": 2}, "affinity"),
    "twelve_groups": Variant("12 groups", {"affinity.n_groups": 12}, "affinity"),
    "four_neighbours": Variant("K = 4", {"affinity.k_neighbours": 4}, "affinity"),
    "many_neighbours": Variant("K = 64", {"affinity.k_neighbours": 64}, "affinity"),
    "no_demographics": Variant("denoiser without demographics", {"denoiser.demographics": False}, "demographics"),
    "no_projection": Variant("no lead projection", {"denoiser.projection": False}, "design"),
    "no_phase_features": Variant("no beat-phase features", {"denoiser.phase_features": False}, "design"),
    "adversarial": Variant("with adversarial and perceptual loss", {"method.name": "p2es_hybrid"}, "design"),
    "white_noise": Variant("noise of each beat its own", {"process.beat_share": 0.0}, "design"),
    "hidden_demographics": _at_test("age and sex withheld at test time", "demographics",
                                    {"evaluation.demographics": "hidden"}),
    "wrong_demographics": _at_test("wrong age and sex at test time", "demographics",
                                   {"evaluation.demographics": "wrong"}),
    **{f"steps_{n}": _steps(n) for n in (1, 2, 3, 4, 8, 16, 50)},
    **{f"reference_{name}": _with_reference(regime, session) for name, regime, session in REFERENCED},
    "unet": _baseline("U-Net regression", "unet"),
    "bilstm": _baseline("BiLSTM regression", "bilstm"),
    "ddpm": Variant("Conditional DDPM (no blur, deblurring, affinity)", {"process.blur": "none",
                    "process.beat_share": 0.0, "denoiser.deblurring": False, "affinity.mixing": "identity"},
                    "baseline"),
    "rddm": _baseline("RDDM, 12 leads", "rddm"),
    "p2e_wgan": _baseline("P2E-WGAN, 12 leads", "p2e_wgan"),
    "cardiogan": _baseline("CardioGAN, 12 leads", "cardiogan"),
    "rectified_flow": _baseline("Rectified flow", "rectified_flow"),
}  # fmt: skip

# The three innovations, and the other diffusion model that shares our sampler: its steps were chosen for P2Es.
for _base in ("no_blur", "single_scale", "no_deblurring", "no_affinity", "ddpm"):
    _changes = VARIANTS[_base].changes | _steps(MORE_STEPS).changes
    _label = f"{VARIANTS[_base].label}, {MORE_STEPS} steps"
    VARIANTS[f"{_base}_steps_{MORE_STEPS}"] = Variant(_label, _changes, "more_steps", _base)

#: What is tried with references beside P2Es: the paper's innovations left out, and other methods. Half the samples: the
#: CRPS is the same for any number, and scoring must stay cheap. The last one is not trained in ``quick``.
GIVEN_REFERENCES, _SAMPLES = ("no_blur", "no_deblurring", "no_affinity", "unet", "ddpm", "rectified_flow"), 8
for _base in GIVEN_REFERENCES:
    for _name, _regime, _session in REFERENCED:
        _as_p2es = _with_reference(_regime, _session)
        _changes = VARIANTS[_base].changes | _as_p2es.changes | {"sampling.n_samples": _SAMPLES}
        _label = f"{VARIANTS[_base].label}, {_as_p2es.label}"
        VARIANTS[f"{_base}_reference_{_name}"] = Variant(_label, _changes, "others_reference", _base)

#: A network trained further on the recording of the reference, for each person anew.
FINE_TUNED, FINE_TUNED_LABEL = "unet_fine_tuned", "U-Net fine-tuned on the reference"
for _name, _regime, _session in REFERENCED:
    _as_p2es = _with_reference(_regime, _session)
    _changes = VARIANTS["unet"].changes | _as_p2es.changes | {"evaluation.fine_tuned": True}
    _label = f"{FINE_TUNED_LABEL}, {_as_p2es.label.removeprefix('reference: ')}"
    VARIANTS[f"{FINE_TUNED}_reference_{_name}"] = Variant(_label, _changes, "others_reference", "unet")

#: Methods that need no training by gradients on this data set, scored beside P2Es.
REFERENCES: dict[str, str] = {
    "template": "Mean-beat template at PPG beats",
    "template_groups": "Mean-beat template by sex and age",
    "ridge": "Ridge regression on lagged PPG",
    "pasted": "Average beat pasted at the pulses",
    **{
        f"pasted_{name}": f"Own beat pasted, {LEADS_GIVEN[regime]}, {session} session"
        for name, regime, session in REFERENCED
    },
    "irreducible": "Irreducible error",
    "irreducible_beats": "Irreducible error, beat times known",
    **{
        f"irreducible_{name}": f"Irreducible error, {LEADS_GIVEN[regime]}, {session} session"
        for name, regime, session in REFERENCED
        if regime == "all"
    },
    "transfer": "P2Es trained on simulated data",
}

#: The best possible (simulated people), each scored by posterior draws: what it knows beside PPG, age and sex, as
#: :func:`p2es_lib.simulator.conditional_mean_ecg` is told. Of references that show some leads only none is known.
FLOORS: dict[str, dict[str, str]] = {
    "irreducible": {},
    "irreducible_beats": {"hold": "beats"},
    "irreducible_all": {"known": "person"},
    "irreducible_all_other": {"known": "person_other_session"},
}

#: What ``smoke`` and ``quick`` compare, so that they end in the time that they promise; the others compare all.
_CHOSEN = {
    "smoke": (
        "unet", "no_affinity", "hidden_demographics", "reference_all", "reference_all_other", "unet_reference_all",
        "unet_fine_tuned_reference_all", "steps_1", "steps_2", "steps_8",
        "no_affinity_steps_8",
    ),
    "quick": (
        "unet", "ddpm", "no_blur", "no_deblurring", "no_affinity", "hidden_demographics", "wrong_demographics",
        *(f"reference_{name}" for name, *_ in REFERENCED),
        *(f"{base}_reference_{name}" for base in GIVEN_REFERENCES[:-1] for name in ("I", "all")),
        "steps_1", "steps_2", "steps_3", "steps_4", "steps_8", "no_blur_steps_8", "no_deblurring_steps_8",
        "no_affinity_steps_8", "ddpm_steps_8",
    ),
}  # fmt: skip

#: Kinds of variants, and what each is about.
KINDS = {"baselines": ("baseline",), "ablations": tuple(SUBJECTS), "samplers": ("sampler",),
         "more_steps": ("more_steps",), "references": ("reference",),
         "references_of_others": ("others_reference",)}  # fmt: skip


def variants_of(profile: str, kind: str, dataset: str = "simulated") -> list[str]:
    """Variants of a profile by kind (:data:`KINDS`), in the order of :data:`VARIANTS`, without the full model.

    Which references there are of real recordings is known once they are prepared: notebook 17 looks, and the workflow
    scores none of these variants.
    """
    about = KINDS[check_choice("kind", kind, KINDS)]
    if kind.startswith("references") and dataset != "simulated":
        return []
    chosen = _CHOSEN.get(profile, VARIANTS)
    return [name for name, variant in VARIANTS.items() if variant.about in about and name in chosen]


def configure(profile: str, dataset: str = "simulated", variant: str = "p2es") -> Config:
    """Settings of a variant of :data:`VARIANTS`; an :class:`InputError` for an unknown profile, data set or variant."""
    check_choice("variant", variant, VARIANTS)
    parse_dataset(dataset)
    config = get_config(profile, dataset)
    for setting, value in VARIANTS[variant].changes.items():
        config = config.replace(setting, value)
    return config


def seeds_of(profile: str, variant: str, seeds: list[int]) -> list[int]:
    """Seeds of a variant, of those asked for: in ``wide``, the first only for what ``quick`` leaves out; else all."""
    everything = profile != "wide" or variant == "p2es" or variant in _CHOSEN["quick"]
    return seeds if everything else seeds[:1]


def count_seeds(profile: str, seeds: list[int]) -> str:
    """How many trainings are behind a table, for its caption."""
    fewer = " (what quick leaves out: 1)" if profile == "wide" and len(seeds) > 1 else ""
    return f"{len(seeds)} training seed(s){fewer}"


def parse_seeds(text: str) -> list[int]:
    """``"0,1,2"`` to [0, 1, 2]; anything else raises an :class:`InputError`."""
    try:
        seeds = sorted({int(part) for part in str(text).split(",")})
    except ValueError:
        seeds = []
    if not seeds or seeds[0] < 0 or seeds[-1] > MAX_SEED:
        raise InputError(f"seeds={text!r}: give whole numbers from 0 to {MAX_SEED}, separated by commas, as 0,1,2")
    return seeds
