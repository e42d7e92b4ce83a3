"""Moved to :mod:`p2es_lib.core.learned`."""

from p2es_lib.core.learned import describe_method, get_method, load_method  # noqa: F401
