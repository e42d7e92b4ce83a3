"""Age and sex, each of which may be missing."""

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.demographics import Demographics, parse_age, parse_sex
from p2es_lib.core.errors import InputError


@pytest.mark.parametrize(("written", "sex"), [
    ("F", "F"), ("female ", "F"), ("w", "F"), ("m", "M"), ("Male", "M"),
    ("", ""), (None, ""), (np.nan, ""), (pd.NA, ""), ("unknown", ""),
])  # fmt: skip
def test_sex_codes(written, sex):
    assert parse_sex(written) == sex


@pytest.mark.parametrize("code", [0, 1, "1", "X", "fm", True])
def test_numbers_and_unknown_sex_codes_are_refused(code):
    with pytest.raises(InputError, match="row 3: unknown sex code"):
        parse_sex(code, "row 3")


@pytest.mark.parametrize("missing", [None, "", "  ", np.nan, "nan", pd.NA])
def test_missing_ages(missing):
    assert np.isnan(parse_age(missing))


def test_ages_and_their_limits():
    assert (parse_age("63"), parse_age(0), parse_age(np.float32(120))) == (63.0, 0.0, 120.0)
    for absurd in (-1, 121, 300, np.inf, "-inf"):
        with pytest.raises(InputError, match="outside 0 to 120"):
            parse_age(absurd)
    for text in ("sixty", [3]):
        with pytest.raises(InputError, match="patient 9: age .* not a number"):
            parse_age(text, "patient 9")


def test_features_tell_missing_from_every_known_value():
    people = Demographics.of([63, None, 50, 0], ["F", "M", None, "M"])
    expected = [[0.26, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0], [-1, 1, 0, 1]]
    assert np.allclose(people.features(), expected) and people.features().dtype == np.float32
    assert np.array_equal(Demographics.missing(2).features(), np.zeros((2, 4)))


def test_building_from_single_values_lists_and_tables():
    assert len(Demographics.of(63, "F", 4)) == 4
    for age, sex in ((np.array(63.0), "F"), (np.float32(63), "female"), (pd.Series([63]), pd.Series(["F"]))):
        people = Demographics.of(age, sex)
        assert people.age.tolist() == [63.0] and people.sex.tolist() == ["F"]
    assert Demographics.of([30, 40], "M", 2).sex.tolist() == ["M", "M"]
    for arguments in (([30, 40], ["M"]), ([30, 40], ["M", "F"], 3), ([30, 40], "M")):
        with pytest.raises(InputError):
            Demographics.of(*arguments)


def test_rows_and_repeats():
    people = Demographics.of([30, None, 50], ["F", "M", ""])
    assert people[1:].sex.tolist() == ["M", ""] and len(people[0]) == 1
    assert people[np.array([True, False, True])].age.tolist() == [30.0, 50.0]
    assert np.array_equal(people.repeat(2).age, [30, 30, np.nan, np.nan, 50, 50], equal_nan=True)
    assert people.repeat(2).sex.tolist() == ["F", "F", "M", "M", "", ""]
