"""The forward process: blur, then noise, in closed form (one-dimensional blurring diffusion).

In a fixed orthonormal basis the process is diagonal. With u = to_basis(x) and time t from 0 (clean) to 1 (noise):

    u_t = alpha_t(k) u_0 + sigma_t eps,    alpha_t(k) = a_t d_t(k),    eps ~ N(0, 1)

d_t(k) is the response of the blur, a_t and sigma_t the usual variance-preserving scale of signal and noise. Three
blurs, which differ in the basis and in d_t:

``dct``
    Basis: orthonormal DCT-II. Heat dissipation, that is smoothing in time: high frequencies vanish first.
``spectral``
    Basis: time itself. The spectrum is smoothed with a Gaussian, that is, the signal is multiplied by a Gaussian window
    around the middle that shrinks with t.
``none``
    Basis: time itself, d_t = 1. Plain diffusion.

Two more switches serve the ablations. ``order="noise_blur"`` adds the noise first and blurs both:
u_t = d_t(k) (a_t u_0 + sigma_t eps). ``noise=False`` only blurs: a_t and sigma_t keep one value, that of a small noise,
without which a deterministic blur could be undone exactly.

References
----------
Hoogeboom E, Salimans T. Blurring diffusion models. ICLR 2023, arXiv 2209.05557 (``dct`` and all formulas).
Chi G et al. RF-Diffusion. MobiCom 2024, arXiv 2404.09140 (the idea of ``spectral``).
Rissanen S, Heinonen M, Solin A. Generative modelling with inverse heat dissipation. ICLR 2023, arXiv 2206.13397 (blur
alone, and the small noise that it needs).
"""

import math

import torch

from p2es_lib.core.config import ProcessConfig
from p2es_lib.core.errors import InputError
from p2es_lib.signals.dct import dct, idct

#: Band that stands for "all of the ECG" in the width of the spectral blur, Hz: half of the default sampling rate.
#: Written as a constant, so that the window has the same width in seconds at any sampling rate.
ECG_BAND_HZ = 62.5
#: Standard deviation of the noise where there is blur alone, in units of the signal's (Rissanen et al. use 0.01 too).
BLUR_ONLY_SIGMA = 0.01


class ForwardProcess:
    """Schedules, marginals, Markov steps and posteriors of blur and noise.

    Times ``t`` and ``s`` are tensors of shape (B,), or (1,) for a whole batch, in [0, 1]. Schedules are computed in
    float64 and returned in the precision of the time that was given; states keep the precision of their signal.

    Parameters
    ----------
    config : ProcessConfig
        Kind and width of the blur, floor of its response, range of the log signal-to-noise ratio.
    window_samples : int
        Window length T, an :class:`InputError` below 2.
    sampling_rate : float
        Hz, above 0; turns the width of the blur from milliseconds to samples.
    """

    def __init__(self, config: ProcessConfig, window_samples: int, sampling_rate: float):
        if window_samples < 2 or not sampling_rate > 0:
            raise InputError(
                f"forward process: {window_samples} samples at {sampling_rate} Hz; need 2 or more, above 0 Hz"
            )
        self.config = config
        self.window_samples = int(window_samples)
        self.sampling_rate = float(sampling_rate)
        # theta_t runs linearly from _theta_start to _theta_end: a_t = cos(theta_t), sigma_t = sin(theta_t).
        self._theta_start = math.atan(math.exp(-config.logsnr_max / 2))
        self._theta_end = math.atan(math.exp(-config.logsnr_min / 2))
        if not config.noise:
            self._theta_start = self._theta_end = math.asin(BLUR_ONLY_SIGMA)

    def to_basis(self, x: torch.Tensor) -> torch.Tensor:
        """Signal (..., T) to the basis in which the process is diagonal (..., T)."""
        return dct(x) if self.config.blur == "dct" else x

    def from_basis(self, u: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`to_basis`."""
        return idct(u) if self.config.blur == "dct" else u

    def _theta(self, t: torch.Tensor) -> torch.Tensor:
        return self._theta_start + (self._theta_end - self._theta_start) * t.double()

    def logsnr(self, t: torch.Tensor) -> torch.Tensor:
        """log(a_t^2 / sigma_t^2) = -2 log tan(theta_t), shape (B,): from logsnr_max at t = 0 to logsnr_min at t = 1."""
        theta = self._theta(t)
        return (2 * (torch.log(torch.cos(theta)) - torch.log(torch.sin(theta)))).to(t.dtype)

    def level(self, t: torch.Tensor) -> torch.Tensor:
        """How far the process is, as networks are told it, (B,): :meth:`logsnr`; without noise, t on the same scale."""
        if self.config.noise:
            return self.logsnr(t)
        return self.config.logsnr_max + (self.config.logsnr_min - self.config.logsnr_max) * t

    def signal_scale(self, t: torch.Tensor) -> torch.Tensor:
        """a_t = sqrt(sigmoid(logsnr)), shape (B,)."""
        return torch.cos(self._theta(t)).to(t.dtype)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """sigma_t = sqrt(sigmoid(-logsnr)), the standard deviation of the noise, shape (B,)."""
        return torch.sin(self._theta(t)).to(t.dtype)

    def blur_sigma_ms(self, t: torch.Tensor) -> torch.Tensor:
        """sigma_B(t) = sigma_B,max sin^2(pi t / 2) in milliseconds, shape (B,); 0 for blur ``none``."""
        width = 0.0 if self.config.blur == "none" else self.config.sigma_blur_ms
        return (width * torch.sin(t.double() * (math.pi / 2)) ** 2).to(t.dtype)

    def blur_response(self, t: torch.Tensor) -> torch.Tensor:
        """d_t(k), shape (B, T): what the blur leaves of each coefficient, from 1 down to ``min_response``.

        ``dct``: coefficient k is multiplied by a Gaussian of the frequency f_k = k fs / (2 T), which is smoothing in
        time with a Gaussian of standard deviation sigma_B(t); without the floor it is -3 dB at 0.1325 / sigma_B hertz.

        ``spectral``: sample n is multiplied by a Gaussian of its distance from the middle of the window, with a
        standard deviation of D / (4 pi sigma_B(t) ECG_BAND_HZ) seconds, where D is the duration of the window. This is
        the Fourier dual of the above: ``dct`` keeps a certain share of the band up to ECG_BAND_HZ, and the window here
        keeps the same share of its duration.
        """
        return self._blur_response(t).to(t.dtype)

    def _blur_response(self, t: torch.Tensor) -> torch.Tensor:
        index = torch.arange(self.window_samples, dtype=torch.float64, device=t.device)
        if self.config.blur == "none":
            return torch.ones(len(t), self.window_samples, dtype=torch.float64, device=t.device)
        if self.config.blur == "dct":
            frequency_hz = index * (self.sampling_rate / (2 * self.window_samples))
        else:  # distance from the middle, mapped so that the ends of the window stand for ECG_BAND_HZ
            frequency_hz = (index - (self.window_samples - 1) / 2).abs() * (2 * ECG_BAND_HZ / self.window_samples)
        sigma_s = self.blur_sigma_ms(t.double()) / 1000.0
        gaussian = torch.exp(-0.5 * (2 * math.pi * frequency_hz[None, :] * sigma_s[:, None]) ** 2)
        return self.config.min_response + (1 - self.config.min_response) * gaussian

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """alpha_t(k) = a_t d_t(k), shape (B, T): what is left of each coefficient of the signal at time t."""
        return self._alpha(t).to(t.dtype)

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return torch.cos(self._theta(t))[:, None] * self._blur_response(t)

    def sigma_in_basis(self, t: torch.Tensor) -> torch.Tensor:
        """Standard deviation of each coefficient's noise, shape (B, T): sigma_t, or sigma_t d_t(k) if blurred too."""
        return self._sigma_in_basis(t).to(t.dtype)

    def _sigma_in_basis(self, t: torch.Tensor) -> torch.Tensor:
        sigma = torch.sin(self._theta(t))[:, None].expand(-1, self.window_samples)
        return sigma * self._blur_response(t) if self.config.order == "noise_blur" else sigma

    def noise_part(self, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """What the noise adds to x_t: ``noise`` (B, C, T), standard normal, to (B, C, T)."""
        if self.config.order == "noise_blur":
            return self.from_basis(self._sigma_in_basis(t)[:, None, :].to(noise.dtype) * self.to_basis(noise))
        return self.sigma(t.double()).to(noise.dtype)[:, None, None] * noise

    def marginal(self, x_0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Draw x_t given x_0 in one step: blur x_0, scale it, add noise.

        Parameters
        ----------
        x_0 : torch.Tensor (B, C, T)
            Clean signal, in the units in which the model works (linear: the scale is the caller's).
        t : torch.Tensor (B,)
        noise : torch.Tensor (B, C, T)
            Standard normal.

        Returns
        -------
        torch.Tensor (B, C, T)
        """
        mean = self.from_basis(self._alpha(t)[:, None, :].to(x_0.dtype) * self.to_basis(x_0))
        return mean + self.noise_part(t, noise)

    def markov_step(self, t: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Step from s to a later t: u_t = alpha_ts u_s + sigma_ts eps, both of shape (B, T)."""
        alpha_ts, variance_ts = self._markov_step(t, s)
        return alpha_ts.to(t.dtype), variance_ts.sqrt().to(t.dtype)

    def _markov_step(self, t: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha_ts = self._alpha(t) / self._alpha(s)
        sigma_t, sigma_s = self._sigma_in_basis(t), self._sigma_in_basis(s)
        # The signal-to-noise ratio of no coefficient rises with t, so only rounding could make this negative.
        variance_ts = (sigma_t**2 - alpha_ts**2 * sigma_s**2).clamp_min(0.0)
        return alpha_ts, variance_ts

    def posterior(
        self, x_t: torch.Tensor, x_0: torch.Tensor, s: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distribution of x_s given x_t and x_0, for s <= t: a Gaussian with independent coefficients.

        1 / var = 1 / sigma_s^2 + alpha_ts^2 / sigma_ts^2 and mean = var (alpha_ts / sigma_ts^2 u_t + alpha_s /
        sigma_s^2 u_0), written with sigma_t in the denominators, so that sigma_s = 0 and s = t are no special cases.

        Parameters
        ----------
        x_t, x_0 : torch.Tensor (B, C, T)
        s, t : torch.Tensor (B,)

        Returns
        -------
        mean : torch.Tensor (B, C, T)
            As a signal, not in the basis.
        std_in_basis : torch.Tensor (B, T)
            A draw is ``mean + from_basis(std_in_basis[:, None] * noise)``.
        """
        alpha_ts, variance_ts = self._markov_step(t, s)
        variance_s, variance_t = self._sigma_in_basis(s) ** 2, self._sigma_in_basis(t) ** 2
        weight_t = (alpha_ts * variance_s / variance_t).to(x_t.dtype)
        weight_0 = (self._alpha(s) * variance_ts / variance_t).to(x_t.dtype)
        std = (variance_ts * variance_s / variance_t).sqrt().to(x_t.dtype)
        mean = weight_t[:, None, :] * self.to_basis(x_t) + weight_0[:, None, :] * self.to_basis(x_0)
        return self.from_basis(mean), std

    def terminal_snr(self) -> float:
        """Largest ratio over k of signal to noise power at t = 1, for coefficients of unit variance.

        Samplers start from noise alone: that is the true marginal only if this ratio, times the variance of the
        strongest coefficient of the data, is far below 1.
        """
        one = torch.ones(1, dtype=torch.float64)
        return float((self._alpha(one) / self._sigma_in_basis(one)).square().max())
