//! Integers in a range and decimal numbers, digit by digit.

/// Bounds of an integer, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) min: i64,
    pub(super) max: i64,
}

/// Digits of an integer so far. No leading zeros, and no `-0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Digits {
    negative: bool,
    count: u8,
    magnitude: u64,
}

impl Range {
    /// Before the first byte.
    pub(super) fn start(self) -> Digits {
        Digits {
            negative: false,
            count: 0,
            magnitude: 0,
        }
    }

    /// After one more byte, if the range has a number that starts so.
    pub(super) fn advance(self, digits: Digits, byte: u8) -> Option<Digits> {
        let next = match byte {
            b'-' if digits.count == 0 && !digits.negative => Digits {
                negative: true,
                ..digits
            },
            b'0'..=b'9' if digits.count == 0 || digits.magnitude > 0 => Digits {
                magnitude: digits
                    .magnitude
                    .checked_mul(10)?
                    .checked_add(u64::from(byte - b'0'))?,
                count: digits.count + 1,
                ..digits
            },
            _ => return None,
        };
        self.missing(next).map(|_| next)
    }

    /// Whether the digits are a number of the range as they stand.
    pub(super) fn is_whole(self, digits: Digits) -> bool {
        digits.count > 0 && self.missing(digits) == Some(0)
    }

    /// The fewest bytes that make the digits a number of the range; `None` if none do.
    pub(super) fn missing(self, digits: Digits) -> Option<u32> {
        let side = |negative: bool| -> Option<u32> {
            let (low, high) = self.magnitudes(negative)?;
            if digits.count == 0 {
                return Some(digit_count(low) + u32::from(negative && !digits.negative));
            }
            let (mut from, mut to) = (u128::from(digits.magnitude), u128::from(digits.magnitude));
            // A lone 0 cannot be continued; 19 digits hold every i64.
            let most = if digits.magnitude == 0 { 0 } else { 19 };
            (0..=most).find(|_| {
                let meets = from <= u128::from(high) && to >= u128::from(low);
                (from, to) = (
                    from.saturating_mul(10),
                    to.saturating_mul(10).saturating_add(9),
                );
                meets
            })
        };
        match digits {
            Digits {
                count: 0,
                negative: false,
                ..
            } => [side(false), side(true)].into_iter().flatten().min(),
            _ => side(digits.negative),
        }
    }

    /// The absolute values of the range's numbers of one sign; 0 counts as positive.
    fn magnitudes(self, negative: bool) -> Option<(u64, u64)> {
        let (low, high) = match negative {
            false => (self.min.max(0), self.max),
            true => (self.min, self.max.min(-1)),
        };
        let (a, b) = (low.unsigned_abs(), high.unsigned_abs());
        (low <= high).then_some((a.min(b), a.max(b)))
    }
}

fn digit_count(value: u64) -> u32 {
    value.checked_ilog10().unwrap_or(0) + 1
}

/// A decimal number so far: `-?(0|[1-9][0-9]*)(\.[0-9]+)?`, of bounded length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Decimal {
    Start,
    Minus,
    Zero,
    Integer(u8),
    Point,
    Fraction(u8),
}

/// So many digits are exact in a double.
const MAX_INTEGER_DIGITS: u8 = 12;
const MAX_FRACTION_DIGITS: u8 = 3;

impl Decimal {
    /// After one more byte.
    pub(super) fn advance(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Start, b'-') => Some(Self::Minus),
            (Self::Start | Self::Minus, b'0') => Some(Self::Zero),
            (Self::Start | Self::Minus, b'1'..=b'9') => Some(Self::Integer(1)),
            (Self::Integer(n), b'0'..=b'9') if n < MAX_INTEGER_DIGITS => Some(Self::Integer(n + 1)),
            (Self::Zero | Self::Integer(_), b'.') => Some(Self::Point),
            (Self::Point, b'0'..=b'9') => Some(Self::Fraction(1)),
            (Self::Fraction(n), b'0'..=b'9') if n < MAX_FRACTION_DIGITS => {
                Some(Self::Fraction(n + 1))
            }
            _ => None,
        }
    }

    /// The fewest bytes that make it a number.
    pub(super) fn missing(self) -> u32 {
        match self {
            Self::Start | Self::Minus | Self::Point => 1,
            Self::Zero | Self::Integer(_) | Self::Fraction(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every text of at most 4 bytes that the range takes.
    fn language(range: Range, digits: Digits, text: &str, found: &mut Vec<String>) {
        if range.is_whole(digits) {
            found.push(text.to_owned());
        }
        for byte in *b"-0123456789" {
            if let Some(next) = range.advance(digits, byte).filter(|_| text.len() < 4) {
                let missing = range.missing(next).unwrap();
                assert!(
                    missing + 1 >= range.missing(digits).unwrap(),
                    "a byte saves one at most"
                );
                language(range, next, &format!("{text}{}", byte as char), found);
            }
        }
    }

    #[test]
    fn exactly_the_integers_of_a_range_can_be_spelled() {
        for (min, max) in [
            (0, 0),
            (-7, 12),
            (95, 213),
            (-130, -98),
            (-1, 0),
            (7, 7),
            (-999, 1000),
        ] {
            let range = Range { min, max };
            let mut found = Vec::new();
            language(range, range.start(), "", &mut found);
            let mut numbers: Vec<i64> = found.iter().map(|text| text.parse().unwrap()).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (min..=max).collect::<Vec<_>>());
            let shortest = found.iter().map(String::len).min().unwrap();
            assert_eq!(range.missing(range.start()), Some(shortest as u32));
        }
        let all = Range {
            min: i64::MIN,
            max: i64::MAX,
        };
        let digits = i64::MIN
            .to_string()
            .bytes()
            .try_fold(all.start(), |d, b| all.advance(d, b));
        assert!(all.is_whole(digits.unwrap()));
        assert_eq!(all.advance(digits.unwrap(), b'0'), None);
    }
}
