//! The order in which samples are drawn: a function of seed, stage and source sizes alone.

use sha2::{Digest as _, Sha256};

/// Draws sample numbers. To resume, draw as often as before and go on.
#[derive(Debug)]
pub(crate) struct Order {
    pools: Vec<Pool>,
    /// Running sums of the pools' shares.
    shares: Vec<f64>,
    random: Random,
}

/// Samples drawn without replacement, over and over, in a new order every time.
#[derive(Debug)]
struct Pool {
    first: usize,
    order: Vec<usize>,
    next: usize,
    random: Random,
}

impl Order {
    /// `sizes`: samples of each source, which lie one after another. `weights`: their shares; all
    /// zero means that every sample is drawn equally often, once per epoch.
    pub(crate) fn new(seed: u64, stage: usize, sizes: &[usize], weights: &[f64]) -> Self {
        let whole = [sizes.iter().sum()];
        let is_weighted = weights.iter().any(|&weight| weight > 0.0);
        let pool_sizes = if is_weighted { sizes } else { &whole };
        let mut first = 0;
        let mut pools = Vec::new();
        for (index, &size) in pool_sizes.iter().enumerate() {
            let random = Random::new(&format!("{seed} {stage} pool {index}"));
            pools.push(Pool {
                first,
                order: (0..size).collect(),
                next: size,
                random,
            });
            first += size;
        }
        let mut sum = 0.0;
        let shares = weights.iter().map(|weight| {
            sum += weight;
            sum
        });
        let shares = if is_weighted {
            shares.collect()
        } else {
            Vec::new()
        };
        Self {
            pools,
            shares,
            random: Random::new(&format!("{seed} {stage} mixture")),
        }
    }

    /// The next sample's number.
    pub(crate) fn draw(&mut self) -> usize {
        let pool = match self.shares.last() {
            None => 0,
            Some(total) => {
                let point = self.random.unit() * total;
                self.shares
                    .iter()
                    .position(|&share| point < share)
                    .unwrap_or(0)
            }
        };
        self.pools[pool].draw()
    }
}

impl Pool {
    fn draw(&mut self) -> usize {
        if self.next == self.order.len() {
            self.random.shuffle(&mut self.order);
            self.next = 0;
        }
        self.next += 1;
        self.first + self.order[self.next - 1]
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014), seeded by a hash of a text.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_le_bytes(first))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for end in (1..items.len()).rev() {
            let chosen = (u128::from(self.next()) * (end as u128 + 1)) >> 64;
            items.swap(end, chosen as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(order: &mut Order, count: usize) -> Vec<usize> {
        (0..count).map(|_| order.draw()).collect()
    }

    #[test]
    fn without_weights_every_sample_comes_once_per_epoch_in_a_new_order() {
        let mut order = Order::new(7, 0, &[3, 4], &[0.0, 0.0]);
        let (first, second) = (draws(&mut order, 7), draws(&mut order, 7));
        for epoch in [&first, &second] {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(first, second);
        assert_eq!(draws(&mut Order::new(7, 0, &[3, 4], &[0.0, 0.0]), 7), first);
        assert_ne!(draws(&mut Order::new(8, 0, &[3, 4], &[0.0, 0.0]), 7), first);
        assert_ne!(draws(&mut Order::new(7, 1, &[3, 4], &[0.0, 0.0]), 7), first);
    }

    #[test]
    fn weights_decide_the_shares_of_sources() {
        let mut order = Order::new(1, 0, &[1000, 10], &[1.0, 3.0]);
        let from_second = draws(&mut order, 4000)
            .iter()
            .filter(|&&sample| sample >= 1000)
            .count();
        assert!((2850..3150).contains(&from_second), "{from_second}");
    }
}
