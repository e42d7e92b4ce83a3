"""The paper: PPG in, 12-lead ECG out. Everything of its method is in this folder, and nothing else.

Read it in this order:

1. :mod:`.forward_process`: the first idea. An ECG is blurred, then noise is added, until nothing of it is left.
2. :mod:`.multi_scale`, :mod:`.deblurring` and :mod:`.denoiser`: the second idea, the way back. Stage 1 looks at noise,
   PPG and leads on several time scales and gives a coarse ECG; stage 2, frequency deblurring, gives back what the blur
   took away; the denoiser is both together.
3. :mod:`.affinity`: the third idea. GroupFinder tells from PPG, age and sex to which group a person belongs, and each
   group has a matrix that says which leads listen to which in the denoiser.
4. :mod:`.sampling`: from noise to an ECG in a few calls of the denoiser.
5. :mod:`.p2es`: all of it put together, with its loss, as one translator.

What P2Es shares with every learned method (weights on disk, batches, the noise of a window) is in :mod:`p2es_lib.core`;
the training loop is in :mod:`p2es_lib.training`; other methods are in :mod:`p2es_lib.baselines`.
"""
