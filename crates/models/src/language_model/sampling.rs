//! Choosing a token from logits: penalty, temperature, top-k, top-p, min-p, in transformers' order.
//!
//! All random numbers come from the caller's seed, one per token, so a text is a function of model,
//! prompt, settings and seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::error::Error;

/// How a token is chosen. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token and ignores the three filters below.
    pub temperature: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all. Of equal ones the lower id stays.
    pub top_k: usize,
    /// Keeps the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of tokens that the prompt or the answer has, and multiplies negative
    /// ones (Keskar et al., 2019); 1 changes nothing.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

impl Sampling {
    /// Refuses settings out of range.
    ///
    /// # Errors
    /// [`Error::Input`], naming the setting.
    pub fn check(&self) -> Result<(), Error> {
        let ranges = [
            ("temperature", self.temperature, 0.0..=100.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0),
            ("min_p", self.min_p, 0.0..=1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01..=100.0),
        ];
        for (name, value, range) in ranges {
            if !range.contains(&value) {
                let (from, to) = (range.start(), range.end());
                let reason = format!("{name} is {value}; {from} to {to} are possible");
                return Err(Error::Input(reason));
            }
        }
        Ok(())
    }
}

/// A token and what speaks for it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: u32,
    /// The logit; a probability once filtered.
    weight: f64,
}

/// The state of one text's choices.
#[derive(Debug)]
pub(crate) struct Sampler {
    settings: Sampling,
    random: ChaCha8Rng,
    /// Whether the text has the token, by token.
    seen: Vec<bool>,
}

impl Sampler {
    /// A sampler whose text begins with `prompt`.
    pub(crate) fn new(settings: Sampling, seed: u64, vocab_size: usize, prompt: &[u32]) -> Self {
        let mut sampler = Self {
            settings,
            random: ChaCha8Rng::seed_from_u64(seed),
            seen: vec![false; vocab_size],
        };
        prompt.iter().for_each(|&token| sampler.note(token));
        sampler
    }

    /// Chooses a token, of `allowed` where that is given; `None` when a logit is not finite or
    /// nothing is allowed.
    pub(crate) fn pick(&mut self, logits: &[f32], allowed: Option<&[u32]>) -> Option<u32> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return None;
        }
        let candidate = |token: u32| Candidate {
            token,
            weight: self.penalised(token, logits),
        };
        let mut candidates: Vec<Candidate> = match allowed {
            Some(tokens) => tokens.iter().map(|&token| candidate(token)).collect(),
            None => (0..logits.len() as u32).map(candidate).collect(),
        };
        let token = match self.settings.temperature {
            0.0 => candidates.iter().copied().reduce(likelier)?.token,
            _ => {
                filter(&mut candidates, &self.settings);
                self.draw(&candidates)?
            }
        };
        self.note(token);
        Some(token)
    }

    fn note(&mut self, token: u32) {
        if let Some(seen) = self.seen.get_mut(token as usize) {
            *seen = true;
        }
    }

    fn penalised(&self, token: u32, logits: &[f32]) -> f64 {
        let logit = logits.get(token as usize).copied().unwrap_or(f32::MIN);
        let penalty = self.settings.repetition_penalty;
        let seen = self.seen.get(token as usize).copied().unwrap_or(false);
        f64::from(match seen {
            true if logit < 0.0 => logit * penalty,
            true => logit / penalty,
            false => logit,
        })
    }

    /// `candidates` carry probabilities.
    fn draw(&mut self, candidates: &[Candidate]) -> Option<u32> {
        // 53 random bits: a number in [0, 1).
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * candidates.iter().map(|c| c.weight).sum::<f64>();
        for candidate in candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        candidates.last().map(|candidate| candidate.token)
    }
}

fn likelier(a: Candidate, b: Candidate) -> Candidate {
    match b.weight > a.weight || (b.weight == a.weight && b.token < a.token) {
        true => b,
        false => a,
    }
}

/// Leaves the likeliest first, with probabilities that sum to 1 before `top_p` and `min_p` cut.
fn filter(candidates: &mut Vec<Candidate>, settings: &Sampling) {
    let order = |a: &Candidate, b: &Candidate| {
        let by_weight = b.weight.total_cmp(&a.weight);
        by_weight.then(a.token.cmp(&b.token))
    };
    if settings.top_k > 0 && settings.top_k < candidates.len() {
        candidates.select_nth_unstable_by(settings.top_k, order);
        candidates.truncate(settings.top_k);
    }
    candidates.sort_unstable_by(order);
    to_probabilities(candidates, f64::from(settings.temperature));
    if settings.top_p < 1.0 {
        let mut sum = 0.0;
        let reached = candidates.iter().position(|candidate| {
            sum += candidate.weight;
            sum >= f64::from(settings.top_p)
        });
        candidates.truncate(reached.map_or(candidates.len(), |index| index + 1));
    }
    let least = candidates.first().map_or(0.0, |c| c.weight) * f64::from(settings.min_p);
    candidates.retain(|candidate| candidate.weight >= least);
}

fn to_probabilities(candidates: &mut [Candidate], temperature: f64) {
    let best = candidates.first().map_or(0.0, |c| c.weight);
    let mut total = 0.0;
    for candidate in candidates.iter_mut() {
        candidate.weight = ((candidate.weight - best) / temperature).exp();
        total += candidate.weight;
    }
    candidates.iter_mut().for_each(|c| c.weight /= total);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(settings: Sampling, probabilities: &[f64]) -> Vec<u32> {
        let mut candidates: Vec<Candidate> = (0..)
            .zip(probabilities)
            .map(|(token, p)| Candidate {
                token,
                weight: p.ln(),
            })
            .collect();
        filter(&mut candidates, &settings);
        candidates.iter().map(|c| c.token).collect()
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        let warm = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        let p = [0.1, 0.4, 0.05, 0.3, 0.15];
        assert_eq!(kept(warm, &p), [1, 3, 4, 0, 2]);
        assert_eq!(kept(Sampling { top_k: 2, ..warm }, &p), [1, 3]);
        let nucleus = Sampling {
            top_p: 0.75,
            ..warm
        };
        assert_eq!(
            kept(nucleus, &p),
            [1, 3, 4],
            "0.7 falls short, 0.85 reaches"
        );
        assert_eq!(kept(Sampling { min_p: 0.3, ..warm }, &p), [1, 3, 4]);
        assert_eq!(
            kept(Sampling { top_k: 2, ..warm }, &[0.25; 4]),
            [0, 1],
            "ties go to low ids"
        );
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed_alone() {
        let settings = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        let logits = [0.7f32.ln(), 0.3f32.ln()];
        let draws = |seed: u64| -> Vec<u32> {
            let mut sampler = Sampler::new(settings, seed, 2, &[]);
            (0..4000)
                .filter_map(|_| sampler.pick(&logits, None))
                .collect()
        };
        let first = draws(1);
        let ones = first.iter().filter(|&&token| token == 1).count();
        assert!((1100..1300).contains(&ones), "{ones} of 4000 at 0.3");
        assert_eq!(first, draws(1));
        assert_ne!(first, draws(2));
    }

    #[test]
    fn a_repeated_token_is_penalised_and_a_broken_logit_is_noticed() {
        let settings = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(settings, 0, 3, &[0]);
        assert_eq!(sampler.pick(&[1.0, 0.8, 0.6], None), Some(1));
        assert_eq!(sampler.pick(&[1.0, 0.8, 0.6], None), Some(2));
        assert_eq!(sampler.pick(&[-1.0, -1.5, -1.6], Some(&[0, 1])), Some(0));
        assert_eq!(sampler.pick(&[f32::NAN, 0.0, 0.0], None), None);
    }
}
