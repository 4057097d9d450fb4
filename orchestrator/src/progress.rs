//! Progress with ETA on stderr: a live bar on a terminal; elsewhere a line per stage, and lines on the
//! way, at every tenth of the work or after half a minute, and never two in a second.

use std::{
    fmt,
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output::note;

/// One piece of long work.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    bar: ProgressBar,
    started_at: Instant,
    /// What was said last where no bar is seen; none where one is.
    said: Option<Mutex<Said>>,
}

/// The last line about a piece of work.
#[derive(Debug)]
struct Said {
    at: Instant,
    tenths: u64,
}

/// Longest silence where no bar is seen.
const SILENCE: Duration = Duration::from_secs(30);
/// Shortest pause between two lines: short work is told by its end.
const PAUSE: Duration = Duration::from_secs(1);

impl Said {
    /// Whether it is time for another line, which is then taken as said.
    fn is_due(&mut self, now: Instant, done: u64, length: u64) -> bool {
        let tenths = (done.saturating_mul(10)).checked_div(length).unwrap_or(0);
        // The last tenth is told by the end of the work.
        let is_further = tenths > self.tenths && tenths < 10;
        let silence = now.duration_since(self.at);
        let is_due = silence >= SILENCE || is_further && silence >= PAUSE;
        if is_due {
            *self = Self { at: now, tenths };
        }
        is_due
    }
}

impl Progress {
    /// Starts a piece of work of `length` units; 0 where it is not known yet.
    pub(crate) fn start(name: impl Into<String>, length: u64) -> Self {
        let name = name.into();
        let live = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(length),
            if live {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        bar.set_style(style());
        bar.set_prefix(name.clone());
        if !live {
            note(&format!("{name}: started"));
        }
        let started_at = Instant::now();
        let said = Said {
            at: started_at,
            tenths: 0,
        };
        Self {
            name,
            bar,
            started_at,
            said: (!live).then(|| Mutex::new(said)),
        }
    }

    /// Says how far the work is, with a few words beside the bar.
    pub(crate) fn set(&self, done: u64, length: u64, message: impl Into<String>) {
        let message = message.into();
        if let Some(said) = &self.said {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_due(Instant::now(), done, length) {
                note(&self.line(done, length, &message));
            }
        }
        self.bar.set_length(length);
        self.bar.set_position(done);
        self.bar.set_message(message);
    }

    /// `training: 30 of 100 loss 2.113 (12 seconds, about 28 seconds left)`.
    fn line(&self, done: u64, length: u64, message: &str) -> String {
        let took = self.started_at.elapsed();
        let mut line = format!("{}: {done}", self.name);
        let mut times = HumanDuration(took).to_string();
        if length > 0 {
            line.push_str(&format!(" of {length}"));
        }
        if done > 0 && length > done {
            let left = took.mul_f64((length - done) as f64 / done as f64);
            times.push_str(&format!(", about {} left", HumanDuration(left)));
        }
        format!("{line} {message} ({times})").replace("  ", " ")
    }

    /// Ends the work with one sentence about its result.
    pub(crate) fn finish(self, result: &str) {
        self.bar.finish_and_clear();
        let took = HumanDuration(self.started_at.elapsed());
        note(&format!("{}: {result} ({took})", self.name));
    }
}

/// A sentence that the user had better know, on stderr.
pub(crate) fn warn(text: &str) {
    note(&format!("warning: {text}"));
}

fn style() -> ProgressStyle {
    let template = "{prefix:>22} {bar:32} {pos}/{len} {msg} · {elapsed} · ETA {left}";
    // Of what has not come anywhere yet nobody knows when it ends.
    let left = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A bar that cannot be drawn is nobody's loss.
        let _ = match state.pos() {
            0 => write!(out, "unknown yet"),
            _ => write!(out, "{:#}", HumanDuration(state.eta())),
        };
    };
    // The template above is fixed and was tried.
    let style = ProgressStyle::with_template(template);
    style.map_or_else(
        |_| ProgressStyle::default_bar(),
        |style| style.with_key("left", left),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_at_every_tenth_or_after_half_a_minute_and_never_twice_in_a_second() {
        let (at, tenths) = (Instant::now(), 0);
        let told = |step: Duration, length: u64| -> Vec<u32> {
            let mut said = Said { at, tenths };
            let is_due = |&done: &u32| said.is_due(at + step * done, done.into(), length);
            (1..=100).filter(is_due).collect()
        };
        let second = Duration::from_secs(1);
        assert_eq!(told(second, 100), [10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert_eq!(told(second, 0), [30, 60, 90]);
        assert_eq!(told(second / 25, 100), [25, 50, 75]);
    }
}
