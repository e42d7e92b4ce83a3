"""Names, relations and derivation of the 12 leads."""

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import (  # fmt: skip
    ABSENT,
    DERIVED,
    INDEPENDENT_ROWS,
    LEAD_MATRIX,
    LEADS,
    LIMB_LEADS,
    MEASURED,
    PROJECTION,
    complete_limb_leads,
    expand_leads,
    lead_residual,
    lead_rows,
    parse_lead,
    split_unit,
)


@pytest.fixture
def electrodes():
    """Potentials of the ten electrodes' nine signals: RA, LA, LL, V1..V6 against the right leg, mV, (9, 50)."""
    return np.random.default_rng(0).standard_normal((9, 50))


def twelve_from_electrodes(electrodes):
    """The definitions of the leads (Malmivuo & Plonsey 1995, ch. 15), independent of the library."""
    ra, la, ll, *chest = electrodes
    terminal = (ra + la + ll) / 3
    limb = [la - ra, ll - ra, ll - la, ra - (la + ll) / 2, la - (ra + ll) / 2, ll - (ra + la) / 2]
    return np.stack([*limb, *(v - terminal for v in chest)])


def test_expanding_the_independent_leads_gives_the_leads_that_electrodes_define(electrodes):
    ecg = twelve_from_electrodes(electrodes)
    assert np.allclose(expand_leads(ecg[list(INDEPENDENT_ROWS)]), ecg, atol=1e-12)
    assert np.allclose(LEAD_MATRIX @ ecg[list(INDEPENDENT_ROWS)], ecg, atol=1e-12)
    assert np.allclose(ecg[2], ecg[1] - ecg[0]) and np.allclose(ecg[3] + ecg[4] + ecg[5], 0)


def test_expanding_does_not_depend_on_the_batch():
    ecg8 = np.random.default_rng(1).standard_normal((7, 8, 33)).astype(np.float32)
    whole = expand_leads(ecg8)
    assert whole.shape == (7, 12, 33) and whole.dtype == np.float32
    assert all(np.array_equal(expand_leads(ecg8[i]), whole[i]) for i in range(7))


def test_projection_is_the_orthogonal_one_and_leaves_consistent_ecg_alone(electrodes):
    ecg = twelve_from_electrodes(electrodes)
    assert np.allclose(PROJECTION @ PROJECTION, PROJECTION) and np.allclose(PROJECTION, PROJECTION.T)
    assert np.linalg.matrix_rank(PROJECTION) == 8
    assert np.allclose(PROJECTION @ ecg, ecg)


def test_residual_is_zero_for_a_physical_ecg_and_finds_swapped_leads(electrodes):
    ecg = np.stack([twelve_from_electrodes(electrodes)] * 2)
    ecg[1, [0, 1]] = ecg[1, [1, 0]]
    residual = lead_residual(ecg)
    assert residual.shape == (2,) and residual[0] < 1e-12 and residual[1] > 0.1
    one_lead_off = np.zeros((12, 10))
    one_lead_off[6] = 1.0  # a chest lead alone is physical
    assert lead_residual(one_lead_off) < 1e-12


@pytest.mark.parametrize("pair", [(a, b) for i, a in enumerate(LIMB_LEADS) for b in LIMB_LEADS[i + 1 :]])
def test_any_two_limb_leads_give_all_six(electrodes, pair):
    truth = twelve_from_electrodes(electrodes)
    ecg, mask = complete_limb_leads({name: truth[LEADS.index(name)] for name in pair})
    assert np.allclose(ecg[:6], truth[:6]) and np.all(ecg[6:] == 0)
    assert [LEADS[row] for row in np.flatnonzero(mask == MEASURED)] == sorted(pair, key=LEADS.index)
    assert (mask[:6] == DERIVED).sum() == 4 and np.all(mask[6:] == ABSENT) and mask.dtype == np.uint8


def test_measured_leads_are_kept_and_one_limb_lead_derives_nothing(electrodes):
    truth = twelve_from_electrodes(electrodes)
    noisy_three = truth[2] + 0.5
    ecg, mask = complete_limb_leads({"I": truth[0], "II": truth[1], "III": noisy_three, "V2": truth[7]})
    assert np.array_equal(ecg[2], noisy_three) and mask[2] == MEASURED and mask[7] == MEASURED
    ecg, mask = complete_limb_leads({"II": truth[1]})
    assert mask.tolist() == [0, 2] + [0] * 10 and np.all(np.delete(ecg, 1, axis=0) == 0)


def test_missing_samples_stay_missing_in_derived_leads(electrodes):
    truth = twelve_from_electrodes(electrodes)
    gap = truth[1].copy()
    gap[3] = np.nan
    ecg, _ = complete_limb_leads({"I": truth[0], "II": gap})
    assert np.isnan(ecg[2, 3]) and np.isfinite(ecg[2, 4])


def test_bad_signals_are_refused():
    with pytest.raises(InputError, match=r"record 7: unknown leads \['V'\]"):
        complete_limb_leads({"V": np.zeros(5), "I": np.zeros(5)}, "record 7")
    with pytest.raises(InputError, match="lengths"):
        complete_limb_leads({"I": np.zeros(5), "II": np.zeros(6)})
    with pytest.raises(InputError):
        complete_limb_leads({})


@pytest.mark.parametrize(("written", "name"), [
    ("AVR", "aVR"), ("avf,", "aVF"), ("i", "I"), ("II ", "II"), ("MLII", "II"), ("ECG II", "II"), ("ECG_V5", "V5"),
    ("Lead III", "III"), ("v6", "V6"), ("V", None), ("MCL", None), ("MCL1", None), ("V7", None), ("Pleth", None),
    ("ECG", None), ("", None),
    ("II (mV)", "II"), ("II.", "II"), ("AVR.", "aVR"), ("V1 (uV)", "V1"), ("V1[µV]", "V1"), ("II (adu)", "II"),
    ("DII", "II"), ("D2", "II"), ("D3 [mV]", "III"), ("DI", "I"), ("Lead II", "II"), ("lead_avf", "aVF"),
    ("EKG V2", "V2"),
    ("MDC_ECG_LEAD_II", "II"), ("MDC_ECG_LEAD_AVR", "aVR"), ("MDC_ECG_LEAD_V6", "V6"), ("MDC_ECG_ELEC_POTL_I", "I"),
    ("ECG-II", "II"), ("ECG Lead V3 (mV)", "V3"), ("V.", None), ("V (mV)", None), ("ECG V", None),
    ("MDC_ECG_LEAD_V", None),
    ("-aVR", None), ("ECG -aVR", None), ("V1-V2", None), ("II (filtered)", None), ("Lead 2", None), ("ECG 1", None),
    ("2", None), ("D4", None), ("DV1", None), ("MLV1", None), ("IIII", None), ("IR", None), ("(mV)", None),
])  # fmt: skip
def test_lead_names_as_monitors_write_them(written, name):
    assert parse_lead(written) == name


@pytest.mark.parametrize(("written", "split"), [
    ("V1 (uV)", ("V1", "uV")), ("aVR [mV],", ("aVR", "mV")), ("II(adu)", ("II", "adu")), ("II", ("II", "")),
    ("II (filtered)", ("II (filtered)", "")), ("V (mV)", ("V", "mV")),
])  # fmt: skip
def test_unit_behind_a_name(written, split):
    assert split_unit(written) == split


def test_lead_rows():
    assert lead_rows(["V6", "I"]) == [11, 0]
    with pytest.raises(InputError, match="V9"):
        lead_rows(["V9"])
