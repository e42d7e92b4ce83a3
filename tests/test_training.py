"""The training loop: it learns, it resumes exactly, and it never sees a test subject."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import no_reference, r_times_of, synthetic_windows, tiny_config

from p2es_lib.core import learned
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, hide_demographics, masked_mse
from p2es_lib.core.reference import Reference
from p2es_lib.method.p2es import P2Es, draw_times
from p2es_lib.reference.delay import known_r_times, timing_loss
from p2es_lib.training import loop
from p2es_lib.training.loop import CHECKPOINT_FILE, learning_rate_at, train
from p2es_lib.training.record import Stopwatch, read_history


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


WEIGHT_FILES = ["weights.json", "weights.safetensors"]


def content_of(folder) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def state_of(folder) -> dict[str, torch.Tensor]:
    return P2Es.from_pretrained(folder).state_dict()


def test_loss_counts_existing_leads_only():
    target, estimate = torch.zeros(2, 12, 4), torch.ones(2, 12, 4)
    estimate[:, 6:] = 100.0  # absent leads: whatever they are must not count
    mask = torch.tensor([[1] * 6 + [0] * 6, [2] * 6 + [0] * 6])
    assert masked_mse(estimate, target, mask) == pytest.approx(1.0)
    estimate[0, 0] = 3.0
    assert masked_mse(estimate, target, mask) == pytest.approx((11 + 9) / 12)


def test_loss_of_p2es_is_that_of_both_stages_and_of_the_delays():
    windows = synthetic_windows(window_samples=512)  # of a shorter one no delay is found
    torch.manual_seed(0)
    module = P2Es(tiny_config(signal__window_samples=512), 0.2)
    module.prepare(windows.split("train"), seed=0, progress=False)
    with torch.no_grad():  # off the start, at which both stages agree
        for parameter in module.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    raw = {"ppg": torch.tensor(windows.ppg[:4]), "ecg": torch.tensor(windows.ecg[:4]),
           "lead_mask": torch.tensor(windows.lead_mask[:4]),
           "demographics": windows.demographics[:4], "subjects": list(windows.index["subject"][:4]),
           "reference": Reference.none(4, 125.0), "r_times": r_times_of(windows.select(np.arange(4)))}  # fmt: skip
    raw["r_times"][2] = torch.inf  # of one window nothing is known
    batch = Batch(module, raw, torch.Generator().manual_seed(0))
    assert torch.equal(batch.r_times, raw["r_times"])
    estimate, of_delays = module.estimate(module, batch, torch.Generator().manual_seed(1))
    loss, logged = module.training_loss(module, batch, torch.Generator().manual_seed(1))
    of = [
        float(((part.detach() - batch.x_0) ** 2)[batch.mask > 0].mean()) for part in (estimate.refined, estimate.coarse)
    ]
    assert of[0] != pytest.approx(of[1], rel=1e-3)
    timing = module.timing(batch.ppg, batch.demographics, batch.reference)
    _, common, errors = known_r_times(timing, batch.r_times)
    assert common.isfinite().tolist() == [True, True, False, True] and errors.isfinite().sum() >= 3
    assert of_delays.item() == pytest.approx(timing_loss(timing, common, errors).item(), rel=1e-5)
    assert loss.item() == pytest.approx(of[0] + 1.0 * of[1] + 0.05 * of_delays.item(), rel=1e-5)
    assert abs(0.05 * of_delays.item()) > 1e-3
    assert float(logged) == pytest.approx(of[0], rel=1e-5) and not logged.requires_grad


def test_times_cover_the_unit_interval_evenly():
    times = draw_times(16, torch.Generator().manual_seed(0))
    assert len(times) == 16 and (times[-4:] == 1).all(), "a quarter at t = 1"
    assert ((times[:12] * 12).long() == torch.arange(12)).all(), "one time per slice"


def test_hidden_demographics_become_missing_ones():
    features = torch.tensor([[0.3, 1.0, 1.0, 0.0]]).repeat(4000, 1)
    hidden = hide_demographics(features, torch.Generator().manual_seed(0))
    no_age, no_sex = hidden[:, 1] == 0, hidden[:, 2] == 0
    assert (hidden[no_age, :2] == 0).all() and (hidden[~no_age, 0] == 0.3).all()
    for share in (no_age, no_sex):
        assert abs(share.float().mean() - learned.HIDE_PROBABILITY) < 0.02


def test_learning_rate_warms_up_and_decays():
    config = tiny_config(training__n_steps=100, training__warmup_steps=10, training__learning_rate=1.0)
    rates = [learning_rate_at(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and np.argmax(rates) in (9, 10)
    assert (np.diff(rates[10:]) < 0).all() and rates[-1] < 0.03


def test_it_learns_and_writes_a_finished_run(windows, tmp_path):
    config = tiny_config(
        training__n_steps=150, training__validate_every=50, training__checkpoint_every=150, denoiser__lead_features=2
    )
    config = config.replace("training.learning_rate", 5e-3)
    model = train(config, windows, tmp_path, progress=False)
    history = read_history(tmp_path)
    losses = history["loss"].dropna().to_numpy()
    assert losses[-10:].mean() < 0.75 * losses[:5].mean()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cost.json", "history.csv", *WEIGHT_FILES]
    best = history["validation_rmse"].min()
    validation = windows.split("validation")
    assert loop.validate(model, validation)["validation_rmse"] == pytest.approx(best, rel=1e-4), (
        "the best average is kept"
    )


def test_cost_of_a_continued_training_counts_all_its_parts(monkeypatch):
    clock = {"now": 100.0}
    monkeypatch.setattr("p2es_lib.training.record.time.monotonic", lambda: clock["now"])
    watch = Stopwatch()
    with watch("loading"):
        clock["now"] += 2
    clock["now"] += 5
    assert watch.seconds() == {"total": 7.0, "preparing": 0.0, "loading": 2.0, "validating": 0.0}
    saved, clock["now"] = watch.seconds(), 5000.0  # another process, another clock
    later = Stopwatch(saved)
    with later("loading"):
        clock["now"] += 1
    clock["now"] += 2
    assert later.seconds() == {"total": 10.0, "preparing": 0.0, "loading": 3.0, "validating": 0.0}


@pytest.mark.parametrize("stop_at", [3, 5])
def test_interrupted_training_ends_with_the_same_weights(windows, tmp_path, monkeypatch, stop_at):
    config = tiny_config()
    train(config, windows, tmp_path / "whole", progress=False)
    calls = {"n": 0}
    original = P2Es.training_loss

    def interrupted(*arguments):
        calls["n"] += 1
        if calls["n"] > stop_at:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(P2Es, "training_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, windows, tmp_path / "halved", progress=False)
    assert (tmp_path / "halved" / CHECKPOINT_FILE).exists() == (stop_at >= 4)
    monkeypatch.setattr(P2Es, "training_loss", original)
    train(config, windows, tmp_path / "halved", progress=False)
    whole, halved = state_of(tmp_path / "whole"), state_of(tmp_path / "halved")
    for name in whole:
        assert torch.equal(whole[name], halved[name]), name
    assert content_of(tmp_path / "whole") == content_of(tmp_path / "halved")
    assert read_history(tmp_path / "whole").equals(read_history(tmp_path / "halved"))


def test_checkpoint_of_other_settings_is_not_continued(windows, tmp_path, monkeypatch, capsys):
    def stop(step, config):
        if step == 5:
            raise KeyboardInterrupt
        return learning_rate_at(step, config)

    monkeypatch.setattr(loop, "learning_rate_at", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), windows, tmp_path, progress=False)
    monkeypatch.setattr(loop, "learning_rate_at", learning_rate_at)
    train(tiny_config(training__weight_decay=0.5), windows, tmp_path, progress=False)
    assert "continuing" not in capsys.readouterr().out


def test_seeds_differ_and_repeat(windows, tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train(tiny_config(), windows, tmp_path / name, seed=seed, progress=False)
    a, b, c = (state_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a) and content_of(tmp_path / "a") == content_of(tmp_path / "b")
    assert content_of(tmp_path / "a") != content_of(tmp_path / "c")
    assert not torch.equal(a["denoiser.multi_scale.stem.weight"], c["denoiser.multi_scale.stem.weight"])


def test_no_subject_but_training_ones_reaches_the_loss(windows, tmp_path, monkeypatch):
    seen = set()
    original = P2Es.training_loss

    def spy(module, model, batch, *arguments):
        seen.update(batch.subjects)
        return original(module, model, batch, *arguments)

    monkeypatch.setattr(P2Es, "training_loss", spy)
    model = train(tiny_config(), windows, tmp_path, progress=False)
    allowed = set(windows.split("train").index["subject"])
    assert seen and seen <= allowed and set(model.group_finder.bank_subjects) <= allowed


def loss_of(module, batch):
    generator = torch.Generator().manual_seed(0)
    return module.training_loss(module, Batch(module, batch, generator), generator)[0].item()


def test_loss_ignores_what_stands_in_absent_leads():
    limb = synthetic_windows(lead_mask=np.array([1, 2, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0]))
    torch.manual_seed(0)
    module = P2Es(tiny_config(), trained_leads=np.array(limb.lead_mask[0]) > 0)
    module.group_finder.fit(limb.split("train"), seed=0)
    losses = []
    for garbage in (0.0, 9.0):
        ecg = torch.tensor(limb.ecg[:4])
        ecg[:, 6:] = garbage
        batch = {"ppg": torch.tensor(limb.ppg[:4]), "ecg": ecg, "lead_mask": torch.tensor(limb.lead_mask[:4]),
                 "demographics": limb.demographics[:4], "subjects": list(limb.index["subject"][:4]),
                 **no_reference(limb.select(np.arange(4)))}  # fmt: skip
        losses.append(loss_of(module, batch))
    assert losses[0] == pytest.approx(losses[1])
    everything = {**batch, "ecg": torch.tensor(limb.ecg[:4]), "lead_mask": torch.full((4, 12), 2)}
    assert loss_of(module, everything) != pytest.approx(losses[0])


def test_validation_ignores_what_stands_in_absent_leads():
    limb = synthetic_windows(lead_mask=np.array([1, 2, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0]))
    torch.manual_seed(0)
    module = P2Es(tiny_config(), trained_leads=np.array(limb.lead_mask[0]) > 0)
    module.group_finder.fit(limb.split("train"), seed=0)
    garbage = limb.ecg.copy()
    garbage[:, 6:] = 9.0
    scores = [
        loop.validate(module, dataclasses.replace(limb, ecg=ecg).split("validation")) for ecg in (limb.ecg, garbage)
    ]
    assert scores[0] == pytest.approx(scores[1]) and all(math.isfinite(value) for value in scores[0].values())


def test_saved_weights_are_the_best_average(windows, tmp_path, monkeypatch):
    """Of four validations (steps 4, 8, 10, 12) the second is made the best: its moving average must be saved."""
    scores, averages = iter([1.0, 0.5, 0.8, 0.9]), []

    def fake(model, validation):
        averages.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return {"validation_rmse": next(scores), "validation_loss_mid": 0.0}

    shadow, original = {}, loop.update_average

    def by_hand(average, module, decay, step):
        decay_now = min(decay, (1 + step) / (10 + step))
        for name, p in module.named_parameters():
            before = shadow.get(name, dict(average.named_parameters())[name].detach().clone())
            shadow[name] = decay_now * before + (1 - decay_now) * p.detach()
        original(average, module, decay, step)

    monkeypatch.setattr(loop, "validate", fake)
    monkeypatch.setattr(loop, "update_average", by_hand)
    saved = train(tiny_config(training__n_steps=12), windows, tmp_path, progress=False)
    for name, p in saved.named_parameters():
        assert torch.equal(p, averages[1][name]), name
    changed = [name for name in averages[1] if not torch.equal(averages[1][name], averages[-1][name])]
    assert changed, "the averages of the validations differ"
    for name in changed:
        torch.testing.assert_close(averages[-1][name], shadow[name], atol=1e-5, rtol=1e-4)


def test_training_windows_do_not_count_themselves_as_neighbours(windows, tmp_path, monkeypatch):
    excluded, original = [], P2Es.condition

    def spy(self, ppg, demographics, *, exclude_subjects=None, **known):
        if self.training:
            excluded.append(exclude_subjects)
        return original(self, ppg, demographics, exclude_subjects=exclude_subjects, **known)

    monkeypatch.setattr(P2Es, "condition", spy)
    train(tiny_config(), windows, tmp_path, progress=False)
    in_steps = [names for names in excluded if names is not None]
    assert len(in_steps) == 8 and all(
        len(names) == 4 and all(isinstance(name, str) for name in names) for names in in_steps
    )


def test_scale_and_weights_do_not_see_the_test_split(windows, tmp_path):
    louder = np.array(windows.ecg)
    louder[(windows.index["split"] == "test").to_numpy()] *= 10
    train(tiny_config(), windows, tmp_path / "a", progress=False)
    train(tiny_config(), dataclasses.replace(windows, ecg=louder), tmp_path / "b", progress=False)
    a, b = state_of(tmp_path / "a"), state_of(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a) and content_of(tmp_path / "a") == content_of(tmp_path / "b")


def test_missing_split_is_an_error(windows, tmp_path):
    with pytest.raises(InputError, match="validation"):
        train(tiny_config(), windows.select((windows.index["split"] != "validation").to_numpy()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_history_of_a_missing_run_is_an_error(tmp_path):
    with pytest.raises(InputError, match="history.csv"):
        read_history(tmp_path)


def test_moving_average_follows_the_weights(windows):
    module = P2Es(tiny_config())
    average = P2Es(tiny_config())
    loop.update_average(average, module, decay=0.5, step=10**6)
    fresh = P2Es(tiny_config())
    with torch.no_grad():
        for p in fresh.parameters():
            p.fill_(2.0)
        for p in average.parameters():
            p.fill_(1.0)
    loop.update_average(average, fresh, decay=0.9, step=10**6)
    assert all(torch.allclose(p, torch.tensor(1.1)) for p in average.parameters())
    assert math.isclose(dataclasses.asdict(tiny_config())["training"]["ema_decay"], 0.9)


_TWO_PROCESSES = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from synthetic import no_reference, r_times_of, synthetic_windows, tiny_config
from p2es_lib.training.loop import make_fabric, train
fabric = make_fabric(devices=2)
fabric.launch()
model = train(tiny_config(), synthetic_windows(), Path(sys.argv[1]), fabric=fabric, progress=False)
total = float(sum(p.double().sum() for p in model.denoiser.parameters()))
Path(sys.argv[1] + f"-{fabric.global_rank}.txt").write_text(repr(total))
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(_TWO_PROCESSES)
    command = [sys.executable, str(script), str(tmp_path / "run"), str(Path(__file__).parent)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    sums = [(tmp_path / f"run-{rank}.txt").read_text() for rank in (0, 1)]
    assert sums[0] == sums[1], "the processes must agree on the weights"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["cost.json", "history.csv", *WEIGHT_FILES]


# ----------------------------------------------------------------------------------------------------------- precision
@pytest.mark.parametrize(("on_gpu", "on_cpu", "chosen"), [
    (False, False, "32-true"), (False, True, "bf16-mixed"), (True, False, "bf16-mixed"), (True, True, "bf16-mixed"),
])  # fmt: skip
def test_auto_takes_bfloat16_where_the_hardware_has_it(monkeypatch, on_gpu, on_cpu, chosen):
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(loop, "has_cpu_bf16", lambda: on_cpu)
    monkeypatch.setattr("lightning.fabric.Fabric", lambda **settings: made.append(settings))
    for precision in ("auto", "32-true", "bf16-mixed"):
        loop.make_fabric(precision=precision)
    # What is asked for by name is not overruled.
    assert [settings["precision"] for settings in made] == [chosen, "32-true", "bf16-mixed"]
    assert {settings["accelerator"] for settings in made} == {"cuda" if on_gpu else "cpu"}


@pytest.mark.parametrize(
    "answers", [(False, False), (True, False), (False, True), (None, True), (True, None), (None, None)]
)
def test_bfloat16_of_a_cpu_is_known_by_either_instruction_set(monkeypatch, answers):
    for name, answer in zip(("_is_avx512_bf16_supported", "_is_amx_tile_supported"), answers, strict=True):
        if answer is None:  # another version of torch
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)
    assert loop.has_cpu_bf16() is (True in answers)


def test_precision_is_checked_and_reaches_the_loop(windows, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="training.precision"):
        tiny_config(training__precision="fp8")
    asked, original = [], loop.make_fabric
    monkeypatch.setattr(loop, "make_fabric", lambda **settings: asked.append(settings) or original(**settings))
    train(tiny_config(training__n_steps=1, training__precision="32-true"), windows, tmp_path, progress=False)
    assert asked == [{"precision": "32-true"}]


def test_a_step_in_bfloat16_is_near_that_in_float32(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        # In place of the average, which would be one tenth of the step, the trained weights themselves are saved.
        monkeypatch.setattr(
            loop, "update_average", lambda average, module, *_: average.load_state_dict(module.state_dict())
        )
        config = tiny_config(training__n_steps=1, training__precision=precision)
        model = train(config, windows, tmp_path / precision, progress=False)
        found[precision] = torch.cat([p.flatten() for p in model.denoiser.parameters()])
    exact, rough = found.values()
    assert rough.dtype == torch.float32 and rough.isfinite().all() and not torch.equal(exact, rough)
    # AdamW's first step moves each weight by about the rate, in the direction of its gradient's sign.
    rate = learning_rate_at(0, tiny_config(training__n_steps=1))
    assert (exact - rough).abs().max() <= 2.1 * rate
    # Few gradients are so small that rounding turns them round.
    assert ((exact - rough).abs() < 0.2 * rate).float().mean() > 0.8
