"""The posterior of a language's shift, given unlabelled scores: adaptive importance sampling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln, gammaln, log_expit, logsumexp, softmax

from skgate.gate._scores import LabelledScores
from skgate.gate._shift_posterior import NORMAL, LanguageShift, ShiftModel, condense
from skgate.gate._shift_prior import SCORE_TAILS, log_t
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


def adapt(model: ShiftModel, shots: LabelledScores, scores: Floats) -> Adaptation:
    """Learn a language's boundary from labelled and unlabelled scores.

    The unlabelled prompts are either all harmless, or a mixture of both classes with an unknown
    share of harmful ones. The result is the posterior mean over both cases and over all
    boundaries, gaps, widths and shares (adaptive importance sampling).

    Parameters
    ----------
    model : ShiftModel
        What the source languages suggest.
    shots : LabelledScores
        The labelled scores; may be empty.
    scores : ndarray of shape (n,)
        The unlabelled scores.

    Returns
    -------
    adaptation : Adaptation
        The posterior.
    """
    density = _Density(model, shots, *_condense(np.sort(scores)))
    cases = [_sample(density, none_harmful) for none_harmful in (True, False)]
    log_odds = np.log([_NONE_HARMFUL, 1 - _NONE_HARMFUL]) + [case.evidence for case in cases]
    probability = np.exp(log_odds - logsumexp(log_odds))
    # Parameters: boundary, squeeze, log width. The mixture's fourth one, its share, is left out.
    mean = sum(p * case.mean[:3] for p, case in zip(probability, cases, strict=True))
    spread = sum(
        p * (case.covariance[0, 0] + (case.mean[0] - mean[0]) ** 2)
        for p, case in zip(probability, cases, strict=True)
    )
    width, prior = float(np.exp(mean[2])), model.prior
    boundary = float(mean[0])
    deviation = float(np.hypot(np.sqrt(spread), width * prior.misfit * prior.unit))
    shift = LanguageShift(
        boundary=boundary,
        deviation=deviation,
        gap=float(mean[1]) * prior.gap,
        width=width,
        interval=(boundary - NORMAL * deviation, boundary + NORMAL * deviation),
        weak=model.update(shots).weak,
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


class _Density(NamedTuple):
    """Prior and likelihood of (boundary, squeeze, log width, log odds of the harmful share)."""

    model: ShiftModel
    shots: LabelledScores
    scores: Floats
    counts: Floats

    def start(self, none_harmful: bool) -> tuple[Floats, Floats]:
        """Return the mean and covariance of the first proposal."""
        known = self.model.update(self.shots)
        squeeze, log_width = known.gap / self.model.prior.gap, np.log(known.width)
        wide = (np.median(self.scores) - known.boundary) ** 2
        variance = [2 * known.deviation**2 + wide, 0.16, 0.16, 4.0]
        size = 3 if none_harmful else 4
        return np.array([known.boundary, squeeze, log_width, 0.0][:size]), np.diag(variance[:size])

    def log_density(self, draws: Floats, none_harmful: bool) -> Floats:
        """Log of prior times likelihood, up to a constant that both cases share."""
        prior = self.model.prior
        boundary, squeeze, log_width = draws.T[:3]
        density = prior.log_density(boundary, squeeze, log_width)
        means, width = prior.means(boundary, squeeze), np.exp(log_width)
        unlabelled = []
        for label in (0, 1):
            mean, scale = means[label][:, None], (width * prior.spread[label])[:, None]
            scores, weights = condense(*self.shots.of_class(label))
            density += log_t(scores - mean, scale, SCORE_TAILS) @ weights
            unlabelled.append(log_t(self.scores - mean, scale, SCORE_TAILS))
        harmless, harmful = unlabelled
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


def _sample(target: _Density, none_harmful: bool) -> _Sample:
    """Adapt a t distribution to the posterior; return its evidence, mean and covariance.

    While the proposal misses the posterior, the weights are flattened (raised to a power below 1)
    until the effective sample size is reached.
    """
    rng = np.random.default_rng(0)
    mean, covariance = target.start(none_harmful)
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
        log_weight = target.log_density(draws, none_harmful) - log_proposal
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
