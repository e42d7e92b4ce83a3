"""RDDM to 12 leads: diffusion whose noise stands around the R peaks only, and two networks that undo it.

Follows Shome (2024). Around each R peak lies a region of 0.25 s. Beside the usual noisy state

    whole:   w_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

stands one with the same noise in the regions alone

    masked:  m_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) r eps,    r = 1 in the regions, else 0

One network is trained to turn w_t into m_t (where are the regions, and what is outside them?), the other to find the
noise r eps in m_t; both are told the PPG, and both errors are squared ones. To sample, each step applies the first
network, the second, and then the step of DDPM (Ho 2020) with fresh noise of variance beta_t in the whole signal. 10
steps, beta_t from 1e-4 in equal steps to 0.2. At test time nobody knows the R peaks, and nobody needs to.

What the abstract leaves open is as in the authors' public code, of 145.5 M weights: two U-Nets of 45.8 M and, for each,
a network of 26.9 M for the PPG.

Departs from it so:

- The start. The schedule leaves sqrt(abar_T) = 0.55 of the ECG in w_T, yet the authors sample from w_T ~ N(0, 1), and
  train on t < T only. Here the training agrees with that start: at t = T the first network is shown noise alone (zero
  terminal signal-to-noise ratio, Lin 2024), from which it can but learn the mean of m_T given the PPG. With w_T as the
  schedule has it, a small model of periodic test beats came out worse than a flat line.
- As in the authors' sampler, the fresh noise outside the regions has variance beta_t, where training has 1 - abar_s.
- One region for all 12 leads, from R peaks found in all of them together. The PPG is an input channel of the U-Nets
  instead of being heard by cross-attention; age and sex; windows of 8 s.
- Both errors have weight 1 (the authors: 1 and 100): the training loop clips the gradients of both networks together.
- ``n_steps`` below 10 leaves out steps of the schedule, evenly. One step gives an approximate posterior mean.

``method.size`` "matched": both networks together have about the weights of P2Es's denoiser. "published": 151.9 M here.

References
----------
Shome D, Sarkar P, Etemad A. Region-disentangled diffusion model. AAAI 2024, arXiv 2308.13568.
Ho J, Jain A, Abbeel P. Denoising diffusion probabilistic models. NeurIPS 2020, arXiv 2006.11239.
Lin S, Liu B, Li J, Yang X. Common diffusion noise schedules and sample steps are flawed. WACV 2024, arXiv 2305.08891.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.baselines.blocks import MULTIPLIERS, ConditionalUNet, denoiser_parameters, matched_width
from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, LearnedTranslator, masked_mse
from p2es_lib.core.noise import WindowNoise
from p2es_lib.method.sampling import Noise

#: T, the range of beta_t = BETA_FIRST + (BETA_LAST - BETA_FIRST) t / T, and the length of the region around an R peak.
N_STEPS, BETA_FIRST, BETA_LAST, REGION_S = 10, 1e-4, 0.2, 0.25
#: Channels of the published networks: of the finest level, and of all of them in its units.
PUBLISHED_WIDTH, PUBLISHED_MULTIPLIERS = 64, (1, 2, 4, 8, 16, 16)
#: Detector of R peaks: band, smoothing of its power, least distance of two beats, and the share of the typical complex
#: that a beat must reach; explained in ``metrics.clinical``.
QRS_BAND_HZ, SMOOTHING_S, REFRACTORY_S, QRS_FRACTION = (8.0, 20.0), 0.05, 0.25, 0.35


def alpha_bar() -> list[float]:
    """abar_t for t = 0 ... T: product of 1 - beta from 1 to t; 1 at t = 0."""
    betas = (BETA_FIRST + (BETA_LAST - BETA_FIRST) * t / N_STEPS for t in range(1, N_STEPS + 1))
    return list(itertools.accumulate((1 - beta for beta in betas), lambda product, alpha: product * alpha, initial=1.0))


@torch.no_grad()
def qrs_regions(ecg: Tensor, lead_mask: Tensor, sampling_rate: float) -> Tensor:
    """Regions around the R peaks, float32 (B, 1, T): 1 within half of ``REGION_S`` of one, else 0.

    The R peaks are the local maxima of the power in the QRS band, smoothed, over all leads of the ECG (B, 12, T, any
    unit) that exist (``lead_mask`` (B, 12) is not 0); all windows of a batch at once, on their device.
    """
    n = ecg.shape[-1]
    mirrored = torch.cat([ecg, ecg.flip(-1)], dim=-1)  # periodic without a jump, as the Fourier transform wants it
    frequency = torch.fft.rfftfreq(2 * n, 1 / sampling_rate, device=ecg.device)
    low, high = QRS_BAND_HZ
    response = ((1 + (low / frequency) ** 8) * (1 + (frequency / high) ** 8)).rsqrt()  # 0 at zero frequency
    band = torch.fft.irfft(torch.fft.rfft(mirrored) * response)[..., :n]
    power = (band**2 * (lead_mask > 0)[:, :, None]).sum(dim=1, keepdim=True)
    reach = round(SMOOTHING_S * sampling_rate / 2)
    for _ in range(2):  # one box alone would leave a plateau where the complex fits into it
        power = F.avg_pool1d(power, 2 * reach + 1, stride=1, padding=reach)
    block = min(n, round(2.0 * sampling_rate))
    typical = F.max_pool1d(power, block).median(dim=-1, keepdim=True).values
    highest = _dilate(power, round(REFRACTORY_S * sampling_rate))
    is_peak = (power == highest) & (power > QRS_FRACTION**2 * typical)
    return _dilate(is_peak.to(torch.float32), round((REGION_S * sampling_rate - 1) / 2))


def _dilate(x: Tensor, reach: int) -> Tensor:
    """Largest value within ``reach`` samples, (B, 1, T) to (B, 1, T)."""
    return F.max_pool1d(x, 2 * reach + 1, stride=1, padding=reach)


def noisy_states(x_0: Tensor, regions: Tensor, steps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The whole and the masked state of the forward process, w_t and m_t, (B, 12, T) each.

    Of a clean ECG and standard normal noise (B, 12, T), with ``regions`` (B, 1, T) from :func:`qrs_regions`, at
    ``steps`` t (B,) from 1 to T. At t = T the whole state is noise alone, as where sampling starts.
    """
    signal_share = torch.tensor(alpha_bar(), dtype=x_0.dtype, device=x_0.device)[steps][:, None, None]
    signal, noise_part = signal_share.sqrt() * x_0, (1 - signal_share).sqrt() * noise
    whole = torch.where((steps == N_STEPS)[:, None, None], noise, signal + noise_part)
    return whole, signal + regions * noise_part


def reverse(
    to_masked: Callable[[Tensor, int], Tensor], find_noise: Callable[[Tensor, int], Tensor], noise: Noise, n_steps: int
) -> Tensor:
    """Sample: from noise to x_0 (M, 12, T) in ``n_steps`` of the schedule's steps.

    ``to_masked`` estimates m_t from (w_t, t), ``find_noise`` the noise in m_t from (m_t, t); ``noise`` gives standard
    normal noise (M, 12, T) for each step, 0 being the start. Fewer than 1 or more than T steps raise an InputError.
    """
    if not 1 <= n_steps <= N_STEPS:
        raise InputError(f"n_steps={n_steps}: the schedule of RDDM has {N_STEPS} steps; ask for 1 to {N_STEPS}")
    share = alpha_bar()
    times = [round(N_STEPS * (n_steps - step) / n_steps) for step in range(n_steps + 1)]  # T ... 0
    state = noise(0)
    for step, (t, s) in enumerate(itertools.pairwise(times), start=1):
        masked = to_masked(state, t)
        alpha = share[t] / share[s]
        state = (masked - (1 - alpha) / (1 - share[t]) ** 0.5 * find_noise(masked, t)) / alpha**0.5
        if s > 0:
            state = state + (1 - alpha) ** 0.5 * noise(step)
    return state


def _make_networks(width: int, multipliers: Sequence[int] = MULTIPLIERS) -> nn.ModuleList:
    return nn.ModuleList(ConditionalUNet(width, multipliers) for _ in range(2))


class RDDM(LearnedTranslator):
    """Region-disentangled diffusion; ``method.name`` "rddm"."""

    name = "rddm"
    keeps_best = False  # the validation error sees one step of ten, from noise, and none of what the others learn

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        if config.method.size == "published":
            size = PUBLISHED_WIDTH, PUBLISHED_MULTIPLIERS
        else:
            size = matched_width(_make_networks, denoiser_parameters(config)), MULTIPLIERS
        self.region_network, self.noise_network = _make_networks(*size)

    def forward(
        self, whole: Tensor, masked: Tensor, t: Tensor, ppg: Tensor, demographics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masked state of the whole one, and noise in the masked one, (B, 12, T) each; ``t`` (B,) as a share of T."""
        return self.region_network(whole, t, ppg, demographics), self.noise_network(masked, t, ppg, demographics)

    def training_loss(self, model, batch: Batch, generator: torch.Generator, critic=None) -> tuple[Tensor, Tensor]:
        """Squared errors of both networks, over the leads that exist; logged is their sum."""
        regions = qrs_regions(batch.x_0, batch.mask, self.config.signal.sampling_rate)
        steps = torch.randint(1, N_STEPS + 1, (len(batch),), generator=generator).to(self.device)
        # Absent leads hold zero at every step, so that sampling can show the networks the same.
        present = (batch.mask > 0)[:, :, None]
        noise = torch.randn(batch.x_0.shape, generator=generator).to(self.device) * present
        whole, masked = noisy_states(batch.x_0, regions, steps, noise)
        masked_hat, noise_hat = model(whole, masked, steps / N_STEPS, batch.ppg, batch.demographics)
        loss = masked_mse(masked_hat, masked, batch.mask) + masked_mse(noise_hat, regions * noise, batch.mask)
        return loss, loss.detach()

    def draw(self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None) -> Tensor:
        """Run the reverse process, with all T steps unless asked otherwise."""
        fixed = [part.repeat_interleave(noise.n_samples, 0) for part in (ppg, demographics)]
        leads = self.trained_leads[:, None]

        def apply(network: nn.Module, state: Tensor, t: int) -> Tensor:
            return network(state, torch.full((len(state),), t / N_STEPS, device=state.device), *fixed) * leads

        networks = (partial(apply, network) for network in (self.region_network, self.noise_network))
        return reverse(*networks, lambda step: noise(step) * leads, n_steps or N_STEPS)
