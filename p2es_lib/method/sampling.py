"""Reverse samplers: plain functions with one signature.

Every sampler runs from t = 1 to t = 0 on the same grid of times. At each time it asks ``denoise`` for the clean signal
x0_hat = E[x_0 | x_t] and moves x_t to the next, earlier time; the x0_hat of the last time is the sample. So
``n_steps`` is the number of denoiser calls, and with one step every sampler returns ``denoise`` at t = 1.

References
----------
Song J, Meng C, Ermon S. Denoising diffusion implicit models. ICLR 2021, arXiv 2010.02502.
Lu C et al. DPM-Solver++. arXiv 2211.01095 (the multistep idea, which is carried over to blurring diffusion here).
"""

from collections.abc import Callable

import torch

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.method.forward_process import ForwardProcess

#: denoise(x_t (M, C, T), t (M,)) -> x0_hat (M, C, T)
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: noise(step) -> standard normal (M, C, T); step 0 is the start at t = 1
Noise = Callable[[int], torch.Tensor]


#: A step in lambda this many times the one before, or longer, is not taken along the line through the last two
#: estimates. Where there is noise the largest ratio is 12 (3 to 100 steps, default blur).
_LONGEST_CONTINUATION = 20.0


def time_grid(n_steps: int) -> torch.Tensor:
    """Times of the denoiser calls, float64 (n_steps,): t_i = 1 - (i / n)^1.5, from 1 down; t_n = 0 is not called.

    The first steps are the small ones: near t = 1 it is decided which of all possible signals a sample becomes, and
    long steps there pull samples towards the mean. Where the perfect denoiser is known (667 simulated beats as the
    only possible signals), 4 deterministic steps gave samples with 0.51 of the true variance instead of 0.38 with equal
    steps, and 8 multistep ones 0.82 instead of 0.63. The price is paid in the finest coefficients, which get fewer
    steps: with a larger exponent it outweighs the gain. An :class:`InputError` if ``n_steps`` is below 1.
    """
    if n_steps < 1:
        raise InputError(f"sampling.n_steps={n_steps}: at least 1")
    return 1.0 - (torch.arange(n_steps, dtype=torch.float64) / n_steps) ** 1.5


def _start(process: ForwardProcess, noise: Noise) -> torch.Tensor:
    """x_1 of shape (M, C, T): the marginal at t = 1, whose signal part is negligible (ForwardProcess.terminal_snr)."""
    z = noise(0)
    return process.noise_part(torch.ones(1, dtype=z.dtype, device=z.device), z)


def _expand(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The time t (1,) once per row of ``like``, in its precision: (M,)."""
    return t.to(like.dtype).expand(len(like))


@torch.no_grad()
def sample_ancestral(denoise: Denoise, process: ForwardProcess, noise: Noise, *, n_steps: int) -> torch.Tensor:
    """Draw each x_s from the posterior q(x_s | x_t, x_0 = x0_hat); fresh noise at every step.

    Parameters
    ----------
    denoise, process, noise
        See :data:`Denoise`, :class:`~p2es_lib.method.forward_process.ForwardProcess` and :data:`Noise`.
    n_steps : int
        Number of denoiser calls.

    Returns
    -------
    torch.Tensor (M, C, T)
        Samples of x_0.
    """
    x_t = _start(process, noise)
    times = time_grid(n_steps).to(x_t.device)
    for step in range(n_steps):
        t = times[step : step + 1]
        x_0 = denoise(x_t, _expand(t, x_t))
        if step + 1 < n_steps:
            mean, std = process.posterior(x_t, x_0, times[step + 1 : step + 2], t)
            x_t = mean + process.from_basis(std[:, None, :] * noise(step + 1))
    return x_0


@torch.no_grad()
def sample_deterministic(denoise: Denoise, process: ForwardProcess, noise: Noise, *, n_steps: int) -> torch.Tensor:
    """Keep the noise that x0_hat implies: u_s = alpha_s u0_hat + sigma_s eps_hat (DDIM). Arguments as above.

    Only the start is random. It is the first-order solution of the probability-flow ODE.
    """
    return _integrate(denoise, process, noise, n_steps, order=1)


@torch.no_grad()
def sample_multistep(denoise: Denoise, process: ForwardProcess, noise: Noise, *, n_steps: int) -> torch.Tensor:
    """Second-order solution of the probability-flow ODE with one denoiser call per step. Arguments as above.

    With blur every coefficient k has its own lambda_k = log(alpha_t(k) / sigma_t), and its own ODE
    d(u / sigma) = u0_hat d(exp(lambda)). DDIM holds u0_hat constant over a step. Here it is continued as a straight
    line in lambda through this estimate and the one before, and the integral is taken exactly. The first step, which
    has no estimate before it, is of first order, and so is a coefficient's step that is far longer than its last one
    (only with blur alone are there such).
    """
    return _integrate(denoise, process, noise, n_steps, order=2)


def _integrate(denoise: Denoise, process: ForwardProcess, noise: Noise, n_steps: int, order: int) -> torch.Tensor:
    x_t = _start(process, noise)
    times = time_grid(n_steps).to(x_t.device)
    alpha, sigma = process.alpha(times), process.sigma_in_basis(times)  # float64 (n_steps, T)
    step_in_lambda = torch.log(alpha / sigma).diff(dim=0)  # (n_steps - 1, T), positive
    u_t, previous = process.to_basis(x_t), None
    for step in range(n_steps):
        x_0 = denoise(x_t, _expand(times[step : step + 1], x_t))
        if step + 1 == n_steps:
            return x_0
        u_0 = process.to_basis(x_0)
        # u_s = sigma_s / sigma_t u_t + sigma_s * integral of u0_hat d(exp(lambda)), for a constant u0_hat ...
        ratio = sigma[step + 1] / sigma[step]
        u_s = ratio.to(u_t.dtype) * u_t + (alpha[step + 1] - ratio * alpha[step]).to(u_t.dtype) * u_0
        if order == 2 and previous is not None:  # ... and what a slope of u0_hat in lambda adds
            h = step_in_lambda[step]
            before = step_in_lambda[step - 1]
            weight = alpha[step + 1] * (h + torch.expm1(-h)) / before
            # With blur alone, lambda of the mean never changes, and of coefficients at the response's floor not yet.
            weight = torch.where(h < _LONGEST_CONTINUATION * before, weight, 0.0)
            u_s = u_s + weight.to(u_t.dtype) * (u_0 - previous)
        u_t, previous = u_s, u_0
        x_t = process.from_basis(u_t)


SAMPLERS = {"ancestral": sample_ancestral, "deterministic": sample_deterministic, "multistep": sample_multistep}


def get_sampler(name: str) -> Callable[..., torch.Tensor]:
    """Sampler of that name; an unknown name raises an :class:`InputError` that lists the allowed ones."""
    return SAMPLERS[check_choice("sampling.sampler", name, SAMPLERS)]
