"""How good an ECG, a model and a cohort are."""
