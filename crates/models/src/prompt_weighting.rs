//! Prompts with emphasis, as the web interfaces write them: `(x)` × 1.1, `[x]` ÷ 1.1, `(x:1.3)`,
//! `BREAK`, and prompts of more than one chunk.
//!
//! The rule: each token's state is multiplied by its weight, then the chunk's states are scaled so that
//! their mean is what it was. Long prompts are cut into chunks of two tokens less than the encoder
//! takes, each encoded alone, and their states stand one after the other.

/// What one round or square bracket does.
const EMPHASIS: f32 = 1.1;

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Words and their weight.
    Text(String, f32),
    /// The next words begin a new chunk.
    Break,
}

/// Splits `prompt` into pieces. Never fails: a bracket that is not closed reaches to the end, one that
/// was not opened stands for itself; `\(`, `\)`, `\[`, `\]` and `\\` stand for the mark itself.
pub fn parse(prompt: &str) -> Vec<Piece> {
    let mut parser = Parser {
        pieces: vec![(String::new(), 1.)],
        round: Vec::new(),
        square: Vec::new(),
    };
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let mut used = first.len_utf8();
        match first {
            '\\' => match rest[1..].chars().next() {
                Some(mark @ ('(' | ')' | '[' | ']' | '\\')) => {
                    parser.push(mark);
                    used = 2;
                }
                _ => parser.push('\\'),
            },
            '(' => parser.open_round(),
            '[' => parser.open_square(),
            ':' if !parser.round.is_empty() => match closing_weight(rest) {
                Some((weight, len)) => {
                    parser.close_round(weight);
                    used = len;
                }
                None => parser.push(':'),
            },
            ')' if !parser.round.is_empty() => parser.close_round(EMPHASIS),
            ']' if !parser.square.is_empty() => parser.close_square(),
            other => parser.push(other),
        }
        rest = &rest[used..];
    }
    parser.finish()
}

struct Parser {
    /// Text and weight; the last one is being written.
    pieces: Vec<(String, f32)>,
    /// For each open bracket, the piece it began at.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser {
    fn push(&mut self, mark: char) {
        if let Some((text, _)) = self.pieces.last_mut() {
            text.push(mark);
        }
    }

    fn begin(&mut self) -> usize {
        self.pieces.push((String::new(), 1.));
        self.pieces.len() - 1
    }

    fn open_round(&mut self) {
        let at = self.begin();
        self.round.push(at);
    }

    fn open_square(&mut self) {
        let at = self.begin();
        self.square.push(at);
    }

    fn close_round(&mut self, weight: f32) {
        if let Some(from) = self.round.pop() {
            self.scale(from, weight);
        }
    }

    fn close_square(&mut self) {
        if let Some(from) = self.square.pop() {
            self.scale(from, 1. / EMPHASIS);
        }
    }

    fn scale(&mut self, from: usize, weight: f32) {
        self.pieces[from..]
            .iter_mut()
            .for_each(|(_, w)| *w *= weight);
        self.begin();
    }

    fn finish(mut self) -> Vec<Piece> {
        for from in std::mem::take(&mut self.round) {
            self.pieces[from..]
                .iter_mut()
                .for_each(|(_, w)| *w *= EMPHASIS);
        }
        for from in std::mem::take(&mut self.square) {
            self.pieces[from..]
                .iter_mut()
                .for_each(|(_, w)| *w /= EMPHASIS);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for (text, weight) in self.pieces {
            for (i, part) in split_breaks(&text).into_iter().enumerate() {
                if i > 0 {
                    pieces.push(Piece::Break);
                }
                match pieces.last_mut() {
                    _ if part.is_empty() => {}
                    Some(Piece::Text(last, same)) if *same == weight => last.push_str(part),
                    _ => pieces.push(Piece::Text(part.to_owned(), weight)),
                }
            }
        }
        pieces
    }
}

/// The weight in `:1.3)` at the front of `rest`, and the length of that.
fn closing_weight(rest: &str) -> Option<(f32, usize)> {
    let end = rest.find(')')?;
    let number = rest[1..end].trim();
    let plain = number
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    let weight: f32 = number.parse().ok().filter(|_| plain)?;
    Some((weight, end + 1))
}

/// The parts between words `BREAK`.
fn split_breaks(text: &str) -> Vec<&str> {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, word) in text.match_indices("BREAK") {
        let end = at + word.len();
        let before = text[..at].chars().next_back().is_some_and(inside);
        let after = text[end..].chars().next().is_some_and(inside);
        if at >= start && !before && !after {
            parts.push(text[start..at].trim());
            start = end;
        }
    }
    parts.push(if parts.is_empty() {
        text
    } else {
        text[start..].trim_start()
    });
    parts
}

/// One chunk of a prompt: framed tokens, each with its weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// Words only, without start, end and padding.
    pub tokens: Vec<u32>,
    /// As many as `tokens`.
    pub weights: Vec<f32>,
}

/// Lays weighted tokens out in chunks of `capacity` words; at least one chunk.
///
/// # Errors
/// Those of `encode`.
pub fn chunks<E>(
    pieces: &[Piece],
    capacity: usize,
    encode: impl Fn(&str) -> Result<Vec<u32>, E>,
) -> Result<Vec<Chunk>, E> {
    let mut chunks = vec![Chunk {
        tokens: Vec::new(),
        weights: Vec::new(),
    }];
    let fresh = || Chunk {
        tokens: Vec::new(),
        weights: Vec::new(),
    };
    for piece in pieces {
        match piece {
            Piece::Break => chunks.push(fresh()),
            Piece::Text(text, weight) => {
                for token in encode(text)? {
                    if chunks
                        .last()
                        .is_none_or(|chunk| chunk.tokens.len() >= capacity)
                    {
                        chunks.push(fresh());
                    }
                    if let Some(chunk) = chunks.last_mut() {
                        chunk.tokens.push(token);
                        chunk.weights.push(*weight);
                    }
                }
            }
        }
    }
    Ok(chunks)
}

/// Multiplies each row of `states` `(tokens, width)` by its weight and restores the mean of all.
pub fn apply(states: &mut [f32], width: usize, weights: &[f32]) {
    if weights.iter().all(|w| *w == 1.) {
        return;
    }
    let mean =
        |states: &[f32]| states.iter().map(|v| f64::from(*v)).sum::<f64>() / states.len() as f64;
    let before = mean(states);
    for (row, weight) in states.chunks_mut(width).zip(weights) {
        row.iter_mut().for_each(|v| *v *= weight);
    }
    let ratio = (before / mean(states)) as f32;
    // A mean of exactly zero has no scale to restore.
    if ratio.is_finite() {
        states.iter_mut().for_each(|v| *v *= ratio);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(prompt: &str) -> String {
        let show = |piece: &Piece| match piece {
            Piece::Text(text, weight) => format!("{text}*{weight:.3}"),
            Piece::Break => "BREAK".to_owned(),
        };
        parse(prompt).iter().map(show).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn brackets_become_weights() {
        for (prompt, expected) in [
            ("plain words", "plain words*1.000"),
            ("((beach)), dog", "beach*1.210|, dog*1.000"),
            (
                "a (very (big:1.3) dog)",
                "a *1.000|very *1.100|big*1.430| dog*1.100",
            ),
            ("[dull] sky", "dull*0.909| sky*1.000"),
            (r"\(literal\) (open", "(literal) *1.000|open*1.100"),
            (
                "shut) and (x:not a number)",
                "shut) and *1.000|x:not a number*1.100",
            ),
            (
                "one BREAK two BREAKFAST",
                "one*1.000|BREAK|two BREAKFAST*1.000",
            ),
        ] {
            assert_eq!(shown(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn long_prompts_fill_chunks_and_weights_keep_the_mean() {
        let encode =
            |text: &str| Ok::<_, ()>(text.split_whitespace().map(|w| w.len() as u32).collect());
        let pieces = parse("a bb (ccc dddd) e BREAK ff");
        let chunks = chunks(&pieces, 3, encode).unwrap();
        let tokens: Vec<_> = chunks.iter().map(|c| c.tokens.clone()).collect();
        assert_eq!(tokens, [vec![1, 2, 3], vec![4, 1], vec![2]]);
        assert_eq!(chunks[1].weights, [1.1, 1.]);

        let mut states = vec![1., 2., 3., 4., 5., 6.];
        apply(&mut states, 2, &[1., 2., 1.]);
        assert!((states.iter().sum::<f32>() - 21.).abs() < 1e-5);
        assert!((states[2] / states[0] - 6.).abs() < 1e-5);
    }
}
