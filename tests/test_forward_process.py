"""Blur, noise and posterior against closed forms, brute-force Gaussian conditioning and Monte Carlo."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from p2es_lib.core.config import ProcessConfig
from p2es_lib.core.errors import InputError
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.signals.dct import dct

BLURS = ("dct", "spectral", "none")
N, RATE = 64, 125.0


def process_of(blur, window_samples=N, sampling_rate=RATE, **settings):
    return ForwardProcess(ProcessConfig(blur=blur, **settings), window_samples, sampling_rate)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def textbook_schedule(t, logsnr_max=10.0, logsnr_min=-10.0):
    """a_t and sigma_t as the paper writes them: sigmoid of -2 log tan(b t + a)."""
    a = np.arctan(np.exp(-logsnr_max / 2))
    b = np.arctan(np.exp(-logsnr_min / 2)) - a
    logsnr = -2 * np.log(np.tan(b * t + a))
    return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr))), logsnr


def test_schedule_equals_the_textbook_form_and_its_ends():
    process, t = process_of("dct"), np.linspace(0, 1, 101)
    a_t, sigma_t, logsnr = textbook_schedule(t)
    np.testing.assert_allclose(process.signal_scale(torch.from_numpy(t)).numpy(), a_t, rtol=1e-11)
    np.testing.assert_allclose(process.sigma(torch.from_numpy(t)).numpy(), sigma_t, rtol=1e-11)
    np.testing.assert_allclose(process.logsnr(torch.from_numpy(t)).numpy(), logsnr, atol=1e-10)
    np.testing.assert_allclose(process.logsnr(times(0, 1)).numpy(), [10, -10], atol=1e-10)
    extreme = process_of("dct", logsnr_max=60.0, logsnr_min=-60.0)
    assert all(torch.isfinite(f(times(0, 1e-9, 1))).all() for f in (extreme.logsnr, extreme.sigma, extreme.alpha))


def test_dct_response_equals_the_textbook_form():
    sigma_b = 40.0 / 1000 * RATE * math.sin(math.pi * 0.6 / 2) ** 2  # samples, at t = 0.6
    lambda_k = (np.pi * np.arange(N) / N) ** 2
    expected = 0.001 + 0.999 * np.exp(-lambda_k * sigma_b**2 / 2)
    np.testing.assert_allclose(process_of("dct").blur_response(times(0.6))[0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("sampling_rate", [125.0, 250.0])
def test_half_power_frequency_of_the_blur(sampling_rate):
    window_samples = int(sampling_rate * 60)
    process = process_of("dct", window_samples, sampling_rate, min_response=1e-12)
    response = process.blur_response(times(1.0))[0].numpy()
    half_power_hz = np.interp(
        -np.sqrt(0.5), -response, np.arange(window_samples) * sampling_rate / (2 * window_samples)
    )
    assert half_power_hz == pytest.approx(0.1325 / 0.040, rel=1e-3)  # the same frequency at any rate
    # ... which is the rule 0.1325 fs / sigma_B with sigma_B in samples.
    assert half_power_hz == pytest.approx(0.1325 * sampling_rate / (0.040 * sampling_rate), rel=1e-3)


def test_dct_blur_is_smoothing_with_a_gaussian_in_time():
    process = process_of("dct", 512, min_response=1e-12)
    x = torch.zeros(1, 1, 512, dtype=torch.float64)
    x[0, 0, 256] = 1.0
    blurred = process.from_basis(process.blur_response(times(1.0))[:, None] * process.to_basis(x))[0, 0].numpy()
    distance_s = (np.arange(512) - 256) / RATE
    gaussian = np.exp(-0.5 * (distance_s / 0.040) ** 2) / (math.sqrt(2 * math.pi) * 0.040 * RATE)
    np.testing.assert_allclose(blurred, gaussian, atol=1e-7)


def test_spectral_window_has_the_stated_width_at_any_rate():
    for window_samples, rate in ((1024, 125.0), (2048, 250.0)):
        response = process_of("spectral", window_samples, rate, min_response=1e-12).blur_response(times(1.0))[0].numpy()
        distance_s = (np.arange(window_samples) - (window_samples - 1) / 2) / rate
        width_s = 8.192 / (4 * np.pi * 0.040 * 62.5)  # 0.26 s
        np.testing.assert_allclose(response, np.exp(-0.5 * (distance_s / width_s) ** 2), atol=1e-11)
    # At 125 Hz the spectrum is smoothed over as many of its bins as the dct blur smooths samples of the signal.
    bins = np.fft.fftfreq(1024, 1 / 1024)
    spectrum = np.abs(np.fft.fft(process_of("spectral", 1024, min_response=1e-12).blur_response(times(1.0))[0].numpy()))
    assert np.sqrt((bins**2 * spectrum).sum() / spectrum.sum()) == pytest.approx(0.040 * 125, rel=1e-3)


def test_response_falls_from_one_to_the_floor_and_keeps_constants():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    for blur in BLURS:
        response = process_of(blur, 1024).blur_response(t)
        assert torch.all(response.diff(dim=0) <= 1e-15), blur
        assert torch.allclose(response[0], torch.ones(1024, dtype=torch.float64))
        assert float(response.min()) == pytest.approx(1.0 if blur == "none" else 0.001)
    process = process_of("dct")
    constant = torch.full((1, 2, N), 3.0, dtype=torch.float64)
    blurred = process.from_basis(process.blur_response(times(0.8))[:, None] * process.to_basis(constant))
    torch.testing.assert_close(blurred, constant)


@pytest.mark.parametrize("blur", BLURS)
def test_marginal_has_the_mean_and_covariance_of_the_formula(blur):
    process, t = process_of(blur), times(0.35)
    x_0 = torch.randn(1, 1, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(20000, 1, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u_t = process.to_basis(process.marginal(x_0, t, noise))[:, 0]
    expected = process.alpha(t) * process.to_basis(x_0)[0]
    sigma_t = float(process.sigma(t))
    # Five standard errors; 64 means, 64 x 64 covariances.
    assert float((u_t.mean(0) - expected).abs().max()) < 5 * sigma_t / math.sqrt(20000)
    covariance = np.cov(u_t.numpy().T) / sigma_t**2
    assert np.abs(covariance - np.eye(N)).max() < 5 * math.sqrt(2 / 20000)


@pytest.mark.parametrize("blur", BLURS)
def test_markov_steps_compose_to_the_marginal(blur):
    process = process_of(blur)
    t, s, r = times(0.9, 0.5, 1.0), times(0.6, 0.1, 0.0), times(0.2, 0.05, 0.0)
    alpha_ts, sigma_ts = process.markov_step(t, s)
    torch.testing.assert_close(alpha_ts * process.alpha(s), process.alpha(t), rtol=1e-12, atol=0)
    total = alpha_ts**2 * process.sigma(s)[:, None] ** 2 + sigma_ts**2
    torch.testing.assert_close(total, process.sigma(t)[:, None] ** 2 + torch.zeros_like(total), rtol=1e-12, atol=0)
    # Two steps r -> s -> t are one step r -> t.
    alpha_sr, sigma_sr = process.markov_step(s, r)
    alpha_tr, sigma_tr = process.markov_step(t, r)
    torch.testing.assert_close(alpha_ts * alpha_sr, alpha_tr, rtol=1e-12, atol=0)
    torch.testing.assert_close(alpha_ts**2 * sigma_sr**2 + sigma_ts**2, sigma_tr**2, rtol=1e-11, atol=1e-15)


def composition_error(process, n_steps=50, sign=1.0):
    """Error of q(u_s | u_0) when it is put together from q(u_t | u_0) and the posterior, for a grid of steps."""
    grid = torch.linspace(1, 0, n_steps + 1, dtype=torch.float64)
    worst = 0.0
    u_0 = torch.linspace(-2, 2, process.window_samples, dtype=torch.float64)[None, None]
    zero = torch.zeros_like(u_0)
    for t, s in zip(grid[:-1, None], grid[1:, None]):
        # The posterior mean is linear in (u_t, u_0): read off both parts in the basis, and its standard deviation.
        part_t, std = process.posterior(process.from_basis(torch.ones_like(u_0)), zero, s, t)
        part_0, _ = process.posterior(zero, process.from_basis(u_0), s, t)
        weight_t, part_0 = process.to_basis(part_t), sign * process.to_basis(part_0)
        mean = weight_t * process.alpha(t) * u_0 + part_0
        variance = weight_t**2 * process.sigma(t) ** 2 + std**2
        worst = max(worst, float((mean - process.alpha(s) * u_0).abs().max()))
        worst = max(worst, float((variance - process.sigma(s) ** 2).abs().max()))
    return worst


@pytest.mark.parametrize("blur", BLURS)
def test_posterior_reproduces_the_marginals(blur):
    assert composition_error(process_of(blur, 512)) < 1e-12
    assert composition_error(process_of(blur), sign=-1.0) > 0.1  # the check sees a wrong sign


@pytest.mark.parametrize("s, t", [(0.3, 0.5), (0.0, 0.02), (0.0, 1.0), (0.97, 1.0), (0.5, 0.500001)])
@pytest.mark.parametrize("blur", BLURS)
def test_posterior_equals_conditioning_of_the_joint_gaussian(blur, s, t):
    """(u_s, u_t) given u_0 is jointly Gaussian: condition it with plain linear algebra, coefficient by coefficient."""
    process = process_of(blur, sigma_blur_ms=20.0)
    rng = np.random.default_rng(0)
    u_0, u_t = rng.standard_normal((2, N))
    as_signal = [process.from_basis(torch.from_numpy(u)[None, None]) for u in (u_t, u_0)]
    mean, std = process.posterior(*as_signal, times(s), times(t))
    mean = process.to_basis(mean)[0, 0].numpy()
    alpha_s, alpha_t = (process.alpha(times(v))[0].numpy() for v in (s, t))
    sigma_s, sigma_t = (float(process.sigma(times(v))) for v in (s, t))
    for k in (0, 1, 5, N // 2, N - 1):
        step = alpha_t[k] / alpha_s[k]
        # Noise of u_s and u_t: (sigma_s e_1, step sigma_s e_1 + rest e_2).
        factor = np.array([[sigma_s, 0.0], [step * sigma_s, np.sqrt(sigma_t**2 - (step * sigma_s) ** 2)]])
        joint = factor @ factor.T
        gain = joint[0, 1] * np.linalg.inv(joint[1:, 1:])[0, 0]
        expected = alpha_s[k] * u_0[k] + gain * (u_t[k] - alpha_t[k] * u_0[k])
        assert mean[k] == pytest.approx(expected, abs=1e-10)
        assert float(std[0, k]) ** 2 == pytest.approx(joint[0, 0] - gain * joint[1, 0], abs=1e-10)


@pytest.mark.parametrize("blur", BLURS)
def test_posterior_draws_have_the_marginal_of_the_earlier_time(blur):
    """Monte Carlo: x_t from the marginal, then x_s from the posterior, has mean alpha_s u_0 and variance sigma_s^2."""
    process, t, s, n_draws = process_of(blur), times(0.7), times(0.4), 20000
    x_0 = torch.randn(1, 1, N, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(2, n_draws, 1, N, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x_t = process.marginal(x_0, t, noise[0])
    mean, std = process.posterior(x_t, x_0, s, t)
    u_s = process.to_basis(mean + process.from_basis(std[:, None] * noise[1]))[:, 0]
    sigma_s = float(process.sigma(s))
    expected = process.alpha(s)[0] * process.to_basis(x_0)[0, 0]
    assert float((u_s.mean(0) - expected).abs().max()) < 5 * sigma_s / math.sqrt(n_draws)
    assert float((u_s.var(0) / sigma_s**2 - 1).abs().max()) < 5 * math.sqrt(2 / n_draws)


@pytest.mark.parametrize("blur", BLURS)
def test_posterior_of_no_step_and_of_a_clean_end(blur):
    x_t, x_0 = torch.randn(2, 1, 3, N, dtype=torch.float64)
    mean, std = process_of(blur).posterior(x_t, x_0, times(0.4), times(0.4))
    torch.testing.assert_close(mean, x_t)
    assert float(std.max()) < 1e-7
    clean = process_of(blur, logsnr_max=200.0)  # sigma_0 is 0 for all purposes
    mean, std = clean.posterior(x_t, x_0, times(0.0), times(0.3))
    torch.testing.assert_close(mean, x_0)
    assert float(std.max()) < 1e-7


@pytest.mark.parametrize("blur", BLURS)
def test_signal_is_destroyed_at_the_end(blur):
    process = process_of(blur, 1024)
    assert process.terminal_snr() < 1e-4
    assert process.terminal_snr() == pytest.approx(math.exp(-10), rel=0.02)
    # The strongest coefficient of a unit-variance signal can at most hold all of its energy, T: still below noise.
    wave = math.sqrt(2) * torch.cos(math.pi * 16 * (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024)
    u_1 = process.alpha(times(1.0)) * process.to_basis(wave)
    snr = float(u_1.square().max() / process.sigma(times(1.0)) ** 2)
    assert snr <= process.terminal_snr() * float(dct(wave).square().max()) * 1.01
    assert process_of(blur, logsnr_min=-1.0).terminal_snr() > 0.3  # and the number would tell


def test_precision_follows_the_input():
    process = process_of("dct")
    t = torch.tensor([0.2, 0.7])
    x = torch.randn(2, 12, N)
    assert {f(t).dtype for f in (process.alpha, process.sigma, process.logsnr, process.blur_response)} == {
        torch.float32
    }
    assert process.marginal(x, t, x).dtype == process.marginal(x, t.double(), x).dtype == torch.float32
    mean, std = process.posterior(x, x, t.double() / 2, t.double())
    assert mean.dtype == std.dtype == torch.float32
    assert mean.shape == x.shape and std.shape == (2, N)
    # One time for the whole batch gives the same as that time in every row.
    one = process.posterior(x, x, times(0.1), times(0.2))[0]
    torch.testing.assert_close(process.posterior(x, x, times(0.1, 0.1), times(0.2, 0.2))[0], one)


def test_width_zero_and_bad_settings_are_refused():
    with pytest.raises(InputError, match="sigma_blur_ms"):
        dataclasses.replace(ProcessConfig(), sigma_blur_ms=0.0)
    with pytest.raises(InputError, match="forward process"):
        ForwardProcess(ProcessConfig(), 1024, 0.0)


# ------------------------------------------------------------------------------------------- the other orders of things
SWITCHES = {"swapped": {"order": "noise_blur"}, "blur alone": {"noise": False}}


@pytest.mark.parametrize("blur", ["dct", "spectral"])
def test_swapped_order_blurs_the_noise_too(blur):
    process, t = process_of(blur, order="noise_blur"), times(0.45)
    x_0, noise = torch.randn(2, 1, 3, N, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    noisy = process.signal_scale(t) * x_0 + process.sigma(t) * noise
    blurred = process.from_basis(process.blur_response(t)[:, None] * process.to_basis(noisy))
    torch.testing.assert_close(process.marginal(x_0, t, noise), blurred)
    assert not torch.allclose(process_of(blur).marginal(x_0, t, noise), blurred, atol=0.1)
    # The signal-to-noise ratio of every coefficient is that of plain diffusion, whatever the blur.
    ratio = process.alpha(t) / process.sigma_in_basis(t)
    torch.testing.assert_close(ratio, (process.signal_scale(t) / process.sigma(t))[:, None].expand(1, N))


def test_blur_alone_keeps_a_small_noise_and_tells_networks_the_time():
    process, t = process_of("dct", noise=False, sigma_blur_ms=1e4, min_response=1e-4), times(0.0, 0.3, 1.0)
    torch.testing.assert_close(process.sigma(t), torch.full((3,), 0.01, dtype=torch.float64))
    torch.testing.assert_close(process.signal_scale(t), torch.full((3,), math.sqrt(1 - 1e-4), dtype=torch.float64))
    torch.testing.assert_close(process.level(t), times(10.0, 4.0, -10.0))
    assert float(process.alpha(t)[2, 1:].max()) < 0.01 < float(process.alpha(t)[0].min())
    torch.testing.assert_close(process_of("dct").level(t), process_of("dct").logsnr(t))


@pytest.mark.parametrize("settings", SWITCHES.values(), ids=SWITCHES)
def test_posterior_of_the_switches_reproduces_their_marginals(settings):
    process = process_of("dct", 256, **settings)
    grid = torch.linspace(1, 0, 31, dtype=torch.float64)
    u_0 = torch.linspace(-2, 2, 256, dtype=torch.float64)[None, None]
    zero, one = torch.zeros_like(u_0), process.from_basis(torch.ones_like(u_0))
    for t, s in zip(grid[:-1, None], grid[1:, None]):
        part_t, std = process.posterior(one, zero, s, t)
        weight_t = process.to_basis(part_t)
        part_0 = process.to_basis(process.posterior(zero, process.from_basis(u_0), s, t)[0])
        torch.testing.assert_close(weight_t * process.alpha(t) * u_0 + part_0, process.alpha(s)[:, None] * u_0)
        variance = weight_t[0] ** 2 * process.sigma_in_basis(t) ** 2 + std**2
        torch.testing.assert_close(variance, process.sigma_in_basis(s) ** 2)


def test_switches_that_make_no_process_are_refused():
    with pytest.raises(InputError, match="nothing would happen"):
        ProcessConfig(blur="none", noise=False)
    with pytest.raises(InputError, match="process.order"):
        ProcessConfig(order="both")
