"""Convolutions and a bidirectional LSTM: the recurrent regression of PPG-to-ECG works, to 12 leads.

Convolutions that extract features of the PPG and bidirectional LSTMs that carry them along time is what Guo (2024, many
subjects) and Ezzat (2024, one subject each) build; here, two recurrent layers. It departs from them so: the stem takes
a stride (that of P2Es's denoiser) and a transposed convolution undoes it, which makes training several times faster;
age and sex modulate the block before the recurrence; 12 leads in millivolts instead of one scaled lead; pulses and R
peaks are aligned by means of the ECG in training alone; an earlier ECG of the person, if there is one, is shown as to
P2Es; no dropout; and the number of weights of P2Es's denoiser.

References
----------
Guo Y et al. Subject-independent model for reconstructing electrocardiography signals. Appl Sci 14:5773, 2024.
Ezzat A et al. ECG signal reconstruction from PPG. Revue d'Intelligence Artificielle 38:251-260, 2024.
"""

from torch import Tensor, nn

from p2es_lib.baselines.blocks import DemographicEmbedding, ResidualBlock
from p2es_lib.baselines.referenced import N_CHANNELS
from p2es_lib.baselines.regression import RegressionTranslator
from p2es_lib.core.leads import LEADS

CONDITION_DIM = 128


class ConvBiLSTM(nn.Module):
    """PPG and reference (B, N_CHANNELS, T) to (B, 12, T).

    ``width``: channels of the stem, and units of each LSTM in each direction.
    """

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.embedding = DemographicEmbedding(CONDITION_DIM)
        self.stem = nn.Conv1d(N_CHANNELS, width, 4 * stride + 1, stride=stride, padding=2 * stride)
        self.features = ResidualBlock(width, width, CONDITION_DIM)
        self.recurrence = nn.LSTM(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.output = nn.ConvTranspose1d(2 * width, len(LEADS), 2 * stride, stride=stride, padding=stride // 2)

    def forward(self, shown: Tensor, demographics: Tensor) -> Tensor:
        features = self.features(self.stem(shown), self.embedding(demographics))
        hidden, _ = self.recurrence(features.transpose(1, 2))
        return self.output(hidden.transpose(1, 2))[..., : shown.shape[-1]]


class BiLSTMRegression(RegressionTranslator):
    """Convolutions and a bidirectional LSTM trained on the squared error; ``method.name`` "bilstm"."""

    name = "bilstm"

    def make_network(self, width: int) -> nn.Module:
        return ConvBiLSTM(width, self.config.denoiser.stem_stride)
