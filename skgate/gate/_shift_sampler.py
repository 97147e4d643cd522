"""The posterior of a language's shift, given unlabelled scores: adaptive importance sampling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln, gammaln, log_expit, logsumexp, softmax
from scipy.stats import t as student_t

from skgate.gate._shift_prior import (
    MIN_SQUEEZE,
    TAILS,
    WIDTH_ROWS,
    LanguagePrior,
    LanguageShift,
    ScoreStatistics,
)
from skgate.gate._subspace import Floats

_NONE_HARMFUL = 0.25  # prior probability that no prompt is harmful
_SHARE = 2.0  # prior of the harmful share otherwise: Beta(2, 2)
_DRAWS, _MAX_SCORES = 4096, 512
_FEWEST_ROUNDS, _MOST_ROUNDS = 6, 40
_NEGLIGIBLE = 0.01
_EFFECTIVE = 400.0  # effective sample size needed
_PROPOSAL_TAILS = 5.0


class Adaptation(NamedTuple):
    """Posterior given labelled and unlabelled scores.

    Attributes
    ----------
    shift : LanguageShift
        Boundary, gap and width of the language's scores.
    none_harmful : float
        Posterior probability that none of the unlabelled prompts is harmful.
    settled : bool
        Whether the sampling converged for every case of more than negligible probability.
    """

    shift: LanguageShift
    none_harmful: float
    settled: bool


def adapt(prior: LanguagePrior, shots: ScoreStatistics, scores: Floats) -> Adaptation:
    """Learn a language's boundary from labelled and unlabelled scores.

    The unlabelled prompts are either all harmless, or a mixture of both classes with an unknown
    share of harmful ones. The result is the posterior mean over both cases and over all
    boundaries, gaps, widths and shares (adaptive importance sampling).

    Parameters
    ----------
    prior : LanguagePrior
        What the source languages suggest.
    shots : ScoreStatistics
        Statistics of the labelled scores; may be empty.
    scores : ndarray of shape (n,)
        The unlabelled scores.

    Returns
    -------
    adaptation : Adaptation
        The posterior.
    """
    model = _Model(prior, shots, *_condense(np.sort(scores)))
    cases = [_sample(model, none_harmful) for none_harmful in (True, False)]
    log_odds = np.log([_NONE_HARMFUL, 1 - _NONE_HARMFUL]) + [case.evidence for case in cases]
    probability = np.exp(log_odds - logsumexp(log_odds))
    # Parameters: boundary, squeeze, log width. The mixture's fourth one, its share, is left out.
    mean = sum(p * case.mean[:3] for p, case in zip(probability, cases, strict=True))
    spread = sum(
        p * (case.covariance[0, 0] + (case.mean[0] - mean[0]) ** 2)
        for p, case in zip(probability, cases, strict=True)
    )
    width = float(np.exp(mean[2]))
    misfit = width * prior.misfit * prior.unit
    shift = LanguageShift(
        boundary=prior.boundary + float(mean[0]),
        deviation=float(np.hypot(np.sqrt(spread), misfit)),
        gap=float(mean[1]) * width * prior.gap,
        width=width,
        rows=WIDTH_ROWS + float(shots.weight.sum()),
    )
    settled = all(
        case.settled for p, case in zip(probability, cases, strict=True) if p > _NEGLIGIBLE
    )
    return Adaptation(shift, float(probability[0]), settled)


def _condense(scores: Floats) -> tuple[Floats, Floats]:
    """Replace many sorted scores by the means of neighbours; also return the weight of each.

    The weights sum to 512 at most. The model is not exact enough to justify a narrower posterior,
    and the sampling would not find one.
    """
    groups = np.array_split(scores, min(len(scores), _MAX_SCORES))
    counts = np.array([len(group) for group in groups], dtype=float)
    means = np.array([group.mean() for group in groups])
    return means, counts * min(1.0, _MAX_SCORES / len(scores))


class _Model(NamedTuple):
    """Prior and likelihood of (boundary, squeeze, log width, log odds of the harmful share)."""

    prior: LanguagePrior
    shots: ScoreStatistics
    scores: Floats
    counts: Floats

    def start(self, none_harmful: bool) -> tuple[Floats, Floats]:
        """Return the mean and covariance of the first proposal."""
        prior = self.prior
        known = prior.update(self.shots)
        mean = [known.boundary - prior.boundary, prior.squeeze, prior.log_width, 0.0]
        wide = (np.median(self.scores) - known.boundary) ** 2
        variance = [2 * known.deviation**2 + wide, 4 * prior.squeeze_spread**2, 0.16, 4.0]
        size = 3 if none_harmful else 4
        return np.array(mean[:size]), np.diag(variance[:size])

    def log_density(self, draws: Floats, none_harmful: bool) -> Floats:
        """Log of prior times likelihood, up to a constant that both cases share."""
        prior = self.prior
        boundary, squeeze, log_width = draws.T[:3]
        width = np.exp(log_width)
        gap = squeeze * width * prior.gap
        density = (
            _log_t(boundary / prior.shift)
            + _log_t((squeeze - prior.squeeze) / prior.squeeze_spread)
            # The width's square is inverse gamma, as in LanguagePrior.width.
            - WIDTH_ROWS * (log_width - prior.log_width)
            - WIDTH_ROWS / 2 * np.exp(2 * (prior.log_width - log_width))
            + np.where(squeeze > MIN_SQUEEZE, 0.0, -np.inf)
        )
        means = [prior.boundary + boundary + half * gap for half in (-0.5, 0.5)]
        for c in (0, 1):
            deviation = width * prior.spread[c]
            residual = self.shots.residual[c]
            residual = residual + self.shots.weight[c] * (self.shots.mean[c] - means[c]) ** 2
            density -= residual / (2 * deviation**2) + self.shots.weight[c] * np.log(deviation)
        harmless, harmful = (
            -((self.scores - means[c][:, None]) ** 2)
            / (2 * (width * prior.spread[c])[:, None] ** 2)
            - np.log(width * prior.spread[c])[:, None]
            for c in (0, 1)
        )
        if none_harmful:
            return density + harmless @ self.counts
        share = draws[:, 3]
        density += _SHARE * (log_expit(share) + log_expit(-share)) - betaln(_SHARE, _SHARE)
        harmful += log_expit(share)[:, None]
        harmless += log_expit(-share)[:, None]
        return density + np.logaddexp(harmless, harmful) @ self.counts


class _Sample(NamedTuple):
    evidence: float  # log
    mean: Floats
    covariance: Floats
    settled: bool  # whether the effective sample size was reached


def _log_t(x: Floats) -> Floats:
    density: Floats = student_t.logpdf(x, TAILS)
    return density


def _sample(model: _Model, none_harmful: bool) -> _Sample:
    """Adapt a t distribution to the posterior; return its evidence, mean and covariance.

    While the proposal misses the posterior, the weights are flattened (raised to a power below 1)
    until the effective sample size is reached.
    """
    rng = np.random.default_rng(0)
    mean, covariance = model.start(none_harmful)
    size = len(mean)
    floor = np.diag(1e-6 * covariance.diagonal())
    nu = _PROPOSAL_TAILS
    for n_rounds in range(1, _MOST_ROUNDS + 1):
        root = np.linalg.cholesky(covariance)
        normal = rng.standard_normal((_DRAWS, size))
        shrink = rng.chisquare(nu, _DRAWS) / nu
        draws = mean + (normal @ root.T) / np.sqrt(shrink)[:, None]
        log_proposal = (
            gammaln((nu + size) / 2)
            - gammaln(nu / 2)
            - size / 2 * np.log(nu * np.pi)
            - np.log(root.diagonal()).sum()
            - (nu + size) / 2 * np.log1p((normal**2).sum(axis=1) / shrink / nu)
        )
        log_weight = model.log_density(draws, none_harmful) - log_proposal
        evidence = float(logsumexp(log_weight) - np.log(_DRAWS))
        power = _flattening(log_weight)
        weight = softmax(power * log_weight)
        mean = weight @ draws
        covariance = (draws - mean).T @ ((draws - mean) * weight[:, None])
        covariance += floor
        if power == 1 and n_rounds >= _FEWEST_ROUNDS:
            break
    return _Sample(evidence, mean, covariance, settled=power == 1)


def _flattening(log_weight: Floats) -> float:
    """Find the largest power of the weights, up to 1, that reaches the effective sample size."""
    possible = log_weight[np.isfinite(log_weight)]
    enough = min(_EFFECTIVE, len(possible) / 2)

    def surplus(power: float) -> float:
        weight = softmax(power * possible)
        return 1 / float(weight @ weight) - enough

    return 1.0 if surplus(1.0) >= 0 else float(brentq(surplus, 0.0, 1.0))
