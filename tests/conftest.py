"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mirror() -> Path:
    """Folder with real recordings, laid out as PhysioNet lays out its files; skips the test when there is none."""
    named = os.environ.get("P2ES_TEST_MIRROR")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data" / "physionet"
    if not folder.is_dir():
        pytest.skip(f"no real recordings: {folder} does not exist; set P2ES_TEST_MIRROR to a folder laid out as PhysioNet")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Run-time folders of this test only."""
    monkeypatch.setenv("P2ES_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("P2ES_MIRROR", raising=False)
    return tmp_path / "home"
