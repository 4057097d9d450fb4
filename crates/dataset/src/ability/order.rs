//! The seeded order in which an ability's prompts are drawn.

use super::{combination::Combination, draws::Draws};
use std::collections::BTreeMap;

/// Shares that the order keeps to.
#[derive(Clone, Debug)]
pub(super) struct Shares<'a> {
    /// Weight of each keyword.
    pub(super) keywords: BTreeMap<&'a str, f64>,
    /// Weight of each style.
    pub(super) styles: BTreeMap<&'a str, f64>,
}

/// Orders `candidates` so that in every prefix each keyword and each style has its
/// share, as nearly as what is left allows, and the other axes vary with them.
/// Candidates whose keyword or style has no share are left out.
///
/// Greedy: the keyword furthest behind its share, then of its styles the one
/// furthest behind, then the combination whose other values were used least;
/// ties by the seed.
pub(super) fn balanced<'a>(
    candidates: &[&'a Combination],
    shares: &Shares<'_>,
    draws: &mut Draws,
) -> Vec<&'a Combination> {
    let mut left = Buckets::new(candidates, shares, draws);
    let mut used = Used::default();
    let mut order = Vec::with_capacity(candidates.len());
    while let Some(next) = left.take_next(&used, shares) {
        used.count(next);
        order.push(next);
    }
    order
}

/// Combinations not yet drawn, by keyword and style, each bucket in seeded order.
struct Buckets<'a>(BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a Combination>>>);

/// How often each value was drawn, alone and together with a keyword.
#[derive(Default)]
struct Used<'a> {
    keywords: BTreeMap<&'a str, u32>,
    styles: BTreeMap<&'a str, u32>,
    values: BTreeMap<(&'a str, &'a str), u32>,
    pairs: BTreeMap<(&'a str, &'a str, &'a str), u32>,
}

impl<'a> Buckets<'a> {
    fn new(candidates: &[&'a Combination], shares: &Shares<'_>, draws: &mut Draws) -> Self {
        let mut shuffled = candidates.to_vec();
        draws.shuffle(&mut shuffled);
        let mut buckets = BTreeMap::<_, BTreeMap<_, Vec<_>>>::new();
        for candidate in shuffled {
            let (keyword, style) = (candidate.keyword.as_str(), candidate.facts.style.as_str());
            let has_share = |weights: &BTreeMap<&str, f64>, name| {
                weights.get(name).is_some_and(|&weight| weight > 0.0)
            };
            if has_share(&shares.keywords, keyword) && has_share(&shares.styles, style) {
                buckets
                    .entry(keyword)
                    .or_default()
                    .entry(style)
                    .or_default()
                    .push(candidate);
            }
        }
        Self(buckets)
    }

    fn take_next(&mut self, used: &Used<'a>, shares: &Shares<'_>) -> Option<&'a Combination> {
        let &keyword = self.0.keys().min_by(|a, b| {
            let key = |name: &&'a str| used.behind(name, &used.keywords, &shares.keywords);
            key(a)
                .total_cmp(&key(b))
                .then_with(|| self.rank(a, used).cmp(&self.rank(b, used)))
        })?;
        let styles = self.0.get_mut(keyword)?;
        let &style = styles.keys().min_by(|a, b| {
            let key = |name: &&'a str| used.behind(name, &used.styles, &shares.styles);
            let pair = |name: &&'a str| used.pair(keyword, "style", name);
            key(a)
                .total_cmp(&key(b))
                .then_with(|| pair(a).cmp(&pair(b)))
        })?;
        let bucket = styles.get_mut(style)?;
        let (index, _) = bucket
            .iter()
            .enumerate()
            .min_by_key(|(_, candidate)| used.wear(candidate))?;
        let taken = bucket.remove(index);
        if bucket.is_empty() {
            styles.remove(style);
        }
        if styles.is_empty() {
            self.0.remove(keyword);
        }
        Some(taken)
    }

    /// Breaks ties between keywords: a bucket's first text is random by seed and
    /// changes as the bucket is drawn from, so every round has its own order.
    fn rank(&self, keyword: &str, used: &Used<'a>) -> (u64, usize) {
        let count = used.keywords.get(keyword).copied().unwrap_or(0);
        let first = self
            .0
            .get(keyword)
            .and_then(|styles| styles.values().next())
            .and_then(|bucket| bucket.first());
        let text = first
            .map(|candidate| candidate.plain_text())
            .unwrap_or_default();
        (fnv1a(text.as_bytes(), u64::from(count)), text.len())
    }
}

impl<'a> Used<'a> {
    fn count(&mut self, drawn: &'a Combination) {
        let keyword = drawn.keyword.as_str();
        *self.keywords.entry(keyword).or_default() += 1;
        *self.styles.entry(drawn.facts.style.as_str()).or_default() += 1;
        *self
            .pairs
            .entry((keyword, "style", &drawn.facts.style))
            .or_default() += 1;
        for (axis, value) in other_choices(drawn) {
            *self.values.entry((axis, value)).or_default() += 1;
            *self.pairs.entry((keyword, axis, value)).or_default() += 1;
        }
    }

    /// Draws so far per unit of share: the smallest is furthest behind.
    fn behind(
        &self,
        name: &str,
        counts: &BTreeMap<&str, u32>,
        shares: &BTreeMap<&str, f64>,
    ) -> f64 {
        let count = counts.get(name).copied().unwrap_or(0);
        f64::from(count) / shares.get(name).copied().unwrap_or(1.0)
    }

    fn pair(&self, keyword: &str, axis: &str, value: &str) -> u32 {
        self.pairs
            .get(&(keyword, axis, value))
            .copied()
            .unwrap_or(0)
    }

    /// How worn a combination's other values are: with this keyword, then at all.
    fn wear(&self, candidate: &Combination) -> (u32, u32) {
        let with_keyword = other_choices(candidate)
            .map(|(axis, value)| self.pair(&candidate.keyword, axis, value));
        let at_all =
            other_choices(candidate).map(|key| self.values.get(&key).copied().unwrap_or(0));
        (with_keyword.sum(), at_all.sum())
    }
}

fn other_choices(combination: &Combination) -> impl Iterator<Item = (&str, &str)> {
    let others = combination
        .choices
        .iter()
        .filter(|(axis, _)| !["keyword", "style"].contains(&axis.as_str()));
    others.map(|(axis, value)| (axis.as_str(), value.as_str()))
}

/// FNV-1a, only to break ties.
fn fnv1a(bytes: &[u8], seed: u64) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(
        0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        step,
    )
}
