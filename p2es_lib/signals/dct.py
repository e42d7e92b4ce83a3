"""The orthonormal discrete cosine transform along the last axis, in torch and differentiable."""

import math

import torch


def _half_shift(length: int, like: torch.Tensor) -> torch.Tensor:
    """exp(-i pi k / (2 N)) for k = 0..N//2, complex with the precision and device of ``like``."""
    k = torch.arange(length // 2 + 1, dtype=torch.float64, device=like.device)
    angle = k * (-math.pi / (2 * length))
    return torch.complex(torch.cos(angle).to(like.dtype), torch.sin(angle).to(like.dtype))


def _as_float(x: torch.Tensor) -> torch.Tensor:
    """float32 and float64 as they are; half precision, which FFTs lack on many devices, as float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def dct(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal DCT-II along the last axis, (..., N) to (..., N), differentiable.

    u[k] = c_k sqrt(2/N) sum_n x[n] cos(pi (2 n + 1) k / (2 N)), with c_0 = 1/sqrt(2) and c_k = 1 otherwise. The
    transform is orthogonal: it keeps energies, and white noise stays white noise. Coefficient k belongs to the
    frequency k * sampling_rate / (2 N) hertz. Half precision is computed and returned in float32.

    References
    ----------
    Makhoul J. A fast cosine transform in one and two dimensions. IEEE Trans. ASSP 28:27-34, 1980. (One real FFT of
    length N on the samples in the order 0, 2, 4, ..., 5, 3, 1.)
    """
    x = _as_float(x)
    length = x.shape[-1]
    reordered = torch.cat([x[..., 0::2], x[..., 1::2].flip(-1)], dim=-1)
    z = torch.fft.rfft(reordered, norm="ortho") * _half_shift(length, x)  # (..., N//2 + 1)
    # For a real signal z holds two coefficients in each entry: u[k] = Re z[k] and u[N - k] = -Im z[k].
    u = torch.cat([z.real, -z.imag[..., 1 : (length + 1) // 2].flip(-1)], dim=-1) * math.sqrt(2)
    return torch.cat([u[..., :1] / math.sqrt(2), u[..., 1:]], dim=-1)


def idct(u: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`dct` (orthonormal DCT-III along the last axis), differentiable."""
    u = _as_float(u)
    length = u.shape[-1]
    half = length // 2 + 1
    scaled = torch.cat([u[..., :1], u[..., 1:] / math.sqrt(2)], dim=-1)
    mirrored = torch.cat([torch.zeros_like(scaled[..., :1]), scaled[..., 1:].flip(-1)], dim=-1)  # u[N - k]
    z = torch.complex(scaled[..., :half], -mirrored[..., :half]) * _half_shift(length, u).conj()
    reordered = torch.fft.irfft(z, n=length, norm="ortho")
    n_even = (length + 1) // 2
    even, odd = reordered[..., :n_even], reordered[..., n_even:].flip(-1)
    odd = torch.cat([odd, even[..., : n_even - odd.shape[-1]]], dim=-1)  # for odd N: one value that is cut off again
    return torch.stack([even, odd], dim=-1).flatten(-2)[..., :length]
