"""A paper companion for P2Es, "Translation from Wearable PPG to 12-Lead ECG" (arXiv 2509.25480).

The body of the paper is not public as code and only its abstract was available to the authors of this
implementation: README.md says which choices are the paper's and which are ours.

Modules are layered (README, "Design"); nothing is imported here, so that ``import p2es_lib.leads`` stays cheap and
the core works on a machine that has only numpy, scipy, torch, scikit-learn, pandas and lightning.
"""

__version__ = "0.1.0"
