"""The rules by which claims are judged, each on tables made for it."""

from __future__ import annotations

import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.experiments import claims
from p2es_lib.experiments.claims import CLAIMS, CONTRADICTED, NOT, SUPPORTED, UNTESTED, Claim, NotMeasured, Tables


@pytest.fixture
def tables(tmp_path):
    def write(**frames):
        for name, rows in frames.items():
            pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
        return Tables(tmp_path)

    return write


def difference(variant, value, p, metric="rmse", about="baseline", seeds=3, full=0.1, spread=0.0):
    """Variant minus full model, whose value is ``full``."""
    return {
        "variant": variant,
        "method": variant,
        "about": about,
        "metric": metric,
        "value": full + value,
        "difference": value,
        "lower": value - 0.001,
        "upper": value + 0.001,
        "p_holm": p,
        "seed_min": value - spread,
        "seed_max": value + spread,
        "seeds": seeds,
    }


@pytest.mark.parametrize(("values", "lag", "seeds", "verdict"), [
    ([(0.01, 0.001), (0.02, 0.001)], None, 3, SUPPORTED), ([(0.01, 0.001), (0.02, 0.001)], None, 2, NOT),
    ([(0.01, 0.2), (0.02, 0.001)], None, 3, NOT),
    ([(0.0009, 0.001), (0.02, 0.001)], None, 3, NOT),  # beyond chance, and of no matter
    ([(-0.01, 0.01), (0.02, 0.001)], None, 3, CONTRADICTED), ([(-0.01, 0.01), (0.02, 0.001)], None, 2, NOT),
    ([(-0.01, 0.01), (0.02, 0.001)], [(0.01, 0.01), (0.02, 0.001)], 3, NOT),  # worse in one error, better in the other
    ([(0.01, 0.01), (0.02, 0.001)], [(0.01, 0.2), (0.02, 0.001)], 3, NOT),
])  # fmt: skip
def test_better_than_every_other_method(tables, values, lag, seeds, verdict):
    rows = []
    for metric, these in (("rmse", values), ("rmse_lag", lag or values)):
        rows += [
            difference(name, *value, metric=metric, seeds=seeds) for name, value in zip(("unet", "template"), these)
        ]
        # nobody is better than that, and it is no method
        rows.append(difference("irreducible", -0.02, 0.001, metric=metric, about="reference", seeds=seeds))
    assert claims._better_than_baselines(tables(table20_against_methods=rows))[1] == verdict


def both_metrics(variant, crps, spectrum, seeds=3):
    return [
        difference(variant, *crps, metric="crps", seeds=seeds),
        difference(variant, *spectrum, metric="log_spectral_distance", seeds=seeds),
    ]


@pytest.mark.parametrize(("crps", "spectrum", "seeds", "verdict"), [
    ((0.01, 0.01), (0.0, 1.0), 3, SUPPORTED), ((0.001, 0.5), (0.1, 0.3), 3, NOT),
    ((-0.01, 0.01), (0.0, 1.0), 3, CONTRADICTED),
    ((0.01, 0.01), (-1.0, 0.01), 3, NOT),
    ((0.01, 0.01), (-0.0005, 0.01), 3, NOT),  # however little is gained without it, as long as it is beyond chance
    ((-0.01, 0.01), (0.0005, 0.01), 3, NOT),
    ((0.0009, 0.01), (0.0, 1.0), 3, NOT), ((-0.0009, 0.01), (0.0, 1.0), 3, NOT),  # beyond chance, and of no matter
    ((0.01, 0.01), (0.0, 1.0), 2, NOT), ((-0.01, 0.01), (0.0, 1.0), 1, NOT),  # so few show nothing, either way
])  # fmt: skip
def test_an_innovation_must_hurt_where_it_is_missing(tables, crps, spectrum, seeds, verdict):
    found = tables(table08_ablations=both_metrics("no_blur", crps, spectrum, seeds))
    text, judged = claims._innovation("no_blur")(found)
    assert judged == verdict and text.endswith(
        {1: "; 1 training, 3 are asked for", 2: "; 2 trainings, 3 are asked for"}.get(seeds, " dB")
    )
    with pytest.raises(NotMeasured, match="does not train that variant"):
        claims._innovation("single_scale")(found)


@pytest.mark.parametrize(("spread", "verdicts"), [(0.009, (SUPPORTED, CONTRADICTED)), (0.011, (NOT, NOT))])
def test_trainings_that_disagree_show_nothing(tables, spread, verdicts):
    for value, verdict in zip((0.01, -0.01), verdicts, strict=True):
        rows = [
            difference("no_blur", value, 0.001, "crps", spread=spread),
            difference("no_blur", 0.0, 1.0, "log_spectral_distance"),
        ]
        assert claims._innovation("no_blur")(tables(table08_ablations=rows))[1] == verdict


def test_what_an_innovation_costs_with_few_steps_only_is_not_contradicted(tables):
    hurts, nothing, helps = ((0.01, 0.01), (0.0, 1.0)), ((0.0, 1.0), (0.0, 1.0)), ((-0.01, 0.01), (0.0, 1.0))
    tables(table08_ablations=both_metrics("no_blur", *helps))
    for more, verdict in ((hurts, NOT), (nothing, NOT), (helps, CONTRADICTED)):
        assert (
            claims._innovation("no_blur")(tables(table27_more_steps=both_metrics("no_blur_steps_8", *more)))[1]
            == verdict
        )


def test_what_an_innovation_earns_with_few_steps_only_is_not_supported(tables):
    hurts, nothing, helps = ((0.01, 0.01), (0.0, 1.0)), ((0.0, 1.0), (0.0, 1.0)), ((-0.01, 0.01), (0.0, 1.0))
    few = tables(table08_ablations=both_metrics("no_blur", *hurts))
    for more, verdict in ((hurts, SUPPORTED), (nothing, NOT), (helps, NOT)):
        text, found = claims._innovation("no_blur")(tables(table27_more_steps=both_metrics("no_blur_steps_8", *more)))
        assert found == verdict and f"with 8 steps: CRPS {more[0][0]:+.5f}" in text
    tables(table27_more_steps=both_metrics("no_affinity_steps_8", *nothing))  # this one was not tried with more steps
    assert claims._innovation("no_blur")(few)[1] == SUPPORTED


def test_what_an_innovation_does_at_other_times_is_told_and_not_judged(tables):
    rows = [
        difference("no_blur", 0.01, 0.01, metric="crps"),
        difference("no_blur", 0.0, 1.0, metric="log_spectral_distance"),
    ]
    before = claims._innovation("no_blur")(tables(table08_ablations=rows))
    times = [{"variant": "no_blur", "stage": stage, "t": t, "ratio": ratio, "lower": ratio - 0.1, "upper": ratio + 0.1}
             for stage, ratio in (("stage 1", 9.0), ("both stages", 0.5)) for t in (0.7, 0.1)]  # fmt: skip
    after = claims._innovation("no_blur")(tables(table24_error_by_time=times))
    assert after == (
        before[0] + "; squared error of one estimate times 0.50 (0.40 to 0.60) at t = 0.7 "
        "and 0.50 (0.40 to 0.60) at t = 0.1 (first training)",
        before[1],
    )


@pytest.mark.parametrize(("crps", "spectrum", "verdict"), [
    ((-0.01, 0.01), (0.0, 1.0), SUPPORTED), ((0.01, 0.5), (-0.1, 0.01), SUPPORTED),  # something became better
    ((0.01, 0.01), (0.0, 1.0), CONTRADICTED), ((0.0, 1.0), (0.1, 0.01), CONTRADICTED),  # or worse
    ((-0.01, 0.01), (0.1, 0.01), NOT), ((-0.01, 0.2), (-0.1, 0.2), NOT),  # both, or nothing for sure
])  # fmt: skip
def test_adversarial_losses_must_help_where_they_are_added(tables, crps, spectrum, verdict):
    rows = [
        difference("adversarial", *crps, metric="crps"),
        difference("adversarial", *spectrum, metric="log_spectral_distance"),
    ]
    text, found = claims._hybrid(tables(table08_ablations=rows))
    assert found == verdict and text.startswith(f"with both: CRPS {crps[0]:+.5f}") and "without" not in text
    with pytest.raises(NotMeasured, match="does not train that variant"):
        claims._hybrid(tables(table08_ablations=[difference("no_blur", *crps, metric="crps")]))


def headline(entries):
    return [
        {
            "method": method,
            "lead": "all",
            "metric": metric,
            "value": value,
            "lower": value - 0.001,
            "upper": value + 0.001,
        }
        for method, metric, value in entries
    ]


def test_similarity_is_judged_by_what_is_claimed_and_told_beside_what_can_be_reached(tables):
    ours = ("P2Es, mean of 16 samples", "ssim", 0.8)
    assert claims._ssim(tables(table02_results=headline([ours]))) == ("SSIM 0.800 (0.799 to 0.801)", NOT)
    text, verdict = claims._ssim(tables(table02_results=headline([ours, ("Irreducible error", "ssim", 0.85)])))
    assert verdict == NOT and text.endswith("leave open has 0.850")
    assert (
        claims._ssim(
            tables(table02_results=headline([("P2Es, mean", "ssim", 0.99), ("Irreducible error", "ssim", 0.995)]))
        )[1]
        == SUPPORTED
    )


def test_eighteen_percent_is_against_the_best_other_method(tables):
    rows = [
        ("P2Es, mean of 16 samples", "rmse", 0.08),
        ("P2Es, single sample", "rmse", 0.2),
        ("U-Net", "rmse", 0.1),
        ("Template", "rmse", 0.3),
        ("P2Es, one-step posterior mean", "rmse", 0.07),
        ("Own beat pasted, 12 leads, same session", "rmse", 0.05),  # it knows the person
    ]
    text, verdict = claims._eighteen_percent(tables(table02_results=headline(rows)))
    assert verdict == SUPPORTED and "20.0 % below" in text and "U-Net" in text
    rows[2] = ("U-Net", "rmse", 0.085)
    assert claims._eighteen_percent(tables(table02_results=headline(rows)))[1] == NOT
    rows[2] = ("U-Net", "rmse", 0.064)
    assert "25.0 % above" in claims._eighteen_percent(tables(table02_results=headline(rows)))[0]


def test_light_and_heavy_are_opposites(tables):
    row = {"method": "P2Es, 4 steps", "parameters": 1e6, "GFLOP per 10 s": 2.0, "ms per 10 s, batch 1": 30.0}
    found = tables(table18_efficiency=[row])
    assert claims._light(found)[1] == SUPPORTED and claims._much_compute(found)[1] == CONTRADICTED
    text = claims._light(found)[0]
    slower = tables(table18_efficiency=[row | {"ms per 10 s, batch 1": 60.0}])
    assert claims._light(slower)[0] == text, "two runs on one machine must give the same bytes, however busy it is"
    found = tables(table18_efficiency=[row | {"parameters": 1e8}])
    assert claims._light(found)[1] == NOT and claims._much_compute(found)[1] == SUPPORTED


def test_wrong_demographics_must_hurt(tables):
    for value, p, verdict in ((0.01, 0.01, SUPPORTED), (0.01, 0.2, NOT), (-0.01, 0.01, NOT), (0.0009, 0.01, NOT)):
        rows = [difference("wrong_demographics", value, p, metric="rmse_lag")]
        assert claims._demographics(tables(table16_demographics=rows))[1] == verdict


def test_clinical_rules(tables):
    method = claims.VARIANTS["p2es"].label
    rows = [
        {
            "method": method,
            "lead": lead,
            "metric": metric,
            "bias": bias,
            "sd": sd,
            "sd_true": 10.0,
            "low": bias - 2 * sd,
            "high": bias + 2 * sd,
        }
        for metric, lead, bias, sd in (
            ("qrs_ms", "all", 3.0, 8.0),
            ("qtc_ms", "all", 0.0, 9.0),
            ("qrs_axis_deg", "all", 0.0, 5.0),
        )
    ]
    found = tables(table10_agreement=rows)
    assert claims._clinically_valid(found)[1] == SUPPORTED
    rows[1]["sd"] = 15.0
    found = tables(table10_agreement=rows)
    assert claims._clinically_valid(found)[1] == NOT
    diagnosis = {
        "label": "rhythm: af",
        "fit_on": "true ECG",
        "tried_on": "translated ECG",
        "auroc": 0.9,
        "gain": 0.1,
        "gain_lower": 0.02,
    }
    assert claims._diagnostic(tables(table13_diagnostic=[diagnosis]))[1] == SUPPORTED
    assert claims._diagnostic(tables(table13_diagnostic=[diagnosis | {"gain_lower": -0.02}]))[1] == NOT


@pytest.mark.parametrize(("changes", "verdicts"), [
    ({}, (SUPPORTED, SUPPORTED)),
    ({("qrs_mv", "V2"): {"bias": -0.3}}, (NOT, SUPPORTED)),  # too low in one lead
    ({("qrs_mv", "V2"): {"sd": 0.55}}, (NOT, SUPPORTED)),  # as far from the truth as anybody's
    ({("qrs_ms", "all"): {"bias": -11.0}}, (NOT, SUPPORTED)), ({("qrs_ms", "all"): {"sd": 13.0}}, (NOT, SUPPORTED)),
    ({("st60_mv", "I"): {"bias": 0.06}}, (SUPPORTED, NOT)), ({("st60_mv", "V2"): {"sd": 0.11}}, (SUPPORTED, NOT)),
])  # fmt: skip
def test_waves_are_preserved_only_if_people_are_told_apart_by_them(tables, changes, verdicts):
    typical = {
        ("qrs_mv", "I"): (0.1, 0.3, 0.5),
        ("qrs_mv", "V2"): (-0.2, 0.4, 0.5),
        ("qrs_ms", "all"): (3.0, 9.0, 12.0),
        ("st60_mv", "I"): (0.01, 0.03, 0.05),
        ("st60_mv", "V2"): (-0.02, 0.08, 0.1),
    }
    rows = [
        {
            "method": claims.VARIANTS["p2es"].label,
            "metric": metric,
            "lead": lead,
            "bias": bias,
            "sd": sd,
            "sd_true": sd_true,
            "correlation": 0.5,
        }
        | changes.get((metric, lead), {})
        for (metric, lead), (bias, sd, sd_true) in typical.items()
    ]
    found = tables(table10_agreement=rows)
    tests = [claim.test for claim in CLAIMS if claim.statement.endswith("preserved")]
    assert tuple(test(found)[1] for test in tests) == verdicts
    with pytest.raises(NotMeasured, match="no ST level"):
        tests[1](tables(table10_agreement=[row for row in rows if row["metric"] != "st60_mv"]))


def test_noise_must_hurt_with_most_disturbances(tables):
    rows = [
        {
            "disturbance": kind,
            "snr_db": snr,
            "method": method,
            "windows": "all windows",
            "rmse_lag": value,
            "rmse_lag_added_lower": -0.01 if kind == "drift" or method == "U-Net" else value - 0.145,
        }
        for kind, snr, value in (
            ("motion", 1, 0.18),
            ("motion", 20, 0.14),
            ("drift", 1, 0.145),
            ("drift", 20, 0.14),
            ("gaps", 1, 0.15),
            ("gaps", 20, 0.14),
        )
        for method in (claims.VARIANTS["p2es"].label, "U-Net")
    ]
    text, verdict = claims._noise(tables(table17_noise=rows))
    assert verdict == SUPPORTED and text.endswith("0.158 mV at 1 dB; clearly more with motion, gaps (2 of 3)")
    text, verdict = claims._noise(tables(table17_noise=[row for row in rows if row["disturbance"] != "gaps"]))
    assert verdict == NOT and text.endswith("clearly more with motion (1 of 2)")


def test_every_level_has_claims_and_missing_tables_are_named(tables):
    assert {claim.level for claim in CLAIMS} == {"A", "B", "C"} and len(CLAIMS) >= 15
    makers = ("_innovation", "_preserved", "_untested", "_with_reference")
    assert all((claim.test.__doc__ or claim.test.__qualname__.startswith(makers)) for claim in CLAIMS), (
        "a rule is stated"
    )
    assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS), "the book finds its sentences by them"
    with pytest.raises(InputError, match="table02_results.csv: missing"):
        claims._ssim(tables())


@pytest.mark.parametrize(("same", "other", "seeds", "verdict"), [
    ((0.01, 0.02), (0.01, 0.02), 3, SUPPORTED), ((0.01, 0.02), (0.01, 0.02), 2, NOT),
    ((0.01, 0.02), (0.01, 0.0009), 3, NOT),  # beyond chance, and of no matter, for one method in one session
    ((0.01, -0.02), (0.01, -0.02), 3, CONTRADICTED), ((0.01, -0.02), (0.01, -0.02), 1, NOT),
    ((0.01, -0.02), (0.01, 0.02), 3, NOT), ((-0.02, 0.01), (0.01, -0.02), 3, NOT),  # never the same one twice
])  # fmt: skip
def test_with_a_reference_every_other_must_be_worse_in_both_sessions(tables, same, other, seeds, verdict):
    labels = [claims.VARIANTS[name].label for name in ("unet", "ddpm")]
    rows = [
        difference(label, value, 0.001, metric="crps", seeds=seeds) | {"regime": regime, "session": session}
        for session, values in (("same", same), ("other", other))
        for regime, sign in (("I", 1), ("all", -1))  # the other regime says the opposite
        for label, value in zip(labels, values)
        for value in [sign * value]
    ]
    found = tables(table33_others_by_regime=rows)
    text, judged = claims._with_reference("I", "unet", "ddpm")(found)
    assert judged == verdict and "same session, closest: " in text and "other session, closest: " in text
    assert text.endswith(" mV") == (seeds == 3)
    with pytest.raises(NotMeasured, match="nothing is compared"):
        claims._with_reference("limb", "unet")(found)


def test_pasted_beats_of_the_person_are_no_rivals_where_there_is_no_reference(tables):
    rows = [difference("unet", 0.01, 0.001, metric=metric) for metric in ("rmse", "rmse_lag")]
    rows += [difference("pasted_all", -0.05, 0.001, metric=m, about="reference") for m in ("rmse", "rmse_lag")]
    assert claims._better_than_baselines(tables(table20_against_methods=rows))[1] == SUPPORTED


def test_what_a_data_set_lacks_cannot_be_tested(tables, monkeypatch):
    found = tables(table02_results=headline([("P2Es, mean", "ssim", 0.9)]))
    monkeypatch.setattr(
        claims, "CLAIMS", (Claim("A", "leads", "", claims._lead_relations), Claim("C", "similar", "", claims._ssim))
    )
    table = claims.claims_table(found.folder, "real")
    assert list(table["verdict"]) == [UNTESTED, NOT] and "no einthoven_residual" in table["found"][0]
