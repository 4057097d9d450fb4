//! How much a synthesis may take before it stops, to be continued another day.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A cap; the first that is reached counts. No partition begins behind it, and those under way (two
/// at most, with all attempts of their slots) are ended, so nothing is lost: a partition is kept whole
/// or not at all, and one that was left would be paid for twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Time.
    pub time: Option<Duration>,
    /// Pictures rendered, the rejected ones too.
    pub images: Option<u64>,
}

impl Budget {
    /// No cap.
    pub const NONE: Self = Self {
        time: None,
        images: None,
    };
}

/// A text that is no budget.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no budget: 90s, 30m, 2h or 500images are, or several with commas")]
pub struct MalformedBudget(String);

impl FromStr for Budget {
    type Err = MalformedBudget;

    fn from_str(text: &str) -> Result<Self, MalformedBudget> {
        let malformed = || MalformedBudget(text.to_owned());
        let mut budget = Self::NONE;
        for part in text.split(',') {
            let part = part.trim();
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let (count, unit) = part.split_at(digits);
            let count: u64 = count.parse().map_err(|_| malformed())?;
            let seconds = |each: u64| count.checked_mul(each).map(Duration::from_secs);
            let time = match unit.trim() {
                "s" => seconds(1),
                "m" => seconds(60),
                "h" => seconds(3600),
                "images" if budget.images.is_none() => {
                    budget.images = Some(count);
                    continue;
                }
                _ => return Err(malformed()),
            };
            // One hour and thirty minutes are ninety minutes.
            let sum = time.and_then(|time| time.checked_add(budget.time.unwrap_or_default()));
            budget.time = Some(sum.ok_or_else(malformed)?);
        }
        Ok(budget)
    }
}

/// A time to wait: a budget without pictures.
///
/// # Errors
/// The text is none; the message says what is.
pub fn wait(text: &str) -> Result<Duration, String> {
    let budget: Option<Budget> = text.parse().ok();
    let time = budget.filter(|budget| budget.images.is_none());
    let time = time.and_then(|budget| budget.time);
    time.ok_or_else(|| format!("`{text}` is no time: 90s, 30m or 2h are"))
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.map(|time| format!("{} s", time.as_secs()));
        let images = self.images.map(|images| format!("{images} images"));
        let caps: Vec<String> = [time, images].into_iter().flatten().collect();
        formatter.write_str(&caps.join(", "))
    }
}

/// What has been taken of a budget.
#[derive(Debug)]
pub(super) struct Account {
    budget: Budget,
    begun: Instant,
    images: AtomicU64,
}

impl Account {
    pub(super) fn open(budget: Budget) -> Self {
        Self {
            budget,
            begun: Instant::now(),
            images: AtomicU64::new(0),
        }
    }

    pub(super) fn add_image(&self) {
        self.images.fetch_add(1, Ordering::Relaxed);
    }

    /// What is left of the time; without a cap, for ever.
    pub(super) fn time_left(&self) -> Duration {
        let time = self.budget.time.unwrap_or(Duration::MAX);
        time.saturating_sub(self.begun.elapsed())
    }

    pub(super) fn is_spent(&self) -> bool {
        let Budget { time, images } = self.budget;
        time.is_some_and(|time| self.begun.elapsed() >= time)
            || images.is_some_and(|images| self.images.load(Ordering::Relaxed) >= images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_are_read_with_their_units_and_other_words_are_refused() {
        let budget: Budget = "1h,30m, 500images".parse().unwrap();
        assert_eq!(budget.time, Some(Duration::from_secs(5400)));
        assert_eq!(budget.images, Some(500));
        for text in [
            "",
            "5",
            "5 euro",
            "h",
            "-1s",
            "99999999999999999999s",
            "1images,2images",
        ] {
            assert_eq!(
                text.parse::<Budget>(),
                Err(MalformedBudget(text.to_owned()))
            );
        }
    }

    #[test]
    fn an_account_is_spent_at_its_cap_and_one_without_a_cap_never() {
        let account = Account::open("2images".parse().unwrap());
        account.add_image();
        assert!(!account.is_spent());
        account.add_image();
        assert!(account.is_spent());
        assert!(Account::open("0s".parse().unwrap()).is_spent());
        assert!(!Account::open(Budget::NONE).is_spent());
    }
}
