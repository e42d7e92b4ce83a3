"""GroupFinder and affinity matrices: which leads listen to which, for whom.

The abstract of P2Es says that "KNN-based clustering with contrastive learning" assigns affinity matrices to groups of
people, so that the translation is demographic-specific; the name GroupFinder is from a summary of the paper. All else
here is our design:

1. An encoder (:mod:`.encoder`) turns a PPG window and the demographics into a unit vector z. It never sees an ECG.
2. Contrastive learning makes z alike for training windows that are alike in a reference space
   (:mod:`.descriptors`): demographics, PPG pulse and rhythm, and, for training windows only, how their 12 leads relate.
   So z is the part of "this ECG resembles that one" that can be told from PPG and demographics.
3. The embeddings of the training windows (of a large cohort: a part, spread over subjects) are kept as a bank and
   clustered into groups; a new window belongs to each group as far as its nearest neighbours in the bank do
   (:mod:`.group_finder`).
4. Each group has one learned 12 x 12 matrix A_g; a window mixes them: A = sum_g pi_g A_g (:mod:`.lead_affinity`).
"""

from p2es_lib.method.affinity.descriptors import nearest_neighbours, reference_space
from p2es_lib.method.affinity.encoder import Encoder, contrastive_loss
from p2es_lib.method.affinity.group_finder import GroupFinder
from p2es_lib.method.affinity.lead_affinity import LeadAffinity

__all__ = ["Encoder", "GroupFinder", "LeadAffinity", "contrastive_loss", "nearest_neighbours", "reference_space"]
