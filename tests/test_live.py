"""Live translation: however the PPG arrives, the ECG is the same, as late as stated, and memory stays bounded."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import tiny_p2es

from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import load_method
from p2es_lib.core.paths import PRETRAINED
from p2es_lib.core.reference import Reference
from p2es_lib.evaluation.coherence import qrs_height_cv
from p2es_lib.method.p2es import P2Es
from p2es_lib.translation.check import refusal
from p2es_lib.translation.live import FADE_S, EcgBlock, LiveTranslator, central_sample, ecg_blocks


@pytest.fixture(scope="module")
def model() -> P2Es:
    return tiny_p2es()


@pytest.fixture(scope="module")
def ppg(make_pair) -> dict[float, np.ndarray]:
    return {rate: make_pair(9, rate, noise=0.02).ppg for rate in (64.0, 125.0, 62.4725, 500.0)}


def chunks(x: np.ndarray, sizes) -> list[np.ndarray]:
    """x cut into pieces of these sizes, again and again."""
    parts, first, turn = [], 0, 0
    while first < len(x):
        size = sizes[turn % len(sizes)]
        parts.append(x[first : first + size])
        first, turn = first + size, turn + 1
    return parts


def live_ecg(model, x, sizes, rate) -> EcgBlock:
    live = LiveTranslator(model, sampling_rate=rate, age=60, sex="F", n_samples=3)
    blocks = [live.push(part) for part in chunks(x, sizes)]
    return EcgBlock.joined([*blocks, live.finish()])


def offline_ecg(model, x, rate) -> EcgBlock:
    live = LiveTranslator(model, sampling_rate=rate, age=60, sex="F", n_samples=3)
    return EcgBlock.joined(list(ecg_blocks(live, x)))


def same(one: EcgBlock, other: EcgBlock) -> None:
    for name in ("mean", "std", "lower", "upper", "central", "ppg"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(one.covered, other.covered)
    np.testing.assert_array_equal(one.doubtful, other.doubtful)
    for name in ("start_s", "refused", "pulses", "beats", "doubt"):
        assert [getattr(w, name) for w in one.windows] == [getattr(w, name) for w in other.windows], name


@pytest.mark.parametrize("rate", [64.0, 125.0, 62.4725, 500.0])
def test_chunks_do_not_matter(model, ppg, rate):
    """The ECG of chunks of any size is that of the whole recording, to the rounding of batches."""
    whole = offline_ecg(model, ppg[rate], rate)
    assert whole.covered.all() and len(whole) == round(9 * 125)
    for sizes in [(100,), (1, 7, 0, 333, 2)]:
        same(live_ecg(model, ppg[rate], sizes, rate), whole)


def test_a_file_is_translated_as_the_same_ppg_is_live(model, make_pair):
    """The whole way of p2es translate, a minute at a time, against chunks of a second."""
    from p2es_lib.translation.file import translate_long

    x = make_pair(70, 64.0, noise=0.02).ppg
    file = translate_long(model, x, 60, "F", n_samples=3, sampling_rate=64.0, progress=False)
    same(live_ecg(model, x, (64,), 64.0), file)


def test_gaps_stay_gaps_however_they_arrive(model, make_pair):
    x = make_pair(18, 64.0, noise=0.02).ppg
    x[400:700] = np.nan
    x[900:902] = np.inf  # a lost sample or two is bridged
    whole = offline_ecg(model, x, 64.0)
    same(live_ecg(model, x, (50,), 64.0), whole)
    time = np.arange(len(whole)) / 125.0
    gap = (time > 400 / 64 + 0.3) & (time < 700 / 64 - 0.3)
    assert not whole.covered[gap].any() and np.isnan(whole.mean[:, gap]).all()
    assert whole.covered[time < 5].all() and whole.covered[time > 14].all()
    assert np.isfinite(whole.mean[:, whole.covered]).all()
    assert any("missing" in w.refused for w in whole.windows) and not all(w.refused for w in whole.windows)


@pytest.mark.parametrize("gap_s", [(5.03, 9.4), (3.0, 3.9), (1.5, 4.0)])
def test_a_gap_costs_no_more_than_its_length(model, make_pair, gap_s):
    """The windows begin anew after a gap, and one ends with the last sample before it; cut into chunks or not."""
    x = make_pair(18, 64.0, noise=0.02).ppg
    first, stop = (round(second * 64) for second in gap_s)
    x[first:stop] = np.nan
    whole = offline_ecg(model, x, 64.0)
    for sizes in [(50,), (1,), (7, 300, 2)]:
        same(live_ecg(model, x, sizes, 64.0), whole)
    lost = np.flatnonzero(~whole.covered) / 125.0
    if gap_s[0] * 125 < 256:  # no window before it
        assert not whole.covered[: round(gap_s[1] * 125) - 3].any()
    else:
        assert first / 64 - 1 / 125 - 1 / 64 <= lost[0] <= first / 64 + 0.1 * 256 / 125
    assert abs(lost[-1] - stop / 64) < 1 / 125 + 1 / 64, "from the first sample after the gap on"


def test_gaps_anywhere_change_nothing_in_live_against_file(model, make_pair):
    rng = np.random.default_rng(5)
    clean = make_pair(24, 64.0, noise=0.02).ppg
    for _ in range(6):
        x = clean.copy()
        for first in rng.integers(0, len(x), 6):
            x[first : first + rng.integers(1, 200)] = np.nan
        same(live_ecg(model, x, (1, 30, 64, 200), 64.0), offline_ecg(model, x, 64.0))


@pytest.mark.parametrize("first", range(770, 1030, 20))
def test_there_is_no_seam_before_a_gap(model, monkeypatch, first):
    """Windows that disagree throughout, by their place alone, fade into each other: no step in what comes out."""

    def by_place(ppg, people, *, generator, n_samples=1, **options):
        import torch

        starts = [int(str(name).partition("-")[0]) for name in generator.window_ids]
        level = torch.tensor([float(start % 7) for start in starts])
        return level[:, None, None, None].expand(len(ppg), n_samples, 12, 256)

    monkeypatch.setattr(model, "translate", by_place)
    x = np.sin(np.arange(2000) / 20)
    x[first : first + 100] = np.nan
    block = offline_ecg(model, x, 125.0)
    mean = block.mean[0, :first]
    assert np.nanmax(np.abs(np.diff(mean))) <= 6 / (125 * FADE_S) + 1e-3, "no steeper than between any two windows"


def test_frames_that_were_dropped_are_bridged(model, make_pair):
    """A camera of 30 Hz that loses every eighth frame, and three in a row, is no reason to refuse anything."""
    x = make_pair(18, 30.0, noise=0.0).ppg
    lossy = x.copy()
    lossy[5::8] = lossy[100:103] = np.nan
    block, whole = offline_ecg(model, lossy, 30.0), offline_ecg(model, x, 30.0)
    assert block.covered.all() and not any(w.refused for w in block.windows)
    same(live_ecg(model, lossy, (11,), 30.0), block)
    assert np.abs(block.ppg - whole.ppg).max() < 0.1 * np.ptp(whole.ppg)
    lossy[:] = np.where(np.arange(len(x)) % 3 == 0, x, np.nan)  # 10 Hz is no PPG
    assert not offline_ecg(model, lossy, 30.0).covered.any()


def test_a_sensor_that_is_off_is_a_gap(model, ppg):
    x = ppg[64.0].copy()
    x[150:400] = x[150]
    assert not offline_ecg(model, x, 64.0).covered[round(200 / 64 * 125) : round(350 / 64 * 125)].any()


@pytest.mark.parametrize("rate", [64.0, 125.0, 500.0])
def test_the_delay_is_the_stated_one_at_every_moment(model, ppg, rate):
    live = LiveTranslator(model, sampling_rate=rate, n_samples=1)
    received = returned = 0
    for part in chunks(ppg[rate], (1, 40, 17, 300)):
        block = live.push(part)
        received, returned = received + len(part), returned + len(block)
        assert block.start + len(block) == returned
        behind_s = received / rate - returned / 125.0
        assert behind_s <= live.delay_s + 1e-9, "all of the ECG up to the delay is there"
        if returned:
            assert behind_s > live.delay_s - 1 / 125.0 - 1e-9, "and no more: the delay is constant"
    assert live.delay_s < 256 / 125 + 0.6
    returned += len(live.finish())
    assert returned == int(np.ceil(len(ppg[rate]) / rate * 125 - 0.05))


def test_at_the_rate_of_the_model_the_delay_is_one_window(model):
    assert LiveTranslator(model).delay_s == 256 / 125


def test_memory_stays_bounded(model, make_pair):
    live = LiveTranslator(model, sampling_rate=64.0, n_samples=1)
    x, most = make_pair(5, 64.0).ppg, []
    for _ in range(10):
        for part in chunks(x, (64,)):
            live.push(part)
        most.append(live._raw.nbytes + live._sums.nbytes)
    assert max(most) < 1.5 * 256 * 53 * 4 + 64 * 8 * 8, "a window or two of sums, a few seconds of PPG"
    assert max(most[5:]) <= max(most[:5]), "no growth"


def test_turned_over_is_turned_over(model, ppg):
    x = ppg[125.0]
    up = LiveTranslator(model, n_samples=1).push(x)
    down = LiveTranslator(model, n_samples=1, polarity="down").push(-x)
    np.testing.assert_array_equal(up.mean, down.mean)


@pytest.mark.parametrize("sizes", [(64,), (1, 700), (3000,)])
def test_the_first_window_with_evidence_decides_which_way_the_pulses_point(make_pair, sizes):
    """After noise, in which nothing can be told; however it is cut into chunks, all that follows is turned over."""
    model, ppg = load_method(PRETRAINED), make_pair(30, 64.0, noise=0.01).ppg
    ppg[: 9 * 64] = 0.5 + 0.1 * np.random.default_rng(1).standard_normal(9 * 64)

    def translated(x, polarity):
        live = LiveTranslator(model, sampling_rate=64.0, n_samples=1, polarity=polarity)
        before = live.direction
        blocks = [live.push(part) for part in chunks(x, sizes)]
        return EcgBlock.joined([*blocks, live.finish()]), before, live.direction

    up, *_ = translated(ppg, "up")
    found, before, after = translated(-ppg, "auto")
    assert "cannot be told yet: taken to point up" in before and "TURNED OVER, its pulses point down" in after
    np.testing.assert_allclose(found.ppg[1930:], up.ppg[1930:], atol=1e-6)
    np.testing.assert_allclose(found.ppg[:800], -up.ppg[:800], atol=1e-6)
    assert "pulses point up (" in translated(ppg, "auto")[2]


def test_nothing_usable_gives_missing_ecg_not_an_error(model):
    live = LiveTranslator(model, n_samples=1)
    block = live.push(np.full(1000, np.nan))
    assert len(block) == 1000 - 256 and not block.covered.any() and np.isnan(block.mean).all()
    assert all(w.refused == "100 % missing" and w.quality == 0 for w in block.windows)


def test_why_a_window_is_refused():
    assert refusal(np.arange(100.0)) == "" and refusal(np.ones(100)) == "flat"
    assert refusal(np.where(np.arange(100) < 20, np.nan, np.arange(100.0))) == "20 % missing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling_rate": 5}, "ppg: sampling rate 5 Hz: a PPG recording has 20 to 10000 Hz"),
        ({"polarity": "left"}, "polarity='left' is unknown; choose one of: auto, up, down"),
        ({"n_samples": 0}, "at least 1"),
        ({"age": -1}, "age"),
        ({"sex": "X"}, "sex"),
    ],
)
def test_wrong_settings_are_refused(model, arguments, message):
    with pytest.raises(InputError, match=message):
        LiveTranslator(model, **arguments)


def test_wrong_chunks_are_refused(model):
    live = LiveTranslator(model, n_samples=1, where="watch")
    for chunk in (["a"], np.zeros((2, 3)), 1.0):
        with pytest.raises(InputError, match="watch: a chunk"):
            live.push(chunk)
    live.push(np.zeros(100))
    with pytest.raises(InputError, match="0.8 s of PPG; at least 2.0 s are needed"):
        live.finish()
    live.push(np.random.default_rng(0).standard_normal(300))
    live.finish()
    for call in (live.finish, lambda: live.push([1.0])):
        with pytest.raises(InputError, match="finished"):
            call()


def test_a_sample_is_one_person_in_all_windows(make_pair, monkeypatch):
    """Who it is, is drawn once, with the reference that is given; all windows show the people that were drawn."""
    model, calls, translate = load_method(PRETRAINED), [], P2Es.translate

    def watched(self, ppg, people, *, reference=None, **options):
        calls.append((len(ppg), options, reference))
        return translate(self, ppg, people, reference=reference, **options)

    monkeypatch.setattr(P2Es, "translate", watched)
    mine = Reference.none(1, 125.0)
    live = LiveTranslator(model, sampling_rate=64.0, age=60, sex="F", n_samples=3, reference=mine)
    blocks = list(ecg_blocks(live, make_pair(40, 64.0, noise=0.02).ppg))
    (n_first, options, given), *rest = calls
    assert (n_first, options["n_samples"]) == (1, 3) and given is mine and "of_these" not in options
    assert sum(n for n, *_ in rest) == 3 * sum(len(block.windows) for block in blocks), "the first window, too"
    people = rest[0][2][:3]
    assert people.same_session.all()
    for n, options, reference in rest:
        assert options["of_these"] and "n_samples" not in options and len(reference) == n
        assert options["generator"].recording_ids == [0, 1, 2] * (n // 3)
        for k in range(3):
            assert all((row == people.beats[k]).all() for row in reference.beats[k::3])
    cv = qrs_height_cv(np.concatenate([block.central for block in blocks], axis=1)[None], 125.0)
    assert cv < 0.06, "QRS heights of the central sample"


def test_the_central_sample_is_the_one_nearest_to_all_others(model, make_pair):
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((5, 12, 50)) * np.array([3.0, 2.0, 0.1, 2.0, 3.0])[:, None, None]
    assert central_sample(samples) == 2
    samples[:, 4] = np.nan  # a lead that no training window had
    assert central_sample(samples) == 2
    block = offline_ecg(model, make_pair(20, 64.0, noise=0.02).ppg, 64.0)
    assert np.isfinite(block.central).all() and not np.allclose(block.central, block.mean)
