"""Label-free measures of features, and when features or targets have collapsed.

- RankMe: "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank"
  (Garrido et al., ICML 2023), equation 1.
- alpha-ReQ: "alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by Measuring Eigenspectrum Decay"
  (Agrawal et al., NeurIPS 2022), section 3.
- LiDAR: "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures" (Thilak et al., ICLR 2024),
  equations 1 to 4.

All spectra come from an eigendecomposition in float64 of the smaller of the two Gram matrices. Singular values below
1e-8 of the largest are rounding then; they count for nothing in an effective rank.
"""

import math

import torch
from torch import Tensor

EPS = 1e-7
"""What RankMe and LiDAR add to each share of a spectrum."""
LIMIT = 10_000
"""Samples that :func:`feature_measures` looks at at most, spread evenly."""
ONE_DIRECTION = 1.5
"""Features of a lesser effective rank vary along one direction only."""
MARGIN = 0.01
"""How near the collapsed value an entropy may come, as a share of its range, before it counts as one."""


def effective_rank(spectrum: Tensor, eps: float = EPS) -> float:
    """``exp(-sum_k p_k log p_k)`` with ``p_k = s_k / sum(s) + eps``: how many directions share a spectrum.

    Args:
        spectrum: non-negative values, ``(K,)``; K equal ones have the effective rank K, and no direction has rank 0.
        eps: keeps the logarithm finite.

    Example:
        >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])), 3)
        3.0
    """
    spectrum = spectrum.double()
    total = spectrum.sum()
    if not total > 0:
        return 0.0 if total == 0 else math.nan
    p = spectrum / total + eps
    return float(torch.exp(-(p * p.log()).sum()))


def singular_values(x: Tensor) -> Tensor:
    """Singular values of ``(N, D)``, the ``min(N, D)`` largest first, in float64."""
    x = x.double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()


def rankme(x: Tensor) -> float:
    """RankMe: the effective rank of the singular values of features ``(N, D)``, which are not centred.

    Args:
        x: features of N samples; the paper takes 25,600.
    """
    return effective_rank(singular_values(x))


def alpha_req(x: Tensor, first: int = 1, last: int | None = None) -> float:
    """alpha-ReQ: the exponent of ``lambda_j ~ j^-alpha`` of the eigenvalues of the covariance of ``(N, D)``.

    Minus the slope of a least-squares line through ``(log j, log lambda_j)``.

    Args:
        x: features of N samples.
        first: the first eigenvalue of the fit, counted from 1 for the largest.
        last: the last one; None takes all that are above rounding, 1e-12 of the largest.

    Returns:
        The exponent, NaN where fewer than two eigenvalues are fitted. The paper finds that good features have it near
        1; a larger one means that fewer directions carry the variance.
    """
    return decay_exponent(singular_values(x.double() - x.double().mean(0)).square(), first, last)


def decay_exponent(spectrum: Tensor, first: int = 1, last: int | None = None) -> float:
    """Minus the slope of ``log spectrum`` against the logarithm of the position; see :func:`alpha_req`.

    Example:
        >>> round(decay_exponent(torch.arange(1, 100.0) ** -1.5), 6)
        1.5
    """
    spectrum = spectrum.double()
    count = int((spectrum > 1e-12 * spectrum.max()).sum()) if len(spectrum) else 0
    count = min(count, last or count)
    if count - first < 1:
        return math.nan
    x = torch.arange(first, count + 1, dtype=torch.float64, device=spectrum.device).log()
    y = spectrum[first - 1 : count].log()
    x = x - x.mean()
    return -float((x * y).sum() / x.square().sum())


def lidar(x: Tensor, delta: float = 1e-4, eps: float = EPS) -> float:
    """LiDAR: the effective rank of ``Sigma_w^-1/2 Sigma_b Sigma_w^-1/2``, images being classes and views their samples.

    ``Sigma_b`` is the covariance of the images' mean features, ``Sigma_w`` that of a view around its image's mean, plus
    ``delta`` times the identity.

    Args:
        x: features of q views of each of n images, ``(n, q, D)``; the paper takes 1,000 images and 50 views.
        delta: regularises the inverse; the paper's is 1e-4.
        eps: keeps the logarithm finite.

    Raises:
        ValueError: if there are fewer than two images or views.
    """
    if x.ndim != 3 or min(x.shape[:2]) < 2:
        raise ValueError(f"x={tuple(x.shape)}: must be (n, q, D), two or more views of two or more images")
    x = x.double()
    means = x.mean(1)
    between = means - means.mean(0)
    within = (x - means[:, None]).flatten(0, 1)
    values, vectors = torch.linalg.eigh(within.T @ within / len(within))
    # The eigenvalues of the matrix above are the squared singular values of the whitened means.
    whitened = between @ vectors / (values.clamp_min(0) + delta).sqrt()
    return effective_rank(singular_values(whitened).square(), eps)


def feature_measures(x: Tensor) -> dict[str, float]:
    """Label-free measures of features ``(N, D)``, of at most ``LIMIT`` samples.

    Returns:
        ``rankme``; ``alpha_req``; ``effective_rank``, that of the singular values of the centred features, which a mean
        that all samples share does not hide; 0 where all samples have one feature vector, up to float32's rounding. All
        NaN where a feature is not finite.
    """
    x = x[:: -(-len(x) // LIMIT)].double()
    if not x.isfinite().all():
        return dict.fromkeys(("rankme", "alpha_req", "effective_rank"), math.nan)
    whole, centred = singular_values(x), singular_values(x - x.mean(0))
    constant = centred.square().sum().sqrt() <= 1e-5 * whole.square().sum().sqrt()
    return {
        "rankme": effective_rank(whole),
        "alpha_req": math.nan if constant else decay_exponent(centred.square()),
        "effective_rank": 0.0 if constant else effective_rank(centred),
    }


def collapsed_features(rank: float, most: int) -> str | None:
    """What has collapsed where the effective rank of centred features is below 1.5; None if nothing.

    Args:
        rank: ``effective_rank`` of :func:`feature_measures`.
        most: the largest rank that there could be: the features' width, or the number of samples less 1.
    """
    if most < 2 or not rank < ONE_DIRECTION:
        return None
    if rank == 0:
        return f"the features are the same for every image (effective rank 0 of {most})"
    return f"the features vary along one direction (effective rank {rank:.2f} of {most})"


def collapsed_targets(entropy: float, out_dim: int) -> str | None:
    """What has collapsed where the mean entropy of targets is within 1 % of 0 or of ``ln(out_dim)``; None if nothing.

    Args:
        entropy: mean over samples, in nats.
        out_dim: m, number of logits.
    """
    most = math.log(out_dim)
    if entropy <= MARGIN * most:
        return f"every target is a single class (entropy {entropy:.4f} of {most:.4f} nats)"
    if entropy >= (1 - MARGIN) * most:
        return f"the targets are uniform (entropy {entropy:.4f} of {most:.4f} nats)"
    return None
