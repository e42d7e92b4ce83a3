"""Recordings as people have them: WFDB, CSV and EDF files to one PPG on one clock."""
