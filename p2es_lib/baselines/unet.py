"""U-Net regression: the usual network of signal-to-signal work, from PPG to 12 leads.

U-Nets trained on the pointwise error are the standard of PPG-to-ECG regression (PPG2ECGps: two in a row, one subject
each; UNet-BiLSTM: with a recurrent layer, many subjects). This one departs from those works so: residual blocks of
later U-Nets; 12 leads in millivolts instead of one scaled lead; age and sex modulate every block; pulses are aligned to
R peaks by means of the ECG in training, and by the delay that is expected in translation; an earlier ECG of the person,
if there is one, is shown as it is to P2Es; windows of 8 s instead of 3 to 4 s; and the weights of P2Es's denoiser.

References
----------
Ronneberger O, Fischer P, Brox T. U-Net. MICCAI 2015, arXiv 1505.04597.
Tang Q et al. PPG2ECGps: an end-to-end subject-specific deep neural network model. Bioengineering 10:630, 2023.
UNet-BiLSTM: reconstructing electrocardiography from photoplethysmography. Electronics 13:1869, 2024.
"""

from torch import Tensor, nn

from p2es_lib.baselines.blocks import MULTIPLIERS, DemographicEmbedding, UNet1d
from p2es_lib.baselines.referenced import N_CHANNELS
from p2es_lib.baselines.regression import RegressionTranslator
from p2es_lib.core.leads import LEADS

CONDITION_DIM = 128


class DemographicUNet(nn.Module):
    """U-Net from PPG and reference (B, N_CHANNELS, T), modulated by demographics (B, 4), to (B, 12, T)."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = DemographicEmbedding(CONDITION_DIM)
        self.unet = UNet1d(N_CHANNELS, len(LEADS), width, MULTIPLIERS, CONDITION_DIM)

    def forward(self, shown: Tensor, demographics: Tensor) -> Tensor:
        return self.unet(shown, self.embedding(demographics))


class UNetRegression(RegressionTranslator):
    """U-Net trained on the squared error; ``method.name`` "unet"."""

    name = "unet"
    make_network = DemographicUNet
