"""GroupFinder and LeadAffinity on synthetic windows whose groups are known."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from p2es_lib.core.config import AffinityConfig
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, expand_leads
from p2es_lib.method.affinity import GroupFinder, LeadAffinity, contrastive_loss, nearest_neighbours, reference_space
from p2es_lib.method.affinity.descriptors import lead_relations, pulse_descriptors
from p2es_lib.method.affinity.spread import spread_over_subjects
from p2es_lib.reference.mean_beat import make_references

CONFIG = AffinityConfig(n_groups=2, k_neighbours=8, n_steps=150, batch_size=64, embedding_dim=8)
FS = 62.5


def two_populations(n_subjects=100, windows_per_subject=2, seed=0, split="train", prefix="s"):
    """Windows of two populations that differ in the timing of a pulse's second harmonic and in the sign of lead I.

    Heart rate and age say nothing about the population: they are what an untrained embedding goes by. All are women,
    because two sexes would be two further populations, equally plain to see.
    """
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(n_subjects) % 2, windows_per_subject)
    count, t = len(truth), np.arange(256) / FS

    def per_subject(values):
        return np.repeat(values, windows_per_subject)

    rate = per_subject(rng.uniform(0.8, 2.0, n_subjects))
    phase = 2 * np.pi * (rate[:, None] * t + rng.random((count, 1)))
    ppg = np.sin(phase) + 0.5 * np.sin(2 * phase + np.pi * truth[:, None]) + 0.05 * rng.standard_normal((count, len(t)))
    ppg = (ppg - ppg.mean(1, keepdims=True)) / ppg.std(1, keepdims=True)
    beat = np.maximum(np.cos(phase), 0.0) ** 8
    weights = np.tile([0.6, 1.0, -0.5, 0.3, 0.8, 1.2, 1.0, 0.8], (count, 1))
    weights[truth == 1, 0] *= -1
    ecg = expand_leads(weights[..., None] * beat[:, None] + 0.02 * rng.standard_normal((count, 8, len(t))))
    demographics = Demographics(per_subject(rng.uniform(20, 80, n_subjects)), np.full(count, "F"))
    index = pd.DataFrame({"subject": [f"{prefix}{i:03d}" for i in per_subject(np.arange(n_subjects))], "split": split})
    return SimpleNamespace(
        ppg=ppg[:, None].astype(np.float32), ecg=ecg.astype(np.float32), lead_mask=np.full((count, 12), 2, np.uint8),
        index=index, demographics=demographics, truth=truth,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small gain nothing from threads, and tests that run side by side would take turns at the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def windows():
    return two_populations()


@pytest.fixture(scope="module")
def fitted(windows):
    finder = GroupFinder(CONFIG)
    finder.history = finder.fit(windows, seed=0)
    return finder


def features_of(windows):
    return windows.demographics.features()


def purity(finder, windows, others, features=None):
    """Share of new windows whose nearest bank window is of their own population."""
    cosine = finder.embed(others.ppg, features_of(others) if features is None else features) @ finder.bank_embedding.T
    return (windows.truth[cosine.argmax(1).numpy()] == others.truth).mean()


# ----------------------------------------------------------------------------------------------- contrastive learning
def test_training_separates_the_populations_that_the_untrained_encoder_mixes(windows, fitted):
    untrained = GroupFinder(replace(CONFIG, contrastive=False))
    assert untrained.fit(windows, seed=0).empty
    new = two_populations(n_subjects=60, windows_per_subject=1, seed=1, split="test")
    trained_rand = adjusted_rand_score(windows.truth, fitted.bank_group)
    untrained_rand = adjusted_rand_score(windows.truth, untrained.bank_group)
    assert trained_rand > 0.8 and untrained_rand < 0.5
    assert purity(fitted, windows, new) > 0.9 > purity(untrained, windows, new)
    pi = fitted.assign(new.ppg, features_of(new))
    assert adjusted_rand_score(new.truth, pi.argmax(1)) > 0.8


def test_history_shows_positives_drawn_together(fitted):
    first, last = fitted.history.iloc[0], fitted.history.iloc[-1]
    assert list(fitted.history["step"]) == list(range(CONFIG.n_steps))
    assert last["loss"] < first["loss"]
    assert last["cosine_positives"] - last["cosine_others"] > first["cosine_positives"] - first["cosine_others"]


def test_contrastive_loss_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0, 1] = positives[0, 2] = True  # two positives
    positives[2, 1] = True  # one positive: plain InfoNCE; rows 1 and 3 have none and do not count
    similarity = (z @ z.T / 0.5).numpy()
    row_0 = np.mean([np.log(np.exp(similarity[0, 1:]).sum()) - similarity[0, p] for p in (1, 2)])
    row_2 = np.log(np.exp(similarity[2, [0, 1, 3]]).sum()) - similarity[2, 1]
    expected = (row_0 + row_2) / 2
    assert contrastive_loss(z, positives, 0.5).item() == pytest.approx(expected, rel=1e-5)
    with_diagonal = positives | torch.eye(4, dtype=torch.bool)
    assert contrastive_loss(z, with_diagonal, 0.5).item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(z, torch.zeros_like(positives), 0.5).item() == 0.0


def test_contrastive_loss_equals_cross_entropy_and_has_a_finite_gradient():
    z = torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    z.requires_grad_(True)
    partner = torch.tensor([1, 0, 3, 2, 5, 4])
    loss = contrastive_loss(z, torch.nn.functional.one_hot(partner, 6).bool(), 0.2)
    logits = (z @ z.T / 0.2).masked_fill(torch.eye(6, dtype=torch.bool), -1e9)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, partner).item(), rel=1e-5)
    loss.backward()
    assert torch.isfinite(z.grad).all() and z.grad.abs().max() > 0


# ---------------------------------------------------------------------------------------------------- reference space
def test_a_window_in_which_nothing_repeats_has_no_period_shorter_than_what_is_looked_at():
    """A slow wave with a ripple: the autocorrelation falls below zero, and all its peaks lie there."""
    t = np.arange(256) / 256
    wave = np.sin(2 * np.pi * 1.5 * t) + 0.3 * np.sin(2 * np.pi * 9 * t)
    features = pulse_descriptors(np.stack([wave, -wave])[:, None])
    assert np.isfinite(features).all()
    assert np.exp(features[:, 0]) == pytest.approx([128, 128])


def test_pulse_descriptors_find_period_and_irregularity():
    t = np.arange(1024) / 125
    regular = np.sin(2 * np.pi * 1.25 * t) + 0.6 * np.sin(4 * np.pi * 1.25 * t)  # period 100 samples
    irregular = np.sin(2 * np.pi * (1.25 * t + 0.5 * np.sin(2 * np.pi * 0.37 * t)))
    features = pulse_descriptors(np.stack([regular, irregular])[:, None])
    assert np.exp(features[0, 0]) == pytest.approx(100, abs=1)
    assert features[0, 1] > 0.97 and features[1, 1] < 0.9
    faster = pulse_descriptors(np.interp(np.arange(1024) * 1.5 % 800, np.arange(1024), regular)[None, None])
    assert np.exp(faster[0, 0]) == pytest.approx(100 / 1.5, abs=1)


def test_lead_relations_of_absent_leads_are_missing_and_do_not_disturb_the_rest(windows):
    relations = lead_relations(windows.ecg, windows.lead_mask)
    assert relations.shape == (len(windows.ecg), 36) and np.isfinite(relations).all()
    assert np.all(np.sign(relations[:, 8]) == np.where(windows.truth == 0, 1, -1))  # correlation of I and II
    assert relations[0, 0] == pytest.approx(np.log(windows.ecg[0, 0].std()), abs=1e-5)
    mask = windows.lead_mask.copy()
    mask[:, 6:] = 0
    ecg = np.where(mask[..., None] > 0, windows.ecg, 0.0)
    limb = lead_relations(ecg, mask)
    assert np.isnan(limb[:, 2:8]).all() and np.allclose(limb[:, [0, 1, 8]], relations[:, [0, 1, 8]])
    space = reference_space(windows.ppg, ecg, mask, windows.demographics)
    assert np.isfinite(space).all()


def test_reference_space_weighs_its_three_blocks_alike(windows):
    space = reference_space(windows.ppg, windows.ecg, windows.lead_mask, windows.demographics)
    for block in (space[:, :2], space[:, 2:11], space[:, 11:]):
        assert (block**2).sum(1).mean() == pytest.approx(1.0)
    unknown = reference_space(windows.ppg, windows.ecg, windows.lead_mask, Demographics.missing(len(windows.ppg)))
    assert np.all(unknown[:, :2] == 0) and np.allclose(unknown[:, 2:], space[:, 2:])


def test_nearest_neighbours_leave_the_point_itself_out_even_among_duplicates():
    assert nearest_neighbours(np.array([[0.0], [1.0], [3.0], [7.0]]), 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    copies = nearest_neighbours(np.zeros((12, 3)), 4)
    assert copies.shape == (12, 4) and not (copies == np.arange(12)[:, None]).any()
    assert nearest_neighbours(np.array([[0.0], [1.0]]), 16).tolist() == [[1], [0]]


# --------------------------------------------------------------------------------------------------------- assignment
def test_memberships_are_soft_and_sum_to_one(fitted):
    new = two_populations(n_subjects=80, windows_per_subject=1, seed=3)
    one, other = new.ppg[::2], new.ppg[1::2]
    share = np.linspace(0, 1, 40, dtype=np.float32)[:, None, None]
    pi = fitted.assign((1 - share) * one + share * other, features_of(new)[::2])  # from one population to the other
    assert pi.shape == (40, 2) and pi.dtype == torch.float32
    assert torch.allclose(pi.sum(1), torch.ones(40), atol=1e-6) and (pi >= 0).all()
    assert ((pi > 0.02) & (pi < 0.98)).any() and pi[0].argmax() != pi[-1].argmax()


def test_membership_is_the_softmax_over_the_nearest_neighbours(windows, fitted):
    new = two_populations(n_subjects=4, seed=5)
    z = fitted.embed(new.ppg, features_of(new)).numpy()
    assert np.allclose(np.linalg.norm(z, axis=1), 1.0, atol=1e-5)
    cosine = z @ fitted.bank_embedding.numpy().T
    expected = np.zeros((len(z), 2))
    for row, group_of in zip(range(len(z)), [fitted.bank_group.numpy()] * len(z)):
        nearest = np.argsort(-cosine[row])[: CONFIG.k_neighbours]
        weights = np.exp(cosine[row, nearest] / CONFIG.temperature)
        for neighbour, weight in zip(nearest, weights / weights.sum()):
            expected[row, group_of[neighbour]] += weight
    assert np.allclose(fitted.assign(new.ppg, features_of(new)).numpy(), expected, atol=1e-5)


def test_missing_age_and_sex_are_taken(windows, fitted):
    new = two_populations(n_subjects=60, seed=4)
    unknown = Demographics.missing(len(new.ppg)).features()
    pi = fitted.assign(new.ppg, unknown)
    assert torch.isfinite(pi).all() and torch.allclose(pi.sum(1), torch.ones(len(pi)), atol=1e-6)
    age_unknown = features_of(new) * np.float32([0, 0, 1, 1])
    assert purity(fitted, windows, new, age_unknown) > 0.9 and purity(fitted, windows, new, unknown) > 0.9
    blank = SimpleNamespace(**{**vars(windows), "demographics": Demographics.missing(len(windows.ppg))})
    assert np.isfinite(GroupFinder(replace(CONFIG, n_steps=2)).fit(blank, seed=0)["loss"]).all()


def test_what_is_missing_counts_as_average(windows, fitted):
    encoder, ppg = fitted.encoder, torch.as_tensor(windows.ppg[:1])
    nothing, absurd = torch.zeros(1, 4), torch.tensor([[7.0, 0.0, 0.0, 0.0]])  # an age that is flagged as not known
    assert torch.equal(encoder(ppg, absurd), encoder(ppg, nothing))
    pulse = (encoder.ppg_encoder(ppg).mean(-1) - encoder.mean[:48]) / encoder.scale[:48]
    expected = torch.nn.functional.normalize(encoder.head(torch.cat([pulse, torch.zeros(1, 32 + 48)], dim=1)), dim=1)
    assert torch.allclose(encoder(ppg, nothing), expected, atol=1e-6)


def test_what_never_varied_in_training_is_ignored(windows):
    blank = SimpleNamespace(**{**vars(windows), "demographics": Demographics.of(None, "F", len(windows.ppg))})
    finder = GroupFinder(replace(CONFIG, n_steps=2))
    assert np.isfinite(finder.fit(blank, seed=0)["loss"]).all()
    z = [finder.embed(windows.ppg[:1], Demographics.of(*person).features()) for person in ((None, "F"), (30, "M"))]
    assert torch.equal(*z) and torch.isfinite(z[0]).all()


def test_a_training_window_never_counts_its_own_subject_as_neighbour(windows):
    finder = GroupFinder(replace(CONFIG, k_neighbours=2, n_steps=5, reference=False))
    finder.fit(windows, seed=0)
    # Give the two windows of subject s000 a group of their own: who counts them as neighbours would be a member of it.
    finder.bank_group = torch.where(torch.tensor([s == "s000" for s in finder.bank_subjects]), 1, 0)
    ppg, features = windows.ppg[:2], features_of(windows)[:2]
    own = make_references(*map(torch.as_tensor, (windows.ecg[:2], windows.lead_mask[:2] > 0)), finder.rate)  # as there
    assert (finder.assign(ppg, features, reference=own)[:, 1] > 0.4).all()  # unguarded: its own copy is the nearest
    assert (finder.assign(ppg, features, ["s000", "s000"], own)[:, 1] == 0).all()
    assert (finder.assign(ppg, features, ["s001", "somebody new"], own)[:, 1] > 0.4).all()
    with pytest.raises(ValueError, match="one per window"):
        finder.assign(ppg, features, ["s000"])


def test_alone_in_the_bank_means_that_nothing_is_known(windows):
    alone = SimpleNamespace(**{**vars(windows), "index": windows.index.assign(subject="only")})
    finder = GroupFinder(replace(CONFIG, n_steps=2))
    finder.fit(alone, seed=0)
    share = torch.bincount(finder.bank_group).float() / len(windows.ppg)
    pi = finder.assign(windows.ppg[:3], features_of(windows)[:3], ["only", "only", "new"])
    assert torch.allclose(pi[:2], share.expand(2, -1)) and not torch.allclose(pi[2], share)


def test_only_training_windows_enter_the_bank(windows):
    leak = windows.index.copy()
    leak.loc[7, "split"] = "test"
    with pytest.raises(InputError, match="1 of 200 windows.*s003.*'test'"):
        GroupFinder(CONFIG).fit(SimpleNamespace(**{**vars(windows), "index": leak}), seed=0)
    with pytest.raises(InputError, match="no column 'split'"):
        GroupFinder(CONFIG).fit(
            SimpleNamespace(**{**vars(windows), "index": windows.index.drop(columns="split")}), seed=0
        )
    with pytest.raises(InputError, match="n_groups=500"):
        GroupFinder(replace(CONFIG, n_groups=500)).fit(windows, seed=0)


def test_assign_before_fit_says_what_to_do(windows):
    with pytest.raises(RuntimeError, match="call fit"):
        GroupFinder(CONFIG).assign(windows.ppg[:1], features_of(windows)[:1])


# --------------------------------------------------------------------------------------------------- bounded memory
class Unread:
    """An array of which only chosen rows are read; everything else is remembered as too much."""

    def __init__(self, values, read, rows=None):
        self.values, self.read, self.rows = values, read, np.arange(len(values)) if rows is None else rows
        self.shape = (len(self.rows), *values.shape[1:])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        self.read.append(len(self.rows[key]))
        return self.values[self.rows[key]]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


def stored(windows, read, rows=None):
    """These windows as a store has them: read when they are asked for."""
    rows = np.arange(len(windows.index)) if rows is None else rows
    return SimpleNamespace(
        ppg=Unread(windows.ppg, read, rows), ecg=Unread(windows.ecg, read, rows), lead_mask=windows.lead_mask[rows],
        index=windows.index.iloc[rows].reset_index(drop=True), demographics=windows.demographics[rows],
        select=lambda chosen: stored(windows, read, rows[chosen]),
    )  # fmt: skip


def same_fit(finder, other):
    return all(
        torch.equal(a, b) for a, b in zip(finder.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_only_so_many_windows_are_read_and_kept_spread_over_subjects(windows):
    read = []
    finder = GroupFinder(replace(CONFIG, n_steps=3, max_windows=60))
    finder.fit(stored(windows, read), seed=0)
    assert max(read) == 60 and len(finder.bank_embedding) == len(set(finder.bank_subjects)) == 60
    rows = spread_over_subjects(windows.index["subject"], 60)
    direct = GroupFinder(replace(CONFIG, n_steps=3))
    direct.fit(stored(windows, [], rows), seed=0)
    assert same_fit(finder, direct) and finder.bank_subjects == list(windows.index["subject"].iloc[rows])


def test_a_cohort_within_the_limit_is_fitted_as_it_is(windows):
    finders = [GroupFinder(replace(CONFIG, n_steps=3, max_windows=limit)) for limit in (200, 20_000)]
    for finder in finders:
        finder.fit(windows, seed=0)  # these windows know no select
    assert same_fit(*finders) and finders[0].bank_subjects == list(windows.index["subject"])


def test_a_limit_does_not_let_other_splits_in(windows):
    leak = stored(windows, [])
    leak.index.loc[7, "split"] = "test"
    with pytest.raises(InputError, match="not of the training split"):
        GroupFinder(replace(CONFIG, max_windows=20)).fit(leak, seed=0)


def test_windows_are_spread_over_subjects_and_their_time():
    subjects = np.repeat(["a", "b", "c", "d"], [100, 3, 1, 40])
    rows = spread_over_subjects(subjects, 24)
    count = {name: int((subjects[rows] == name).sum()) for name in "abcd"}
    assert count == {"a": 10, "b": 3, "c": 1, "d": 10} and rows.tolist() == sorted(set(rows.tolist()))
    assert rows[:10].tolist() == list(range(5, 100, 10))
    few = spread_over_subjects(subjects, 2)
    assert len(few) == len(set(subjects[few])) == 2
    order = np.random.default_rng(0).permutation(len(subjects))
    shuffled = spread_over_subjects(subjects[order], 2)
    assert set(subjects[order][shuffled]) == set(subjects[few])  # whatever the order
    assert spread_over_subjects(subjects, 144).tolist() == list(range(144))
    for limit in range(1, 144):
        assert len(np.unique(spread_over_subjects(subjects, limit))) == limit


# -------------------------------------------------------------------------------------------- determinism and saving
def test_fit_depends_on_windows_and_seed_only(windows):
    finders = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        finder = GroupFinder(replace(CONFIG, n_steps=20))
        before = torch.get_rng_state()
        finder.fit(windows, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        finders.append(finder)
    one, same, other = finders
    assert torch.equal(one.bank_embedding, same.bank_embedding) and torch.equal(one.bank_group, same.bank_group)
    one.fit(windows, seed=1)  # and not on an earlier fit
    assert torch.equal(one.bank_embedding, other.bank_embedding)
    assert not torch.equal(same.bank_embedding, other.bank_embedding)


@pytest.mark.parametrize("clustering", ["knn", "centroid"])
def test_saved_and_loaded_finder_assigns_the_same(windows, clustering):
    config = replace(CONFIG, clustering=clustering, n_steps=3)
    finder = GroupFinder(config)
    finder.fit(windows, seed=0)
    loaded = GroupFinder(config)
    loaded.load_state_dict(finder.state_dict())
    subjects = list(windows.index["subject"])
    if clustering == "knn":
        with pytest.raises(RuntimeError, match="load_extra_state"):
            loaded.assign(windows.ppg, features_of(windows), subjects)
    loaded.load_extra_state(json.loads(json.dumps(finder.extra_state())))
    assert loaded.bank_subjects == subjects
    for excluded in (None, subjects):
        pi = finder.assign(windows.ppg, features_of(windows), excluded)
        assert torch.equal(loaded.assign(windows.ppg, features_of(windows), excluded), pi)
    small = GroupFinder(config)
    few = slice(0, 40)
    small.fit(
        SimpleNamespace(
            ppg=windows.ppg[few], ecg=windows.ecg[few], lead_mask=windows.lead_mask[few], index=windows.index[few],
            demographics=windows.demographics[few],
        ), seed=0,
    )  # fmt: skip
    small.load_state_dict(finder.state_dict())  # over a bank of another size
    assert len(small.bank_embedding) == len(windows.ppg)
    with pytest.raises(InputError, match="not of the same run"):
        small.load_extra_state({"bank_subjects": ["s000"]})


def test_the_finder_is_frozen_outside_fit(fitted):
    assert not any(parameter.requires_grad for parameter in fitted.parameters())


# ------------------------------------------------------------------------------------------------------------ switches
@pytest.mark.parametrize(("inputs", "ppg_matters", "demographics_matter"), [
    ("both", True, True), ("waveform", True, False), ("demographics", False, True),
])  # fmt: skip
def test_inputs_decide_what_the_embedding_sees(windows, inputs, ppg_matters, demographics_matter):
    finder = GroupFinder(replace(CONFIG, inputs=inputs, n_steps=2))
    finder.fit(windows, seed=0)
    features = features_of(windows)
    z = finder.embed(windows.ppg, features)
    assert torch.allclose(z.norm(dim=1), torch.ones(len(z)), atol=1e-5)
    assert torch.equal(finder.embed(windows.ppg[::-1].copy(), features), z) is not ppg_matters
    assert torch.equal(finder.embed(windows.ppg, features[::-1].copy()), z) is not demographics_matter


def test_any_window_length_is_embedded(fitted):
    assert fitted.embed(np.zeros((2, 1, 1000), np.float32), np.zeros((2, 4), np.float32)).shape == (2, 8)


def test_centroid_clustering_is_soft_and_finds_the_populations(windows):
    finder = GroupFinder(replace(CONFIG, clustering="centroid"))
    finder.fit(windows, seed=0)
    assert adjusted_rand_score(windows.truth, finder.bank_group) > 0.8
    pi = finder.assign(windows.ppg, features_of(windows))
    assert torch.allclose(pi.sum(1), torch.ones(len(pi)), atol=1e-6)
    assert (pi.argmax(1) == finder.bank_group).float().mean() > 0.95


def test_groups_are_numbered_by_size(windows):
    finder = GroupFinder(replace(CONFIG, n_groups=5, n_steps=5))
    finder.fit(windows, seed=0)
    sizes = torch.bincount(finder.bank_group)
    assert len(sizes) == 5 and (sizes[:-1] >= sizes[1:]).all() and sizes[-1] > 0


@pytest.mark.parametrize("mixing", ["shared", "identity"])
def test_single_group_mixings_need_no_bank(windows, mixing):
    finder = GroupFinder(replace(CONFIG, mixing=mixing))
    assert finder.fit(windows, seed=0).empty and finder.n_groups == 1
    assert torch.equal(finder.assign(windows.ppg[:3], features_of(windows)[:3]), torch.ones(3, 1))


def test_random_mixing_is_fixed_for_a_window_and_unrelated_to_its_population(windows):
    finder = GroupFinder(replace(CONFIG, mixing="random"))
    pi = finder.assign(windows.ppg, features_of(windows))
    assert torch.equal(pi.sum(1), torch.ones(len(pi))) and set(pi.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(finder.assign(windows.ppg[50:60], features_of(windows)[50:60]), pi[50:60])
    assert 0.35 < pi[:, 0].mean() < 0.65
    assert adjusted_rand_score(windows.truth, pi.argmax(1)) < 0.05


# -------------------------------------------------------------------------------------------------------- LeadAffinity
def test_lead_affinity_by_hand():
    affinity = LeadAffinity(2)
    with torch.no_grad():
        affinity.logits.fill_(-torch.inf)
        affinity.logits.diagonal(dim1=1, dim2=2).fill_(0.0)  # each lead keeps itself ...
        affinity.logits[0, 0, 1] = np.log(3.0)  # ... but in group 0 lead I takes 3 parts of II to 1 of itself,
        affinity.logits[1, 0, 2] = 0.0  # and in group 1 half of III
    A = affinity(torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    expected = torch.eye(12).repeat(2, 1, 1)
    expected[0, 0, :3] = torch.tensor([0.25 * 0.25 + 0.75 * 0.5, 0.25 * 0.75, 0.75 * 0.5])
    expected[1, 0, :3] = torch.tensor([0.25, 0.75, 0.0])
    assert torch.allclose(A, expected)


def test_lead_affinity_starts_half_with_itself_rows_sum_to_one_and_groups_differ():
    affinity = LeadAffinity(4)
    pi = torch.softmax(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    A = affinity(pi)
    assert A.shape == (5, len(LEADS), len(LEADS)) and torch.allclose(A.sum(-1), torch.ones(5, 12), atol=1e-6)
    own = A.diagonal(dim1=1, dim2=2)
    assert (own - 0.5).abs().max() < 0.12 and (A >= 0).all()
    assert not torch.allclose(affinity.matrices()[0], affinity.matrices()[1])


def test_gradient_reaches_the_matrices_of_the_groups_that_take_part():
    affinity = LeadAffinity(3)
    A = affinity(torch.tensor([[0.5, 0.5, 0.0]]))
    (A @ torch.arange(12.0)).square().sum().backward()
    size = affinity.logits.grad.abs().amax(dim=(1, 2))
    assert (size[:2] > 1e-3).all() and size[2] == 0


def test_identity_and_shared_mixing():
    identity = LeadAffinity(6, "identity")
    assert not list(identity.parameters())
    assert torch.equal(identity(torch.full((3, 1), 0.999)), torch.eye(12).expand(3, -1, -1))
    shared = LeadAffinity(6, "shared")
    assert shared.matrices().shape == (1, 12, 12)
    assert torch.allclose(shared(torch.ones(2, 1))[1], shared.matrices()[0])
    with pytest.raises(ValueError, match=r"expected \(B, 1\)"):
        shared(torch.ones(2, 6))
    with pytest.raises(InputError, match="affinity.mixing='both'"):
        LeadAffinity(6, "both")


# ------------------------------------------------------------------------------------------- reference of the person
def people_told_by_lead_one(n, seed, split):
    """The two populations with one pulse for all: only the sign of lead I tells them apart."""
    windows = two_populations(n, 1, seed, split, prefix=split)
    t = np.arange(512) / FS
    rate = np.random.default_rng(seed).uniform(0.9, 1.6, n)
    phase = 2 * np.pi * rate[:, None] * t
    ppg = np.sin(phase) + 0.5 * np.sin(2 * phase)
    weights = np.tile([0.6, 1.0, -0.5, 0.3, 0.8, 1.2, 1.0, 0.8], (n, 1))
    weights[windows.truth == 1, 0] *= -1
    ecg = expand_leads(weights[..., None] * (np.maximum(np.cos(phase), 0.0) ** 24)[:, None])
    parts = {"ppg": ppg[:, None].astype(np.float32), "ecg": ecg.astype(np.float32)}
    return SimpleNamespace(**{**vars(windows), **parts})


def test_with_a_reference_the_neighbours_are_people_whose_leads_are_alike():
    windows, new = people_told_by_lead_one(120, 0, "train"), people_told_by_lead_one(60, 1, "test")
    finder = GroupFinder(CONFIG, FS)
    finder.fit(windows, seed=0)
    ecg = torch.as_tensor(new.ecg)
    purities = {}
    for name, leads in (("none", []), ("I", [0]), ("all", range(12))):
        given = torch.zeros(60, 12)
        given[:, list(leads)] = 1.0
        reference = make_references(ecg, given, FS)
        cosine = finder.embed(new.ppg, features_of(new), reference) @ finder.bank_embedding.T
        purities[name] = (windows.truth[cosine.argmax(1).numpy()] == new.truth).mean()
        pi = finder.assign(new.ppg, features_of(new), reference=reference)
        assert torch.allclose(pi.sum(1), torch.ones(60))
        if name == "none":
            assert torch.allclose(pi, finder.assign(new.ppg, features_of(new))), "no lead given: as without a reference"
    assert purities["none"] < 0.75 and purities["I"] > 0.9 and purities["all"] > 0.9


def test_a_lead_that_is_not_given_is_not_seen():
    windows = people_told_by_lead_one(40, 0, "train")
    finder = GroupFinder(replace(CONFIG, n_steps=3), FS)
    finder.fit(windows, seed=0)
    reference = make_references(torch.as_tensor(windows.ecg), torch.ones(40, 12), FS)
    reference.given[:, 3:] = 0.0
    seen = finder.embed(windows.ppg, features_of(windows), reference)
    reference.beats[:, 3:] = 7.0
    assert torch.equal(seen, finder.embed(windows.ppg, features_of(windows), reference))


def test_the_reference_can_be_left_out_of_the_groups():
    windows = people_told_by_lead_one(40, 0, "train")
    finder = GroupFinder(replace(CONFIG, n_steps=3, reference=False), FS)
    finder.fit(windows, seed=0)
    reference = make_references(torch.as_tensor(windows.ecg), torch.ones(40, 12), FS)
    assert torch.equal(
        finder.embed(windows.ppg, features_of(windows), reference), finder.embed(windows.ppg, features_of(windows))
    )
    assert not any("reference" in name for name in finder.state_dict())
