"""CardioGAN to 12 leads: an attention U-Net against one critic of the waveform and one of its spectrogram.

Follows Sarkar (2021): U-Net of six halvings with kernels of 16 and channels 64, 128, 256, 512, 512, 512, in which
each skip connection passes a self-gated soft attention (Oktay 2018) and is added to the decoder (28.2 M weights, the
published number, which one generator has); a critic of the waveform of four such convolutions, and one of the logarithm
of a spectrogram of 128 frequencies by 128 frames; the cross entropy of both, weighted 3 and 1. The generator's layers
are those of the authors' public code; for critics and training, which they did not publish, we had the abstract and
what independent re-implementations agree on.

Departs from it, beside what :mod:`p2es_lib.baselines.regression` says. The paper learns from unpaired windows, with a
second generator from ECG to PPG and an absolute error over the cycle there and back, weight 30. Here pairs exist: the
absolute error to the paired ECG takes the place and the weight of the cycle. It is summed over the leads, each of which
is an ECG that the weight was made for: with the mean, short trainings ended with real-looking beats in the wrong
places. The generator maximises log D instead of minimising log(1 - D), whose gradient vanishes early. Layer
normalisation is over channels and time. The frames of the spectrogram are spread over the window.

References
----------
Sarkar P, Etemad A. CardioGAN: attentive generative adversarial network. AAAI 2021, arXiv 2010.00104.
Oktay O et al. Attention U-Net: learning where to look for the pancreas. MIDL 2018, arXiv 1804.03999.
"""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.baselines.regression import N_CONDITION_CHANNELS, AdversarialTranslator, present_leads
from p2es_lib.core.leads import LEADS
from p2es_lib.core.learned import Batch

#: Channels of the levels in units of the finest, from the finest: of the U-Net, and of both critics.
MULTIPLIERS, CRITIC_MULTIPLIERS = (1, 2, 4, 8, 8, 8), (1, 2, 4, 8)
#: Width of the convolutions along time (samples), slope of the leaky rectifier below zero.
TAPS, LEAK = 16, 0.2
HALVE = dict(kernel_size=TAPS, stride=2, padding=TAPS // 2 - 1)
layer_norm = partial(nn.GroupNorm, 1)  # over all channels and positions of a window
#: Weights of the waveform's critic, of the spectrogram's critic, and of each lead's absolute error.
TIME_WEIGHT, SPECTRUM_WEIGHT, ERROR_WEIGHT = 3.0, 1.0, 30.0
#: Spectrogram: frames per window, and samples per frame, which give as many frequencies.
N_FRAMES = 128
FRAME_SAMPLES = 2 * N_FRAMES - 2
#: Added to the magnitudes (0.6 for white noise of the ECG's variance): bounds the gradient where there is no signal.
SPECTRUM_FLOOR = 1e-2


class AttentionGate(nn.Module):
    """Skip connection (B, C, T) weighed, at each time, by how it goes with the decoder's signal (B, C, T)."""

    def __init__(self, width: int):
        super().__init__()
        self.of_skip = nn.Conv1d(width, width, 1)
        self.of_decoder = nn.Conv1d(width, width, 1)
        self.gate = nn.Conv1d(width, 1, 1)

    def forward(self, skip: Tensor, decoder: Tensor) -> Tensor:
        return skip * torch.sigmoid(self.gate(F.relu(self.of_skip(skip) + self.of_decoder(decoder))))


class AttentionUNet(nn.Module):
    """U-Net with gated skip connections from :func:`condition_channels` (B, 5, T) to (B, 12, T); T a multiple of 64."""

    def __init__(self, width: int):
        super().__init__()
        widths = [width * multiplier for multiplier in MULTIPLIERS]
        coarse_to_fine = widths[::-1]
        down, up = pairwise([N_CONDITION_CHANNELS, *widths]), pairwise(coarse_to_fine)
        self.down = nn.ModuleList(nn.Conv1d(before, after, bias=False, **HALVE) for before, after in down)
        self.down_norms = nn.ModuleList([nn.Identity(), *(layer_norm(after) for after in widths[1:])])
        # The coarsest level keeps its length and its skip connection.
        padding = nn.ConstantPad1d((TAPS // 2 - 1, TAPS // 2), 0.0)
        same_length = nn.Sequential(padding, nn.Conv1d(widths[-1], widths[-1], TAPS, bias=False))
        double = (nn.ConvTranspose1d(before, after, bias=False, **HALVE) for before, after in up)
        self.up = nn.ModuleList([same_length, *double])
        self.up_norms = nn.ModuleList(layer_norm(after) for after in coarse_to_fine)
        self.gates = nn.ModuleList(AttentionGate(after) for after in coarse_to_fine)
        self.output = nn.ConvTranspose1d(width, len(LEADS), **HALVE)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer, norm in zip(self.down, self.down_norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), LEAK)
            skips.append(x)
        for layer, norm, gate in zip(self.up, self.up_norms, self.gates, strict=True):
            x = F.relu(norm(layer(x)))
            x = x + gate(skips.pop(), x)
        return self.output(x)


class SpectrogramCritic(nn.Module):
    """Logits (B, 1, 4, 5) that ECG (B, 12, T) is real, of its spectrogram, with ``hop`` samples from frame to frame."""

    def __init__(self, width: int, hop: int):
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(FRAME_SAMPLES), persistent=False)
        self.layers = _critic_layers(nn.Conv2d, width, dict(kernel_size=7, stride=2, padding=3))

    def spectrogram(self, ecg: Tensor) -> Tensor:
        """Logarithm of the magnitudes, (B, 12, T) to (B, 12, 128 frequencies, 1 + T / hop frames)."""
        waves = ecg.flatten(0, 1)
        frames = torch.stft(waves, FRAME_SAMPLES, self.hop, window=self.window, normalized=True, return_complex=True)
        return torch.log(frames.abs() + SPECTRUM_FLOOR).unflatten(0, ecg.shape[:2])

    def forward(self, ecg: Tensor) -> Tensor:
        return self.layers(self.spectrogram(ecg))


class DualCritic(nn.Module):
    """Critics of ECG (B, 12, T): logits that it is real, of the waveform (B, 1, T / 32) and of the spectrogram."""

    def __init__(self, width: int, window_samples: int):
        super().__init__()
        self.of_waveform = _critic_layers(nn.Conv1d, width, HALVE)
        self.of_spectrogram = SpectrogramCritic(width, window_samples // N_FRAMES)

    def forward(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        return self.of_waveform(ecg), self.of_spectrogram(ecg)

    def features(self, ecg: Tensor) -> list[Tensor]:
        """After each rectifier of both critics, from the finest: (B, C, T') and (B, C, F', T')."""
        found, spectrogram = [], self.of_spectrogram.spectrogram(ecg)
        for layers, x in ((self.of_waveform, ecg), (self.of_spectrogram.layers, spectrogram)):
            for layer in layers:
                x = layer(x)
                if isinstance(layer, nn.LeakyReLU):
                    found.append(x)
        return found


def _critic_layers(convolution: type[nn.Module], width: int, options: dict) -> nn.Sequential:
    widths = [width * multiplier for multiplier in CRITIC_MULTIPLIERS]
    layers: list[nn.Module] = [convolution(len(LEADS), width, **options), nn.LeakyReLU(LEAK)]
    for before, after in pairwise(widths):
        layers += [convolution(before, after, **options), layer_norm(after), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, convolution(widths[-1], 1, **options))


def cross_entropy(logits: tuple[Tensor, Tensor], real: bool) -> Tensor:
    """Weighted cross entropy of both critics' logits when all that they saw is (not) real."""
    of_waveform, of_spectrogram = (F.softplus(-part if real else part).mean() for part in logits)
    return TIME_WEIGHT * of_waveform + SPECTRUM_WEIGHT * of_spectrogram


def real_or_fake(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Loss of a :class:`DualCritic` that should tell real from generated ECG, (B, 12, T) each."""
    on_real, on_fake = zip(*(logits.chunk(2) for logits in critic(torch.cat([real, fake]))), strict=True)
    return cross_entropy(on_real, real=True) + cross_entropy(on_fake, real=False)


class CardioGAN(AdversarialTranslator):
    """Attention U-Net against two critics; ``method.name`` "cardiogan"."""

    name = "cardiogan"
    published_width = 64
    make_network = AttentionUNet

    def make_critic(self) -> nn.Module:
        return DualCritic(self.width, self.config.signal.window_samples)

    def critic_loss(self, critic: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross entropy of both critics; nothing about it is random."""
        with torch.no_grad():
            fake = self(batch.ppg, batch.demographics) * present_leads(batch.mask)
        return real_or_fake(critic, batch.x_0, fake)

    def training_loss(self, model, batch: Batch, generator: torch.Generator, critic=None) -> tuple[Tensor, Tensor]:
        """Absolute error summed over leads, and what the critics make of the ECG; logged is the mean absolute error."""
        present = present_leads(batch.mask)
        estimate = model(batch.ppg, batch.demographics) * present
        of_leads = (estimate - batch.x_0).abs().mean(dim=2)  # (B, 12), 0 where a lead does not exist
        loss = ERROR_WEIGHT * of_leads.sum(dim=1).mean() + cross_entropy(critic(estimate), real=True)
        return loss, (of_leads.sum() / present.sum().clamp_min(1)).detach()
