"""Noise that is the same in each beat, and in all windows of a recording: a sample is one person."""

import numpy as np
import pytest
import torch

from p2es_lib.core.config import get_config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.noise import NoiseNames, WindowNoise
from p2es_lib.core.paths import PRETRAINED
from p2es_lib.evaluation.coherence import qrs_height_cv
from p2es_lib.method.p2es import P2Es
from p2es_lib.reference.placement import repeat_in_beats

RATE = 125.0


def r_times(*rows):
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[torch.inf] * (longest - len(row))] for row in rows])


def test_each_beat_has_the_same_values_at_the_same_time_from_r():
    values = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0))
    times = r_times([0.6, 1.4, 2.4, 3.2, 4.3, 5.1, 6.0, 7.2], [0.9, 2.0, 3.1])
    repeated = repeat_in_beats(values, times, RATE)
    for row, beats in enumerate(([75, 175, 300, 400], [250, 388])):  # R times in whole samples (387.5: either)
        first = repeated[row, :, beats[0] - 20 : beats[0] + 60]
        for place in beats[1:]:
            near = [repeated[row, :, p - 20 : p + 60] for p in (place - 1, place)]
            assert any(torch.equal(first, part) for part in near)
    no_beat = torch.full((2, 2), torch.inf)
    assert torch.equal(repeat_in_beats(values, no_beat, RATE), values), "as it was"


def test_within_a_beat_the_noise_is_white_and_standard_normal():
    values = torch.randn(400, 12, 512, generator=torch.Generator().manual_seed(1))
    times = (torch.arange(6) * 0.83 + 0.31).repeat(400, 1)
    beat = repeat_in_beats(values, times, RATE)[..., 120:200].double()
    assert beat.mean() == pytest.approx(0, abs=0.01) and beat.std() == pytest.approx(1, abs=0.01)
    neighbours = (beat[..., 1:] * beat[..., :-1]).mean()
    assert neighbours == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.85, 1.0])
def test_whatever_the_share_the_noise_has_unit_variance_and_so_much_of_it_is_alike(share):
    model = P2Es(get_config("smoke").replace("process.beat_share", share))
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randn(200, 12, 512, generator=generator) for _ in range(2)]
    times = (torch.arange(6) * 0.8 + 0.4).repeat(200, 1)  # whole samples, 100 apart
    noise = model.beat_noise(*parts, times).double()[..., 100:400]
    assert noise.var() == pytest.approx(1, abs=0.01)
    assert (noise[..., :200] * noise[..., 100:]).mean() == pytest.approx(share, abs=0.01), "one beat with the next"


def test_windows_of_a_recording_share_the_noise_of_the_beat_and_nothing_else():
    noise = WindowNoise(0, ["a", "b", "c"], 2, (12, 64), recording_ids=["x", "x", "y"])
    shared, own = (part.unflatten(0, (3, 2)) for part in (noise.of_recording(0), noise(0)))
    assert torch.equal(shared[0], shared[1]) and not torch.equal(shared[0], shared[2])
    assert not torch.equal(shared[0, 0], shared[0, 1]), "samples differ"
    assert not torch.equal(own[0], own[1])
    alone = WindowNoise(0, ["a", "b"], 2, (12, 64))
    assert not torch.equal(alone.of_recording(0)[:2], alone(0)[:2]), "the two parts of the noise are independent"
    assert not torch.equal(alone.of_recording(0)[:2], alone.of_recording(0)[2:])


@pytest.fixture(scope="module")
def model():
    return P2Es.from_pretrained(PRETRAINED)


def test_samples_of_the_packaged_weights_flutter_less_with_the_noise_of_beats(model, make_pair):
    """The single sample: QRS heights vary less from beat to beat than with noise drawn anew everywhere."""
    ppg = np.stack([make_pair(8.192, RATE, noise=0.02, seed=seed).ppg for seed in range(4)])[:, None].astype(np.float32)
    people, flutter = Demographics(np.full(4, 60.0), np.array(["F", "M"] * 2)), {}
    process = model.config.process
    for share in (process.beat_share, 0.0):
        model.config = model.config.replace("process.beat_share", share)
        samples = model.translate(ppg, people, n_samples=2, generator=NoiseNames(0, list("abcd"), list("aacd")))
        flutter[share] = np.nanmean(qrs_height_cv(samples.flatten(0, 1).numpy(), RATE))
    model.config = model.config.replace("process.beat_share", process.beat_share)
    assert flutter[process.beat_share] < 0.6 * flutter[0.0]


def test_the_share_is_a_setting():
    assert get_config("quick").process.beat_share == 0.85
