"""Reference figures of the unit tests in src/statistics.rs. Needs numpy and scipy.

python statistics.py
"""

import numpy as np
from scipy.stats import binom


def binomial_quantiles(count, share):
    """The bootstrap of independent questions draws from the binomial distribution exactly."""
    return binom.ppf([0.025, 0.975], count, share)


def resampled_p(gains, losses, count, resamples=1_000_000):
    """Two-sided bootstrap p-value of paired differences of -1, 0 and 1."""
    draws = np.random.default_rng(0).multinomial(
        count, [gains / count, losses / count, 1 - (gains + losses) / count], resamples
    )
    difference = draws[:, 0] - draws[:, 1]
    return 2 * min((difference <= 0).mean(), (difference >= 0).mean())


def holm(p_values):
    """Step-down correction, as statsmodels' `multipletests(method="holm")`."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    floor = 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected


if __name__ == "__main__":
    print("binomial", binomial_quantiles(100, 0.6), binomial_quantiles(10, 0.6), binomial_quantiles(100, 0.1))
    print("p", resampled_p(12, 6, 40))
    print("holm", holm([0.01, 0.04, 0.03, 0.005]))
