"""Every setting of a run: frozen, checked, hashed. No other module holds a default of its own.

``get_config("quick")`` gives the settings of a profile; ``config.replace("process.blur", "none")`` gives a changed
copy. A finished run is reused where :func:`same_settings` holds; :func:`config_hash` is a short name for all settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from p2es_lib.core.errors import InputError, check_choice

PROFILES = ("smoke", "quick", "wide", "full")
#: Learned methods: name to module and class. A method's file is imported when it is asked for.
METHODS = {
    "p2es": "p2es_lib.method.p2es:P2Es",
    "p2es_hybrid": "p2es_lib.baselines.hybrid:HybridP2Es",
    "unet": "p2es_lib.baselines.unet:UNetRegression",
    "bilstm": "p2es_lib.baselines.bilstm:BiLSTMRegression",
    "rddm": "p2es_lib.baselines.rddm:RDDM",
    "p2e_wgan": "p2es_lib.baselines.p2e_wgan:P2EWGAN",
    "cardiogan": "p2es_lib.baselines.cardiogan:CardioGAN",
    "rectified_flow": "p2es_lib.baselines.rectified_flow:RectifiedFlow",
}
#: Settings under other names in files of older versions, and what they are called now.
RENAMED = {"signal.n_samples": "signal.window_samples"}


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _checked(default, rule: Callable[..., bool], text: str):
    """A setting with its default, and what must hold of it."""
    return field(default=default, metadata={"rule": rule, "text": text})


def _at_least(least: float, default):
    return _checked(default, lambda value: value >= least, f"at least {least}")


def _positive(default: float):
    return _checked(default, lambda value: value > 0, "must be positive")


def _one_of(default: str, *others: str):
    return field(default=default, metadata={"choices": (default, *others)})


class _Section:
    """Settings of one kind: each is checked when it is made, and must have the type of its default."""

    def __post_init__(self):
        section = type(self).__name__.removesuffix("Config").lower()
        for setting in dataclasses.fields(self):
            value, kind, check = getattr(self, setting.name), type(setting.default), setting.metadata
            # 125 and 125.0 are the same setting and must hash alike; JSON has lists only.
            if (kind, type(value)) in ((float, int), (tuple, list)):
                value = kind(value)
                object.__setattr__(self, setting.name, value)
            name = f"{section}.{setting.name}"
            _check(type(value) is kind, f"{name}={value!r}: expected {kind.__name__}, like {setting.default!r}")
            if "choices" in check:
                check_choice(name, value, check["choices"])
            _check("rule" not in check or check["rule"](value), f"{name}={value}: {check.get('text')}")


@dataclass(frozen=True)
class SignalConfig(_Section):
    """Windows: sampling rate (Hz) and length (samples); a window lasts window_samples / sampling_rate seconds."""

    sampling_rate: float = _checked(125.0, lambda rate: rate >= 50, "at least 50 Hz, QRS needs it")
    window_samples: int = _checked(1024, lambda n: n >= 128 and n % 128 == 0, "a multiple of 128")


@dataclass(frozen=True)
class DataConfig(_Section):
    """Cohort: subjects per split, windows per subject and the quality that a real window must have."""

    n_train_subjects: int = _at_least(1, 1000)
    n_validation_subjects: int = _at_least(1, 128)
    n_test_subjects: int = _at_least(1, 200)
    windows_per_subject: int = _at_least(1, 2)
    stream_training: bool = True  #: Fresh simulated subjects in every step, or a fresh PPG where only it is simulated.
    #: Of the training windows have their PPG disturbed, as a wearable's is (motion, drift, noise, clipping, gaps).
    disturbed_share: float = _checked(0.3, lambda share: 0 <= share <= 1, "between 0 and 1")
    stride_s: float = _at_least(0, 0.0)  #: From one real window to the next; 0: without overlap.
    max_windows: int = _at_least(1, 2000)  #: Real ones that a run uses, spread evenly over records and time.
    min_quality: float = _checked(0.7, lambda share: 0 <= share <= 1, "between 0 and 1")
    hold_out: str = ""  #: Source that is tested on and not trained on ("bidmc" in "mimic4wdb~bidmc").
    simulator_seed: int = 2025


@dataclass(frozen=True)
class MethodConfig(_Section):
    """Which learned method. ``size``: ``matched`` (about the parameters of P2Es) or ``published`` (as in its paper)."""

    name: str = _one_of(*METHODS)  # the first by default
    size: str = _one_of("matched", "published")


@dataclass(frozen=True)
class ProcessConfig(_Section):
    """Forward process: blur, then noise (book/pages/method.md); the blur in ms does not depend on the sampling rate."""

    blur: str = _one_of("dct", "spectral", "none")
    order: str = _one_of("blur_noise", "noise_blur")  # the latter blurs the noise too
    noise: bool = True  # else one small level of it at all times
    beat_share: float = _checked(0.85, lambda share: 0 <= share <= 1, "between 0 and 1")  # of the noise, alike in beats
    sigma_blur_ms: float = _positive(40.0)
    min_response: float = _checked(0.001, lambda share: 0 < share < 1, "between 0 and 1")
    logsnr_max: float = 10.0
    logsnr_min: float = -10.0

    def __post_init__(self):
        super().__post_init__()
        nothing = "process.noise=False with process.blur='none': nothing would happen to the signal"
        _check(self.noise or self.blur != "none", nothing)
        _check(self.logsnr_max > self.logsnr_min, "process.logsnr_max must exceed process.logsnr_min")


@dataclass(frozen=True)
class DenoiserConfig(_Section):
    """Denoiser: size, time scales, and the switches of the ablations.

    The trunk has 12 x ``lead_features`` channels; the stem turns ``stem_stride`` samples into one time step (32 ms at
    125 Hz, a third of a QRS complex). ``scales`` are strides in steps: a convolution of 5 taps at scale s spans
    5 * stem_stride * s samples, which are 0.16 s, 0.32 s, 1.3 s and 5 s.
    """

    lead_features: int = _at_least(1, 8)
    n_blocks: int = _at_least(1, 4)
    stem_stride: int = _at_least(1, 4)
    scales: tuple[int, ...] = (1, 2, 8, 32)
    ppg_at_every_scale: bool = True  # else it enters the first block's finest scale only
    noise_level: bool = True  # stage 1 is told t
    deblurring: bool = True  # stage 2
    deblurring_residual: bool = True  # its learned part, beside the Wiener gain
    local_deblurring: bool = True  # the share taken of it is learned per lead and sample; else all of it
    demographics: bool = True
    projection: bool = True  # on consistent leads
    phase_features: bool = True  # of the beats, beside the PPG itself
    mix_leads: bool = True  # filters see the channels of all leads; else the affinity alone connects leads

    def __post_init__(self):
        super().__post_init__()
        divides = all(finer < coarser and coarser % finer == 0 for finer, coarser in zip(self.scales, self.scales[1:]))
        good = self.scales[:1] == (1,) and divides
        _check(good, "denoiser.scales: 1, then multiples of the one before")


@dataclass(frozen=True)
class AffinityConfig(_Section):
    """GroupFinder: embedding, contrastive learning, KNN clustering, and how groups become affinity matrices."""

    #: One matrix per group, mixed per sample; one for all; none; or that of a group drawn from a hash of each window.
    mixing: str = _one_of("groups", "shared", "identity", "random")
    inputs: str = _one_of("both", "demographics", "waveform")  #: What the embedding sees.
    reference: bool = True  #: With both, it sees the person's reference too, if there is one.
    clustering: str = _one_of("knn", "centroid")  #: Ward on the K-nearest-neighbour graph, or k-means.
    contrastive: bool = True
    n_groups: int = _at_least(1, 6)
    k_neighbours: int = _at_least(1, 16)
    embedding_dim: int = _at_least(1, 32)
    max_windows: int = 20_000  #: Training windows, spread over subjects, that it learns from and keeps in its bank.
    temperature: float = _positive(0.1)
    n_steps: int = _at_least(0, 400)
    batch_size: int = _at_least(2, 256)  # a window and a neighbour
    learning_rate: float = _positive(2e-3)

    def __post_init__(self):
        super().__post_init__()
        least, name = max(self.n_groups, 2), f"affinity.max_windows={self.max_windows}"
        _check(self.max_windows >= least, f"{name}: at least {least}, a window a group")


@dataclass(frozen=True)
class TrainingConfig(_Section):
    """AdamW with warm-up and cosine decay, exponential moving average; ``precision``: of :func:`.make_fabric`."""

    n_steps: int = _at_least(1, 3000)
    batch_size: int = _at_least(1, 16)
    learning_rate: float = _positive(2.5e-3)
    weight_decay: float = _at_least(0, 1e-2)
    warmup_steps: int = _at_least(0, 100)
    ema_decay: float = _checked(0.999, lambda decay: 0 <= decay < 1, "in [0, 1)")
    clip_norm: float = _positive(1.0)
    validate_every: int = _at_least(1, 250)
    checkpoint_every: int = _at_least(1, 250)
    log_every: int = _at_least(1, 25)
    calibration_batches: int = _at_least(1, 16)  #: Not trained on; a method is calibrated to them after training.
    n_threads: int = _at_least(1, 2)
    precision: str = _one_of("auto", "32-true", "bf16-mixed")


@dataclass(frozen=True)
class SamplingConfig(_Section):
    """Evaluation: which sampler, how many steps, how many samples per window."""

    sampler: str = _one_of("multistep", "ancestral", "deterministic")
    n_steps: int = _at_least(1, 3)
    n_samples: int = _at_least(1, 16)
    batch_size: int = _at_least(1, 64)


@dataclass(frozen=True)
class EvaluationConfig(_Section):
    """Tables: bootstrap resamples of subjects, Monte-Carlo draws of the irreducible error, search range of the lag."""

    demographics: str = _one_of("given", "hidden", "wrong")  # what a method is told of the test subjects
    reference: str = _one_of("none", "I", "limb", "all")  # leads of the person's reference, if there is one
    session: str = _one_of("same", "other")  # in which the reference was recorded: that of the target, or not
    fine_tuned: bool = False  # a network is trained further on the reference's recording, instead of being shown it
    n_bootstrap: int = _at_least(1, 1000)
    n_floor_draws: int = _at_least(2, 96)
    max_lag_s: float = _at_least(0, 0.25)


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    profile: str = "quick"
    dataset: str = "simulated"
    signal: SignalConfig = field(default_factory=SignalConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def replace(self, setting: str, value) -> Config:
        """A copy with one setting changed, named as ``"section.name"``; unknown names are refused."""
        section, _, name = setting.partition(".")
        if not name or not dataclasses.is_dataclass(getattr(self, section, None)):
            raise InputError(f"unknown setting {setting!r}; settings are named section.name, for example process.blur")
        part = getattr(self, section)
        check_choice(f"setting {section}.*", name, [f.name for f in dataclasses.fields(part)])
        return dataclasses.replace(self, **{section: dataclasses.replace(part, **{name: value})})

    def to_dict(self) -> dict:
        """Nested dictionary that JSON can hold and :meth:`from_dict` reads back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        """Inverse of :meth:`to_dict`, of older versions too (:data:`RENAMED`); missing keys keep their defaults."""
        known = [setting.name for setting in dataclasses.fields(cls)]
        for key in values:
            check_choice("configuration section", key, known)
        return cls(**{key: _section(key, value) if key in _SECTIONS else value for key, value in values.items()})


_SECTIONS = {f.name: f.default_factory for f in dataclasses.fields(Config) if f.default is dataclasses.MISSING}


def _section(key: str, values) -> _Section:
    """One section from settings by name: under today's names, with defaults for what is missing."""
    _check(isinstance(values, dict), f"configuration section {key}: expected settings by name, found {values!r}")
    given, values = values, {RENAMED.get(f"{key}.{name}", name).rpartition(".")[2]: v for name, v in values.items()}
    _check(len(given) == len(values), f"configuration section {key}: a setting under its old and its new name")
    known = [setting.name for setting in dataclasses.fields(_SECTIONS[key])]
    for name in values:
        check_choice(f"setting {key}.*", name, known)
    return _SECTIONS[key](**values)


def same_settings(stored: dict, now: dict) -> bool:
    """Whether all entries of ``now`` stand in what a run or a store was made with (nothing stands in an empty one).

    Sections of :class:`Config` are compared with defaults filled in: a new one leaves finished work valid.
    """

    def comparable(key: str, value):
        return _section(key, value) if key in _SECTIONS else json.loads(json.dumps(value))

    stored = stored and dict.fromkeys(_SECTIONS, {}) | stored
    try:
        return all(key in stored and comparable(key, stored[key]) == comparable(key, now[key]) for key in now)
    except InputError:  # a setting that is gone, or a value that is not taken any more
        return False


#: What each profile changes; everything else is the default of the section. ``quick`` takes some fifty minutes on
#: two slow cores: fewer steps, fewer test subjects, and one window of each to validate and score; twice the training
#: subjects, so that templates and classifiers learn from as many stored windows. One thread each: trainings run side by
#: side.
_PROFILE_SETTINGS: dict[str, dict[str, dict]] = {
    "smoke": {
        "data": {"n_train_subjects": 96, "n_validation_subjects": 16, "n_test_subjects": 24, "max_windows": 160},
        "affinity": {"n_steps": 30, "batch_size": 64, "n_groups": 3, "k_neighbours": 8},
        # After a third of these steps samples had no QRS complex yet, and nothing could be measured in them.
        "training": {"n_steps": 80, "batch_size": 8, "warmup_steps": 6, "ema_decay": 0.9, "validate_every": 20,
                     "checkpoint_every": 40, "log_every": 8, "calibration_batches": 2, "n_threads": 1},
        "sampling": {"n_steps": 2, "n_samples": 4},
        "evaluation": {"n_bootstrap": 200, "n_floor_draws": 12},
    },
    "quick": {
        "data": {"n_train_subjects": 2000, "n_test_subjects": 150, "windows_per_subject": 1},
        "training": {"n_threads": 1, "n_steps": 600, "calibration_batches": 8},
    },
    "wide": {"training": {"n_threads": 1, "n_steps": 2000}},
    "full": {
        "data": {"n_train_subjects": 8000, "n_validation_subjects": 500, "n_test_subjects": 1000, "max_windows": 20000},
        "denoiser": {"lead_features": 12, "n_blocks": 8, "stem_stride": 2, "scales": (1, 4, 16, 64)},
        "affinity": {"n_groups": 8, "n_steps": 2000},
        "training": {"n_steps": 60000, "learning_rate": 1e-3, "batch_size": 64, "warmup_steps": 1000,
                     "ema_decay": 0.9995, "validate_every": 2000, "checkpoint_every": 2000, "log_every": 100},
        "sampling": {"n_steps": 16, "n_samples": 32},
        "evaluation": {"n_floor_draws": 256},
    },
}  # fmt: skip


def real_profile(profile: str) -> str:
    """Whose settings and cohort real recordings get: ``wide`` for ``quick``, as the package's model; else its own."""
    return "wide" if profile == "quick" else profile


def get_config(profile: str = "quick", dataset: str = "simulated") -> Config:
    """Settings of a profile for a data set; an unknown profile is an :class:`InputError`, data sets are not checked."""
    check_choice("profile", profile, PROFILES)
    simulated = dataset == "simulated"
    settings = _PROFILE_SETTINGS[profile if simulated else real_profile(profile)]
    config = Config.from_dict({"profile": profile, "dataset": dataset} | settings)
    if simulated:
        return config
    # Bedside monitors delay the PPG by up to some 0.3 s more than arteries do.
    return config.replace("evaluation.max_lag_s", 0.4).replace("data.hold_out", dataset.partition("~")[2])


def config_hash(config: Config) -> str:
    """Sixteen hexadecimal digits that change whenever a setting does."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
