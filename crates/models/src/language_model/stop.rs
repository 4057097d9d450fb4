//! When an answer ends, and its text as it comes: tokens to bytes to characters, with stop texts that
//! may straddle tokens held back until it is known that they are none.

use super::error::Error;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model gave an end token.
    EndOfAnswer,
    /// A stop text came; it is not part of the answer.
    StopText,
    /// The schema is fulfilled and nothing more may follow.
    Complete,
    /// `max_new_tokens` or the model's last position was reached.
    Length,
}

/// The most stop texts, and the most bytes of one.
const MAX_STOP_TEXTS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

/// A text that grows by bytes.
#[derive(Debug, Default)]
pub(crate) struct TextStream {
    stops: Vec<String>,
    /// The start of a character that is not whole yet; 3 bytes at most.
    bytes: Vec<u8>,
    /// Text that may be the start of a stop text.
    held: String,
    strip_space: bool,
}

impl TextStream {
    /// A stream that ends at any of `stops`; with `strip_space`, one leading space is dropped.
    ///
    /// # Errors
    /// [`Error::Input`] for empty, overlong or too many stop texts.
    pub(crate) fn new(stops: &[String], strip_space: bool) -> Result<Self, Error> {
        let fits = |stop: &String| (1..=MAX_STOP_BYTES).contains(&stop.len());
        if stops.len() > MAX_STOP_TEXTS || !stops.iter().all(fits) {
            return Err(Error::Input(format!(
                "up to {MAX_STOP_TEXTS} stop texts of 1 to {MAX_STOP_BYTES} bytes are possible"
            )));
        }
        Ok(Self {
            stops: stops.to_vec(),
            strip_space,
            ..Self::default()
        })
    }

    /// Appends the bytes of a token; gives text that is certain, and whether a stop text came.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.bytes.extend_from_slice(bytes);
        let mut text = self.take_characters();
        if self.strip_space && !text.is_empty() {
            self.strip_space = false;
            if text.starts_with(' ') {
                text.remove(0);
            }
        }
        self.held.push_str(&text);
        let first = self.stops.iter().filter_map(|s| self.held.find(s.as_str()));
        if let Some(at) = first.min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return (text, true);
        }
        let rest = self.held.split_off(self.certain_length());
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, at the end. A character that was cut becomes U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        let cut = std::mem::take(&mut self.bytes);
        std::mem::take(&mut self.held) + &String::from_utf8_lossy(&cut)
    }

    /// Whole characters so far; bytes that can be no character become U+FFFD.
    fn take_characters(&mut self) -> String {
        let mut text = String::new();
        let bytes = std::mem::take(&mut self.bytes);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let at_end = chunks.peek().is_none();
            match at_end && is_cut(invalid) {
                true => self.bytes = invalid.to_vec(),
                false if !invalid.is_empty() => text.push(char::REPLACEMENT_CHARACTER),
                false => {}
            }
        }
        text
    }

    /// Bytes of `held` that no stop text can begin in any more.
    fn certain_length(&self) -> usize {
        let begins = |at: &usize| {
            let tail = &self.held[*at..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        let mut places = self.held.char_indices().map(|(at, _)| at);
        places.find(begins).unwrap_or(self.held.len())
    }
}

/// Whether more bytes could make these the start of a character.
fn is_cut(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool, String) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stream = TextStream::new(&stops, true).unwrap();
        let mut texts = Vec::new();
        for piece in pieces {
            let (text, stopped) = stream.push(piece);
            texts.push(text);
            if stopped {
                return (texts, true, String::new());
            }
        }
        (texts, false, stream.finish())
    }

    #[test]
    fn a_stop_text_that_straddles_tokens_never_reaches_the_caller() {
        let (texts, stopped, _) = run(&["\nUSER:"], &[b" Hi", b"!\nUS", b"ER", b": more"]);
        assert_eq!(texts, ["Hi", "!", "", ""]);
        assert!(stopped);
        let (texts, stopped, rest) = run(&["\nUSER:"], &[b"a\nUSE", b"D", b"\nU"]);
        assert_eq!((texts.concat() + &rest).as_str(), "a\nUSED\nU");
        assert!(!stopped && rest == "\nU");
        let (texts, stopped, _) = run(&["bc", "ab"], &[b"xabc"]);
        assert!(
            stopped && texts == ["x"],
            "the stop text that begins first wins"
        );
    }

    #[test]
    fn characters_that_straddle_tokens_come_whole_and_broken_ones_are_replaced() {
        let snow = "❄".as_bytes();
        let (texts, _, rest) = run(
            &[],
            &[&snow[..1], &snow[1..2], &snow[2..], b"\xff!", b"\xe2"],
        );
        assert_eq!(texts, ["", "", "❄", "\u{fffd}!", ""]);
        assert_eq!(rest, "\u{fffd}");
        assert!(TextStream::new(&[String::new()], false).is_err());
    }
}
