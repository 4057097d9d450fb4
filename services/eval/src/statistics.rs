//! Accuracy and what it is worth: percentile bootstrap over trainings and pictures, paired
//! differences, p-values, Holm's correction.
//!
//! Questions on one picture stand or fall together, so pictures are resampled and not questions
//! (Miller, arXiv 2411.00640). What was trained several times is a sample of trainings as well, and
//! every training answers on every picture: both are resampled, each by itself, and a resample
//! holds the drawn trainings on the drawn pictures (Owen's pigeonhole bootstrap, arXiv 0712.1111).
//! All series of a benchmark are resampled by the same draws, those with equally many replicas by
//! the same draw of replicas; the difference of two of them is thereby paired.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean of the sample.
    pub mean: f64,
    /// Quantile 0.025 of the resampled means.
    pub low: f64,
    /// Quantile 0.975 of the resampled means.
    pub high: f64,
}

/// What one model got for its answers: a score per question, in an order shared by all series.
pub type Scores = Vec<f64>;

/// One way of answering: the scores of each of its trainings. Index k of one series and index k of
/// another with equally many were trained with the same seed.
pub type Replicas = Vec<Scores>;

/// Means of several series, resampled together.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Mean of each series.
    means: Vec<f64>,
    /// By series, then by resample.
    resampled: Vec<Vec<f64>>,
}

impl Bootstrap {
    /// Resamples the replicas and the clusters of questions `resample_count` times with replacement.
    ///
    /// `clusters` holds each question's cluster, such as the index of its picture; every replica
    /// has one score per question. `key` decides the random numbers, so that a row's interval does
    /// not depend on which rows were drawn before it. Draws of replicas take none of those that
    /// pictures take, so a series with one replica has the interval that pictures alone give.
    pub fn draw(
        clusters: &[usize],
        series: &[Replicas],
        resample_count: u32,
        key: &Key<'_>,
    ) -> Self {
        let sums = ClusterSums::new(clusters, series);
        let (mut pictures, mut trainings) = (key.random(), Trainings::new(series, key));
        let mut resampled = vec![Vec::with_capacity(resample_count as usize); series.len()];
        for _ in 0..resample_count {
            let draw = sums.resample(&mut pictures);
            trainings.redraw();
            for (series, columns) in resampled.iter_mut().zip(&sums.columns) {
                let answer_count = draw.question_count * columns.len().max(1) as f64;
                series.push(trainings.total(&draw.totals[columns.clone()]) / answer_count);
            }
        }
        let means = series.iter().map(|replicas| mean(&replicas.concat()));
        Self {
            means: means.collect(),
            resampled,
        }
    }

    /// Mean of a series with its percentile interval.
    pub fn interval(&self, series: usize) -> Interval {
        interval(self.means[series], self.resampled[series].clone())
    }

    /// Mean of `series` minus that of `reference`, with its percentile interval and the two-sided
    /// p-value of no difference.
    pub fn difference(&self, series: usize, reference: usize) -> (Interval, f64) {
        let pairs = self.resampled[series]
            .iter()
            .zip(&self.resampled[reference]);
        let differences: Vec<f64> = pairs.map(|(own, other)| own - other).collect();
        let p_value = two_sided_p(&differences);
        (
            interval(self.means[series] - self.means[reference], differences),
            p_value,
        )
    }
}

/// What decides the random numbers of one row.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// Seed of the evaluation.
    pub seed: u64,
    /// Benchmark by name.
    pub benchmark: &'a str,
    /// Ability, or `all`.
    pub ability: &'a str,
}

impl Key<'_> {
    fn random(&self) -> ChaCha8Rng {
        let mut hasher = Sha256::new();
        hasher.update(self.seed.to_le_bytes());
        for part in [self.benchmark, self.ability] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        ChaCha8Rng::from_seed(hasher.finalize().into())
    }
}

/// Holm's step-down correction: the p-values as they hold for all hypotheses together, in the
/// order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut corrected = vec![1.0; p_values.len()];
    let mut floor = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        let hypotheses_left = (p_values.len() - rank) as f64;
        floor = floor.max((hypotheses_left * p_values[index]).min(1.0));
        corrected[index] = floor;
    }
    corrected
}

/// The mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Scores summed by cluster and replica: what a resample adds up.
struct ClusterSums {
    /// Questions of each cluster.
    question_counts: Vec<f64>,
    /// By cluster, then by replica of all series, end to end.
    totals: Vec<f64>,
    /// Each series' replicas among those of all.
    columns: Vec<Range<usize>>,
    replica_count: usize,
}

/// One draw of pictures.
struct Draw {
    question_count: f64,
    /// By replica of all series.
    totals: Vec<f64>,
}

impl ClusterSums {
    fn new(clusters: &[usize], series: &[Replicas]) -> Self {
        let mut names: Vec<usize> = clusters.to_vec();
        names.sort_unstable();
        names.dedup();
        let mut replica_count = 0;
        let columns = series.iter().map(|replicas| {
            let first = replica_count;
            replica_count += replicas.len();
            first..replica_count
        });
        let columns = columns.collect();
        let mut question_counts = vec![0.0; names.len()];
        let mut totals = vec![0.0; names.len() * replica_count];
        for (question, cluster) in clusters.iter().enumerate() {
            let index = names.partition_point(|name| name < cluster);
            question_counts[index] += 1.0;
            let own = &mut totals[index * replica_count..][..replica_count];
            for (total, scores) in own.iter_mut().zip(series.iter().flatten()) {
                *total += scores[question];
            }
        }
        Self {
            question_counts,
            totals,
            columns,
            replica_count,
        }
    }

    fn resample(&self, random: &mut ChaCha8Rng) -> Draw {
        let mut draw = Draw {
            question_count: 0.0,
            totals: vec![0.0; self.replica_count],
        };
        for _ in 0..self.question_counts.len() {
            let cluster = random.random_range(0..self.question_counts.len());
            draw.question_count += self.question_counts[cluster];
            let own = &self.totals[cluster * self.replica_count..][..self.replica_count];
            for (total, own) in draw.totals.iter_mut().zip(own) {
                *total += own;
            }
        }
        draw.question_count = draw.question_count.max(1.0);
        draw
    }
}

/// Which replicas a resample holds: one draw for each number of replicas that a series has.
struct Trainings {
    drawn: BTreeMap<usize, (ChaCha8Rng, Vec<usize>)>,
}

impl Trainings {
    fn new(series: &[Replicas], key: &Key<'_>) -> Self {
        let counts: BTreeSet<usize> = series.iter().map(Vec::len).collect();
        let draws = counts.into_iter().map(|count| {
            let mut random = key.random();
            // Stream 0 draws the pictures.
            random.set_stream(count as u64);
            (count, (random, vec![0; count]))
        });
        Self {
            drawn: draws.collect(),
        }
    }

    fn redraw(&mut self) {
        for (&count, (random, places)) in &mut self.drawn {
            for place in places {
                *place = random.random_range(0..count);
            }
        }
    }

    /// Sum over the drawn ones of a series' replicas, each as often as it was drawn.
    fn total(&self, totals: &[f64]) -> f64 {
        let (_, places) = &self.drawn[&totals.len()];
        places.iter().map(|&place| totals[place]).sum()
    }
}

fn interval(mean: f64, mut resampled: Vec<f64>) -> Interval {
    resampled.sort_unstable_by(f64::total_cmp);
    Interval {
        mean,
        low: quantile(&resampled, 0.025, mean),
        high: quantile(&resampled, 0.975, mean),
    }
}

/// The quantile with linear interpolation, as numpy's default; `otherwise` of nothing.
fn quantile(sorted: &[f64], share: f64, otherwise: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return otherwise;
    };
    let place = share * last as f64;
    let (low, high) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}

/// Twice the share of resampled differences on the rarer side of zero, at most 1. One is added to
/// both counts (Davison and Hinkley, 1997, 4.2.3): no finite number of resamples shows a p of 0.
fn two_sided_p(differences: &[f64]) -> f64 {
    let share = |count: usize| (count + 1) as f64 / (differences.len() + 1) as f64;
    let below = differences.iter().filter(|&&d| d <= 0.0).count();
    let above = differences.iter().filter(|&&d| d >= 0.0).count();
    (2.0 * share(below.min(above))).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'_> = Key {
        seed: 1,
        benchmark: "b",
        ability: "all",
    };

    fn close(actual: f64, expected: f64, abs: f64) {
        assert!(
            (actual - expected).abs() <= abs,
            "{actual} is not within {abs} of {expected}"
        );
    }

    /// Scores of `count` questions, each on its own picture, of which the first `right` are right.
    fn scores(right: usize, count: usize) -> (Vec<usize>, Scores) {
        (
            (0..count).collect(),
            (0..count).map(|i| f64::from(u8::from(i < right))).collect(),
        )
    }

    #[test]
    fn the_interval_of_single_questions_is_the_binomial_one() {
        // tests/reference/statistics.py, `binomial_quantiles(100, 0.6)`: 50 and 69 of 100.
        let (clusters, right) = scores(60, 100);
        let interval = Bootstrap::draw(&clusters, &[vec![right]], 10_000, &KEY).interval(0);
        close(interval.mean, 0.6, 1e-12);
        close(interval.low, 0.50, 0.011);
        close(interval.high, 0.69, 0.011);
    }

    #[test]
    fn questions_on_one_picture_count_as_one_draw() {
        // 100 questions as 10 pictures of 10, 6 of them all right: the interval is that of n = 10.
        let clusters: Vec<usize> = (0..100).map(|i| i / 10).collect();
        let right = (0..100).map(|i| f64::from(u8::from(i < 60))).collect();
        let interval = Bootstrap::draw(&clusters, &[vec![right]], 10_000, &KEY).interval(0);
        // `binomial_quantiles(10, 0.6)`: 3 and 9 of 10.
        close(interval.low, 0.3, 1e-9);
        close(interval.high, 0.9, 1e-9);
    }

    #[test]
    fn a_paired_difference_knows_that_the_questions_are_the_same() {
        // The second is right wherever the first is, and on 10 more: all differences are 0 or 1,
        // so the interval is `binomial_quantiles(100, 0.1)` = 5 and 16 of 100, and p is small.
        let (clusters, first) = scores(50, 100);
        let (_, second) = scores(60, 100);
        let bootstrap = Bootstrap::draw(&clusters, &[vec![first], vec![second]], 10_000, &KEY);
        let (gain, p_value) = bootstrap.difference(1, 0);
        close(gain.mean, 0.1, 1e-12);
        close(gain.low, 0.05, 0.011);
        close(gain.high, 0.16, 0.011);
        // P(no difference drawn) = 0.9 ^ 100 = 2.7e-5; twice that, with one added.
        assert!(p_value <= 0.002, "{p_value}");
        let (none, p_value) = bootstrap.difference(0, 0);
        assert_eq!(
            (none.mean, none.low, none.high, p_value),
            (0.0, 0.0, 0.0, 1.0)
        );
    }

    #[test]
    fn the_p_value_is_the_share_of_resamples_beyond_zero() {
        // 12 gains and 6 losses in 40 questions: `resampled_p(12, 6, 40, ...)` gives 0.184.
        let series: Scores = (0..40)
            .map(|i| {
                if i < 12 {
                    1.0
                } else if i < 18 {
                    -1.0
                } else {
                    0.0
                }
            })
            .collect();
        let zero = vec![0.0; 40];
        let clusters: Vec<usize> = (0..40).collect();
        let (_, p_value) =
            Bootstrap::draw(&clusters, &[vec![series], vec![zero]], 10_000, &KEY).difference(0, 1);
        close(p_value, 0.184, 0.02);
    }

    /// Scores of a model that gets `level` on every picture, and on odd ones `spread` more.
    fn level(level: f64, spread: f64, count: usize) -> Scores {
        (0..count)
            .map(|i| level + if i % 2 == 1 { spread } else { 0.0 })
            .collect()
    }

    fn gain(control: &[f64], synthetic: &[f64], spread: f64) -> (Interval, f64) {
        let flat = |levels: &[f64]| levels.iter().map(|&l| level(l, 0.0, 100)).collect();
        let odd = |levels: &[f64]| levels.iter().map(|&l| level(l, spread, 100)).collect();
        let clusters: Vec<usize> = (0..100).collect();
        Bootstrap::draw(&clusters, &[flat(control), odd(synthetic)], 10_000, &KEY).difference(1, 0)
    }

    #[test]
    fn trainings_that_agree_give_the_interval_of_one() {
        let (clusters, right) = scores(60, 100);
        let (_, better) = scores(70, 100);
        let one = [vec![right.clone()], vec![better.clone()]];
        let three = [vec![right; 3], vec![better; 3]];
        let one = Bootstrap::draw(&clusters, &one, 2_000, &KEY);
        let three = Bootstrap::draw(&clusters, &three, 2_000, &KEY);
        // To the bit, since the same pictures are drawn and scores are whole numbers.
        assert_eq!(one.interval(0), three.interval(0));
        assert_eq!(one.difference(1, 0), three.difference(1, 0));
    }

    #[test]
    fn trainings_that_differ_widen_the_interval_of_the_gain() {
        // Gains -0.3, 0 and 0.3 on every picture: of the 27 draws of three, one has the mean -0.3
        // and one 0.3, each more than 2.5 % of all.
        let (spread, p_value) = gain(&[0.5; 3], &[0.2, 0.5, 0.8], 0.0);
        close(spread.mean, 0.0, 1e-12);
        close(spread.low, -0.3, 1e-12);
        close(spread.high, 0.3, 1e-12);
        assert!(p_value > 0.5, "{p_value}");
        // Gains 0, 0.3 and 0.6: one draw of 27 has a mean of at most 0.
        let (_, p_value) = gain(&[0.25; 3], &[0.25, 0.55, 0.85], 0.0);
        close(p_value, 2.0 / 27.0, 0.01);
        // The same mean without spread.
        let (none, _) = gain(&[0.5; 3], &[0.5; 3], 0.0);
        close(none.high - none.low, 0.0, 1e-12);
    }

    #[test]
    fn trainings_are_paired_by_their_seed_and_one_training_by_none() {
        // Levels far apart, and the gain the same 0.1 at each seed.
        let (paired, p_value) = gain(&[0.2, 0.5, 0.8], &[0.3, 0.6, 0.9], 0.0);
        close(paired.low, 0.1, 1e-9);
        close(paired.high, 0.1, 1e-9);
        assert!(p_value < 0.001, "{p_value}");
        // Against a baseline that was trained once, the levels count in full.
        let (baseline, _) = gain(&[0.5], &[0.2, 0.5, 0.8], 0.0);
        close(baseline.high - baseline.low, 0.6, 1e-9);
        // 2 trainings and 3 are drawn each by itself: of 108 draws 1 has the gain 0.2 - 0.8, and 3
        // have 0.3 - 0.8, where 2.5 % lie.
        let (uneven, _) = gain(&[0.2, 0.8], &[0.2, 0.5, 0.8], 0.0);
        close(uneven.low, -0.5, 1e-9);
        close(uneven.high, 0.5, 1e-9);
    }

    #[test]
    fn the_variance_is_that_of_trainings_plus_that_of_pictures() {
        // Score of training k on picture i is a_k + b_i, so the variance of the resampled mean is
        // Var(a) / 3 + Var(b) / 100 = 0.0006 / 3 + 0.04 / 100, with Var divided by the count. The
        // mean of 10,000 squares is known to about 1.5 %.
        let (clusters, levels) = ((0..100).collect::<Vec<_>>(), [0.27, 0.3, 0.33]);
        let replicas = levels.map(|l| level(l, 0.4, 100)).to_vec();
        let resampled = &Bootstrap::draw(&clusters, &[replicas], 10_000, &KEY).resampled[0];
        let center = mean(resampled);
        let squares: Vec<f64> = resampled.iter().map(|m| (m - center).powi(2)).collect();
        close(mean(&squares) / (0.0006 / 3.0 + 0.04 / 100.0), 1.0, 0.06);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_gives_others() {
        let (clusters, right) = scores(30, 70);
        let low = |key: &Key<'_>| {
            Bootstrap::draw(&clusters, &[vec![right.clone()]], 50, key)
                .interval(0)
                .low
        };
        assert_eq!(low(&KEY), low(&KEY));
        assert_ne!(low(&KEY), low(&Key { seed: 2, ..KEY }));
        assert_ne!(
            low(&KEY),
            low(&Key {
                ability: "color",
                ..KEY
            })
        );
    }

    #[test]
    fn holm_multiplies_the_smallest_most_and_never_lets_a_larger_one_overtake() {
        // statsmodels.stats.multitest.multipletests(..., method="holm").
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (actual, expected) in corrected.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            close(*actual, expected, 1e-12);
        }
        assert_eq!(holm(&[0.7, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
