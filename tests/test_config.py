"""Settings: checked, hashed, saved and read back."""

import copy
import dataclasses
import json

import pytest

from p2es_lib.core.config import PROFILES, Config, config_hash, get_config, real_profile, same_settings
from p2es_lib.core.errors import InputError

SECTIONS = [f.name for f in dataclasses.fields(Config) if f.default_factory is not dataclasses.MISSING]


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_survive_json_and_keep_their_hash(profile):
    config = get_config(profile, "mimic4wdb")
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and config_hash(again) == config_hash(config)
    assert (config.profile, config.dataset) == (profile, "mimic4wdb")


def test_profiles_differ_in_size():
    smoke, quick, full = map(get_config, ("smoke", "quick", "full"))
    assert smoke.training.n_steps < quick.training.n_steps < full.training.n_steps
    assert smoke.data.n_train_subjects < quick.data.n_train_subjects < full.data.n_train_subjects


def test_real_recordings_of_quick_get_the_settings_of_wide():
    for dataset in ("ptb-xl", "simulated+bidmc"):
        quick, wide = get_config("quick", dataset).to_dict(), get_config("wide", dataset).to_dict()
        assert {name for name in quick if quick[name] != wide[name]} == {"profile"}
    assert [real_profile(profile) for profile in PROFILES] == ["smoke", "wide", "wide", "full"]


def test_quick_is_a_shorter_wide_on_the_embedded_cohort():
    quick, wide = get_config("quick"), get_config("wide")
    changed = {
        (section, name)
        for section, values in quick.to_dict().items() if isinstance(values, dict)
        for name, value in values.items() if value != wide.to_dict()[section][name]
    }  # fmt: skip
    of_data = {("data", name) for name in ("n_train_subjects", "n_test_subjects", "windows_per_subject")}
    assert changed == of_data | {("training", "n_steps"), ("training", "calibration_batches")}
    assert quick.training.n_steps < wide.training.n_steps
    counts = [config.data.n_train_subjects * config.data.windows_per_subject for config in (quick, wide)]
    assert counts[0] == counts[1], "as many stored windows to learn templates from"


def test_every_setting_changes_the_hash():
    seen, count = {config_hash(get_config()), config_hash(get_config(dataset="bidmc"))}, 2
    for section in SECTIONS:
        for setting in dataclasses.fields(getattr(get_config(), section)):
            config = copy.deepcopy(get_config())
            object.__setattr__(getattr(config, section), setting.name, "changed")  # past the checks
            seen.add(config_hash(config))
            count += 1
    assert len(seen) == count > 40


def test_the_same_number_written_otherwise_is_the_same_setting():
    assert config_hash(get_config().replace("signal.sampling_rate", 125)) == config_hash(get_config())
    assert get_config().replace("denoiser.scales", [1, 4]).denoiser.scales == (1, 4)


def test_replace_returns_a_changed_copy():
    config = get_config()
    changed = config.replace("process.blur", "none")
    assert changed.process.blur == "none" and config.process.blur == "dct"
    assert changed.replace("process.blur", "dct") == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.process.blur = "none"


@pytest.mark.parametrize("setting", ["blur", "process", "profile", "profile.name", "process.", "process.blurr", "x.y"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(InputError, match="unknown"):
        get_config().replace(setting, "dct")


@pytest.mark.parametrize(("setting", "value"), [
    ("signal.sampling_rate", 20.0), ("signal.window_samples", 1000), ("signal.window_samples", 64),
    ("data.n_test_subjects", 0), ("data.max_windows", 0), ("data.min_quality", 1.2),
    ("process.blur", "gauss"), ("process.sigma_blur_ms", 0.0), ("process.min_response", 1.0),
    ("process.logsnr_min", 11.0),
    ("denoiser.scales", (2, 4)), ("denoiser.scales", ()), ("denoiser.width", 0),
    ("affinity.mixing", "none"), ("affinity.inputs", "ecg"), ("affinity.clustering", "ward"),
    ("affinity.n_groups", 0), ("affinity.embedding_dim", 0), ("affinity.batch_size", 1), ("affinity.temperature", 0.0),
    ("affinity.temperature", float("nan")), ("affinity.learning_rate", -1.0), ("affinity.n_steps", -1),
    ("training.n_steps", 0), ("training.ema_decay", 1.0), ("training.learning_rate", 0.0), ("training.clip_norm", -1.0),
    ("sampling.sampler", "euler"), ("sampling.n_steps", 0),
    ("evaluation.n_bootstrap", 0), ("evaluation.max_lag_s", -0.1),
])  # fmt: skip
def test_impossible_values_are_refused_by_name(setting, value):
    with pytest.raises(InputError, match=setting.split(".")[0]):
        get_config().replace(setting, value)


@pytest.mark.parametrize(("setting", "value"), [
    ("training.n_steps", "100"), ("training.n_steps", 10.5), ("training.n_steps", True), ("data.stream_training", 1),
    ("process.blur", None), ("denoiser.scales", 4), ("signal.sampling_rate", "125"),
])  # fmt: skip
def test_values_of_the_wrong_type_are_refused_by_name(setting, value):
    with pytest.raises(InputError, match=rf"{setting}=.*expected"):
        get_config().replace(setting, value)


def test_unknown_profiles_keys_and_shapes_are_refused():
    with pytest.raises(InputError, match="smoke, quick, wide, full"):
        get_config("slow")
    wrong = [({"forward": {}}, "forward"), ({"process": {"blurr": 1}}, "blurr"), ({"process": 3}, "process")]
    for values, named in wrong:
        with pytest.raises(InputError, match=named):
            Config.from_dict(values)
    assert Config.from_dict({}) == Config()


def test_files_of_older_versions_are_read_under_todays_names():
    stored = get_config().to_dict()
    stored["signal"]["n_samples"] = 256
    del stored["signal"]["window_samples"]
    assert Config.from_dict(stored) == get_config().replace("signal.window_samples", 256)


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_are_the_same_whatever_version_stored_them(section):
    """A setting that is missing is the default it has now; one that is unknown, or has another value, differs."""
    config = get_config("full")
    for setting in dataclasses.fields(getattr(config, section)):
        stored, value = config.to_dict(), getattr(getattr(config, section), setting.name)
        del stored[section][setting.name]
        assert same_settings(stored, config.to_dict()) == (value == setting.default), setting.name
        assert not same_settings(config.to_dict(), config.to_dict() | {section: {"unheard": 1}})
    assert not same_settings({}, config.to_dict())
    fewer = {name: section for name, section in config.to_dict().items() if name != "method"}
    assert same_settings(fewer, config.to_dict())  # a section that is new
    assert not same_settings(fewer, config.replace("method.name", "unet").to_dict())
    twice = config.to_dict()["signal"] | {"n_samples": 512}
    assert not same_settings(config.to_dict() | {"signal": twice}, config.to_dict())
    assert same_settings(config.to_dict() | {"code": "x"}, {"signal": config.to_dict()["signal"], "code": "x"})
    assert not same_settings(config.to_dict() | {"code": "x"}, {"code": "y"})
