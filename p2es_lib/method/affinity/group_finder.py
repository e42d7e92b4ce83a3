"""GroupFinder: embedding, bank, groups, and the soft membership of a new window."""

import warnings
import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from p2es_lib.core.config import AffinityConfig
from p2es_lib.core.errors import InputError
from p2es_lib.core.reference import Reference
from p2es_lib.method.affinity.descriptors import nearest_neighbours, reference_space
from p2es_lib.method.affinity.encoder import Encoder, contrastive_loss
from p2es_lib.method.affinity.spread import spread_over_subjects
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.reference.regimes import draw_given

#: Chance that age, and independently sex, of a window is hidden in a training step: the encoder learns to do without.
HIDE_DEMOGRAPHICS = 0.25
#: Windows embedded at a time.
BLOCK = 512


def _float_tensor(values, device: torch.device) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        values = np.array(values, dtype=np.float32)  # a copy: torch warns about memory-mapped, read-only arrays
    return torch.as_tensor(values, dtype=torch.float32, device=device)


class GroupFinder(nn.Module):
    """Finds the group memberships pi of a window from its PPG and demographics.

    Everything is learned by :meth:`fit` on training windows; afterwards the weights are frozen (they take no part in
    the training of the denoiser). See :mod:`p2es_lib.method.affinity` for the idea and for what is ours in it.

    Parameters
    ----------
    config : AffinityConfig
        ``mixing``: "groups" is the method. "random" draws a group from a hash of each window's values (fixed for a
        window, unrelated to what it shows); "shared" and "identity" have a single group and pi = 1: these three need
        no bank and no fit. ``inputs``: what the embedding sees; the reference space of the contrastive loss stays the
        same. ``clustering``: "knn" is Ward clustering of the bank along its K-nearest-neighbour graph, membership from
        the K nearest neighbours; "centroid" is k-means, membership ``softmax(-distance^2 / (2 temperature))`` over the
        centroids (a centroid averages many subjects, so ``exclude_subjects`` has no effect there).
        ``contrastive=False``: the encoder keeps its random weights, only its standardisation is set.

    Notes
    -----
    Registered buffers, so that ``state_dict`` holds them: ``bank_embedding`` (N, D), ``bank_group`` (N,) and
    ``centroids`` (G, D), all empty before :meth:`fit`. Loading a ``state_dict`` with another N works. The subject of
    each bank row is text, which ``state_dict`` cannot hold: see :meth:`extra_state`.
    """

    def __init__(self, config: AffinityConfig, sampling_rate: float = 125.0):
        super().__init__()
        self.config, self.rate = config, sampling_rate
        self.n_groups = 1 if config.mixing in ("shared", "identity") else config.n_groups
        self.encoder = Encoder(config.embedding_dim, config.inputs, config.reference).requires_grad_(False)
        self.register_buffer("bank_embedding", torch.zeros(0, config.embedding_dim))
        self.register_buffer("bank_group", torch.zeros(0, dtype=torch.long))
        self.register_buffer("centroids", torch.zeros(0, config.embedding_dim))
        self._set_subjects([])

    def _set_subjects(self, subjects: list[str]) -> None:
        """Keep the names, and number them: numbers compare fast on any device."""
        self.bank_subjects = subjects
        self._subject_number = {subject: number for number, subject in enumerate(dict.fromkeys(subjects))}
        numbers = torch.tensor([self._subject_number[subject] for subject in subjects], dtype=torch.long)
        self.register_buffer("_bank_number", numbers.to(self.bank_embedding.device), persistent=False)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Give the buffers the size of what is loaded; torch would refuse a bank of another size."""
        for name in ("bank_embedding", "bank_group", "centroids"):
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_zeros(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_state(self) -> dict:
        """What ``state_dict`` cannot hold, as JSON can: the subject of each bank row."""
        return {"bank_subjects": list(self.bank_subjects)}

    def load_extra_state(self, state: dict) -> None:
        """Take back :meth:`extra_state`, after ``load_state_dict``; an InputError if the bank is of another size."""
        subjects = [str(subject) for subject in state["bank_subjects"]]
        if len(subjects) != len(self.bank_embedding):
            raise InputError(
                f"GroupFinder: {len(subjects)} bank subjects for {len(self.bank_embedding)} bank embeddings; the "
                "weights and their configuration are not of the same run"
            )
        self._set_subjects(subjects)

    def _tensors(self, ppg, features) -> tuple[torch.Tensor, torch.Tensor]:
        return _float_tensor(ppg, self.bank_embedding.device), _float_tensor(features, self.bank_embedding.device)

    def embed(self, ppg, demographics_features, reference: Reference | None = None) -> torch.Tensor:
        """Embed PPG (B, 1, T), :meth:`Demographics.features` (B, 4) and references (B) as unit vectors (B, D)."""
        shown = () if reference is None else (reference.beats, reference.given)
        return self.encoder(*self._tensors(ppg, demographics_features), *shown)

    @torch.no_grad()
    def _embed_in_blocks(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.encoder(*block) for block in zip(*(part.split(BLOCK) for part in inputs))])

    def _own_beats(self, windows) -> tuple[torch.Tensor, ...]:
        """Mean beats (N, 12, L) of training windows and the leads that they have (N, 12), if the encoder sees any."""
        if not self.encoder.sees_reference:
            return ()
        ecg, mask = (
            _float_tensor(windows.ecg, torch.device("cpu")),
            _float_tensor(windows.lead_mask, torch.device("cpu")),
        )
        parts = zip(torch.nan_to_num(ecg).split(BLOCK), (mask > 0).float().split(BLOCK))
        made = Reference.joined([make_references(*part, self.rate) for part in parts])
        return tuple(part.to(self.bank_embedding.device) for part in (made.beats, made.given))

    def fit(self, windows, seed: int, progress: bool = False) -> pd.DataFrame:
        """Train the encoder, fill the bank, find the groups. Everything that was there before is replaced.

        From at most ``config.max_windows`` windows, spread over subjects (:func:`spread_over_subjects`): those alone
        are read, so memory and time are bounded, however many there are. The others are not in the bank.

        Parameters
        ----------
        windows : WindowSet, or object with its ``ppg``, ``ecg``, ``lead_mask``, ``index``, ``demographics``, ``select``
            Training windows, for example ``WindowSet.split("train")``. The ECG serves the contrastive loss only.
        seed : int
            Decides everything random, the start weights too; the global random state is neither used nor changed.
        progress : bool
            Show a progress bar.

        Returns
        -------
        DataFrame
            One row per step: step, loss, cosine of positives, cosine of the other pairs. Empty if nothing was trained.

        Raises
        ------
        InputError
            A window is not of the training split, or there are too few windows.
        """
        self._check_training_only(windows)
        history = pd.DataFrame(columns=["step", "loss", "cosine_positives", "cosine_others"], dtype=float)
        if self.config.mixing != "groups":
            return history
        if len(windows.index) > self.config.max_windows:
            windows = windows.select(
                spread_over_subjects(windows.index["subject"].astype(str), self.config.max_windows)
            )
        ppg, features = self._tensors(np.asarray(windows.ppg), windows.demographics.features())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
            settings = self.config.embedding_dim, self.config.inputs, self.config.reference
            fresh = Encoder(*settings)  # on the CPU: the same start on every device
        self.encoder.load_state_dict(fresh.state_dict())
        beats = self._own_beats(windows)
        self.encoder.calibrate(ppg, features, *_some_leads(beats, np.random.default_rng([seed, 2])))
        if self.config.contrastive and self.config.n_steps:
            space = reference_space(windows.ppg, windows.ecg, windows.lead_mask, windows.demographics)
            neighbours = nearest_neighbours(space, self.config.k_neighbours)
            history = self._train((ppg, features, *beats), neighbours, seed, progress)
        self.bank_embedding = self._embed_in_blocks(ppg, features, *beats)
        self._set_subjects([str(subject) for subject in windows.index["subject"]])
        self._find_groups(seed)
        return history

    def _check_training_only(self, windows) -> None:
        index = windows.index
        if "split" not in index:
            raise InputError("GroupFinder.fit: the index has no column 'split'; it must say 'train' for every window")
        others = index.loc[index["split"] != "train"]
        if len(others):
            raise InputError(
                f"GroupFinder.fit: {len(others)} of {len(index)} windows are not of the training split (the first is "
                f"subject {others['subject'].iloc[0]}, split {others['split'].iloc[0]!r}); pass windows.split('train') "
                "alone, so that no other subject enters the bank"
            )
        if len(index) < max(self.n_groups, 2):
            raise InputError(
                f"GroupFinder.fit: {len(index)} training windows for affinity.n_groups={self.n_groups}; give at least "
                "as many windows as groups (and 2), or lower affinity.n_groups"
            )

    def _train(self, inputs: tuple, neighbours: np.ndarray, seed: int, progress: bool) -> pd.DataFrame:
        """Contrastive training; ``neighbours`` (N, K) are rows. A batch is anchors, each with one of its neighbours.

        Age, sex and random leads of a window's own mean beats are shown, each time others.
        """
        ppg, features, *beats = inputs
        from scipy.sparse import csr_array
        from tqdm.auto import tqdm

        count, k = neighbours.shape
        columns = np.concatenate([np.arange(count)[:, None], neighbours], axis=1)  # a window is its own positive too
        edges = (np.repeat(np.arange(count), k + 1), columns.ravel())
        graph = csr_array((np.ones(columns.size, dtype=bool), edges), shape=(count, count))
        graph = (graph + graph.T).tocsr()  # neighbours in either direction
        rng = np.random.default_rng([seed, 1])
        self.encoder.requires_grad_(True)
        optimiser = torch.optim.AdamW(self.encoder.parameters(), lr=self.config.learning_rate, weight_decay=1e-4)
        n_steps, n_anchors = self.config.n_steps, min(max(self.config.batch_size // 2, 1), count)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
        rows = []
        for step in tqdm(range(n_steps), desc="GroupFinder", disable=not progress, leave=False):
            anchors = rng.choice(count, n_anchors, replace=False)
            partners = neighbours[anchors, rng.integers(0, k, n_anchors)]
            batch = np.concatenate([anchors, partners])
            positives = torch.as_tensor(graph[batch][:, batch].toarray(), device=ppg.device)
            kept = rng.random((len(batch), 2)) >= HIDE_DEMOGRAPHICS  # age, sex
            kept = torch.as_tensor(np.repeat(kept, 2, axis=1), device=ppg.device)  # age, age known, female, male
            take = torch.as_tensor(batch, device=ppg.device)
            shown = _some_leads([part[take] for part in beats], rng)
            z = self.encoder(ppg[take], features[take] * kept, *shown, batch_statistics=True)
            loss = contrastive_loss(z, positives, self.config.temperature)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                cosine, positives = z @ z.T, positives.fill_diagonal_(True)
                pairs = positives.sum() - len(z)
                alike = (cosine[positives].sum() - len(z)) / pairs  # without the diagonal, whose cosine is 1
                rows.append((step, loss.item(), alike.item(), cosine[~positives].mean().item()))
        self.encoder.requires_grad_(False)
        self.encoder.calibrate(ppg, features, *_some_leads(beats, rng))
        return pd.DataFrame(rows, columns=["step", "loss", "cosine_positives", "cosine_others"])

    def _find_groups(self, seed: int) -> None:
        """Cluster the bank; groups are numbered from the largest to the smallest."""
        from sklearn.cluster import AgglomerativeClustering, KMeans
        from sklearn.neighbors import kneighbors_graph

        points = self.bank_embedding.double().cpu().numpy()
        if self.config.clustering == "centroid":
            labels = KMeans(self.n_groups, n_init=10, random_state=seed).fit_predict(points)
        else:
            graph = kneighbors_graph(points, min(self.config.k_neighbours, len(points) - 1), include_self=False)
            ward = AgglomerativeClustering(self.n_groups, connectivity=graph, linkage="ward")
            with warnings.catch_warnings():  # a graph in several pieces is no error where groups lie apart
                warnings.filterwarnings("ignore", message=".*number of connected components.*")
                labels = ward.fit_predict(points)
        sizes = np.bincount(labels, minlength=self.n_groups)
        rank = np.argsort(np.argsort(-sizes, kind="stable"))
        labels = rank[labels]
        centroids = np.stack([points[labels == group].mean(0) for group in range(self.n_groups)])
        device = self.bank_embedding.device
        self.bank_group = torch.as_tensor(labels, dtype=torch.long, device=device)
        self.centroids = torch.as_tensor(centroids, dtype=torch.float32, device=device)

    @torch.no_grad()
    def assign(
        self, ppg, demographics_features, exclude_subjects: Sequence[str] | None = None,
        reference: Reference | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Group memberships pi of windows.

        The K nearest neighbours in the bank weigh ``softmax(cosine / temperature)``; ``pi_g`` is that of group g.

        Parameters
        ----------
        ppg : (B, 1, T), numpy or torch
        demographics_features : (B, 4)
            :meth:`Demographics.features`; missing age or sex is allowed.
        exclude_subjects : list of str, optional
            Subject of each window: bank rows of that subject do not count as its neighbours. Needed for training
            windows, which are in the bank themselves. Where nobody else is left (a data set of one subject), pi is
            the share of each group in the bank: nothing is known.
        reference : Reference, optional
            Of each window's person; the leads that it has say more of who is alike.

        Returns
        -------
        float32 tensor (B, G), rows sum to 1

        Raises
        ------
        RuntimeError
            Before :meth:`fit` or loading.
        """
        ppg, features = self._tensors(ppg, demographics_features)
        if self.config.mixing in ("shared", "identity"):
            return ppg.new_ones(len(ppg), 1)
        if self.config.mixing == "random":
            return nn.functional.one_hot(self._hashed_group(ppg, features), self.n_groups).float()
        if not len(self.bank_embedding):
            raise RuntimeError("GroupFinder.assign: no bank yet; call fit(windows, seed) or load a state first")
        z = self.embed(ppg, features, reference)
        if self.config.clustering == "centroid":
            return torch.softmax(-(torch.cdist(z, self.centroids) ** 2) / (2 * self.config.temperature), dim=1)
        cosine = z @ self.bank_embedding.T  # (B, N)
        alone = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        if exclude_subjects is not None:
            own = self._own_rows(exclude_subjects, len(z))
            cosine = cosine.masked_fill(own, -torch.inf)
            alone = own.all(1)
        nearest, rows = cosine.topk(min(self.config.k_neighbours, cosine.shape[1]), dim=1)  # (B, K)
        weights = torch.softmax((nearest / self.config.temperature).masked_fill(alone[:, None], 0.0), dim=1)
        pi = torch.zeros(len(z), self.n_groups, device=z.device).scatter_add_(1, self.bank_group[rows], weights)
        share = torch.bincount(self.bank_group, minlength=self.n_groups).float() / len(self.bank_group)
        return torch.where(alone[:, None], share, pi)

    def _own_rows(self, subjects: Sequence[str], count: int) -> torch.Tensor:
        """True where bank row (column) is of the window's (row) own subject, bool (B, N)."""
        if len(subjects) != count:
            raise ValueError(f"exclude_subjects: {len(subjects)} subjects for {count} windows; give one per window")
        if len(self.bank_subjects) != len(self.bank_embedding):
            raise RuntimeError("GroupFinder.assign: the bank's subjects are not loaded; call load_extra_state first")
        numbers = torch.tensor([self._subject_number.get(str(subject), -1) for subject in subjects])
        return numbers.to(self._bank_number.device)[:, None] == self._bank_number[None]

    def _hashed_group(self, ppg: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Group drawn from the bytes of each window (a test window has no subject name to draw from)."""
        rows = zip(ppg.cpu().numpy(), features.cpu().numpy())
        groups = [np.random.default_rng(zlib.crc32(x.tobytes() + f.tobytes())).integers(self.n_groups) for x, f in rows]
        return torch.as_tensor(groups, device=ppg.device)


def _some_leads(beats: Sequence[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
    """Mean beats (N, 12, L) and given leads (N, 12), if any, with as few leads given as references have."""
    return [beats[0], beats[1] * draw_given(rng, len(beats[1])).to(beats[1].device)] if beats else []
