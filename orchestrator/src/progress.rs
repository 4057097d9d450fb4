//! Progress with ETA on stderr: a live bar on a terminal, a line per stage elsewhere.

use std::{io::IsTerminal as _, time::Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One piece of long work.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    bar: ProgressBar,
    started_at: Instant,
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
            line(&format!("{name}: started"));
        }
        Self {
            name,
            bar,
            started_at: Instant::now(),
        }
    }

    /// Says how far the work is, with a few words beside the bar.
    pub(crate) fn set(&self, done: u64, length: u64, message: impl Into<String>) {
        self.bar.set_length(length);
        self.bar.set_position(done);
        self.bar.set_message(message.into());
    }

    /// Ends the work with one sentence about its result.
    pub(crate) fn finish(self, result: &str) {
        self.bar.finish_and_clear();
        let took = HumanDuration(self.started_at.elapsed());
        line(&format!("{}: {result} ({took})", self.name));
    }
}

/// A sentence that the user had better know, on stderr.
pub(crate) fn warn(text: &str) {
    line(&format!("warning: {text}"));
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:>22} {bar:32} {pos}/{len} {msg} · {elapsed} · ETA {eta}")
        // The template above is fixed and was tried.
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[allow(
    clippy::print_stderr,
    reason = "stderr is where a command reports its progress"
)]
fn line(text: &str) {
    eprintln!("{text}");
}
