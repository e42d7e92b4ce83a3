"""Baselines: one file per method, each a :class:`~p2es_lib.core.translator.Translator`."""
