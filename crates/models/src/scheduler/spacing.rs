//! Which time steps a way visits (Lin et al. 2023, arXiv 2305.08891, table 2), from noise to picture.

use super::Error;
use crate::config::{self, Fields};

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Layout {
    Leading,
    Trailing,
    Linspace,
}

/// `timestep_spacing` and `steps_offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spacing {
    layout: Layout,
    offset: usize,
}

impl Spacing {
    /// With `leading` where nothing is said.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read_or_leading(fields: &mut Fields) -> Result<Self, config::Error> {
        Self::read(fields, Layout::Leading)
    }

    /// With `linspace` where nothing is said.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read_or_linspace(fields: &mut Fields) -> Result<Self, config::Error> {
        Self::read(fields, Layout::Linspace)
    }

    fn read(fields: &mut Fields, default: Layout) -> Result<Self, config::Error> {
        Ok(Self {
            layout: fields.take_or("timestep_spacing", default)?,
            offset: fields.take_or("steps_offset", 0)?,
        })
    }

    /// Whether unit noise already has the variance of the first step: not with `leading`, whose first
    /// step is not the noisiest.
    pub(super) fn starts_at_noise(self) -> bool {
        self.layout != Layout::Leading
    }

    /// Whole steps among `count`, as DDIM takes them.
    ///
    /// # Errors
    /// [`Error::Steps`].
    pub(super) fn whole(self, count: usize, steps: usize) -> Result<Vec<usize>, Error> {
        let real = self.real(count, steps)?;
        Ok(real.iter().map(|t| t.round_ties_even() as usize).collect())
    }

    /// As [`Spacing::whole`], but `linspace` is not rounded, as Euler takes them.
    ///
    /// # Errors
    /// [`Error::Steps`].
    pub(super) fn real(self, count: usize, steps: usize) -> Result<Vec<f64>, Error> {
        let ratio = count / check(steps, count)?;
        let found: Vec<f64> = match self.layout {
            Layout::Leading => (0..steps)
                .rev()
                .map(|i| (i * ratio + self.offset) as f64)
                .collect(),
            Layout::Trailing => trailing(count, count, steps),
            Layout::Linspace => linspace(0., (count - 1) as f64, steps)
                .into_iter()
                .rev()
                .collect(),
        };
        inside(found, count, steps)
    }

    /// As DPM-Solver and UniPC take them: one step more, of which the last is left out. Time steps from
    /// `last` on are not visited.
    ///
    /// # Errors
    /// [`Error::Steps`].
    pub(super) fn multistep(
        self,
        count: usize,
        last: usize,
        steps: usize,
    ) -> Result<Vec<f64>, Error> {
        check(steps, count)?;
        let found: Vec<f64> = match self.layout {
            Layout::Leading => {
                check(steps, last.saturating_sub(1))?;
                let ratio = last / (steps + 1);
                (1..=steps)
                    .rev()
                    .map(|i| (i * ratio + self.offset) as f64)
                    .collect()
            }
            Layout::Trailing => trailing(count, last, steps),
            Layout::Linspace => linspace(0., last.saturating_sub(1) as f64, steps + 1)[1..]
                .iter()
                .rev()
                .map(|t| t.round_ties_even())
                .collect(),
        };
        inside(found, count, steps)
    }
}

/// From `last` downwards by `count / steps`.
fn trailing(count: usize, last: usize, steps: usize) -> Vec<f64> {
    let ratio = count as f64 / steps as f64;
    (0..steps)
        .map(|i| (last as f64 - ratio * i as f64).round_ties_even() - 1.)
        .filter(|t| *t >= 0.)
        .collect()
}

/// `numpy.linspace`.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let gap = (end - start) / count.saturating_sub(1).max(1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * gap + start).collect();
    if let (Some(last), true) = (values.last_mut(), count > 1) {
        *last = end;
    }
    values
}

fn check(steps: usize, most: usize) -> Result<usize, Error> {
    match steps > 0 && steps <= most {
        true => Ok(steps),
        false => Err(Error::Steps {
            steps,
            least: 1,
            most,
        }),
    }
}

/// A leading schedule with an offset runs over its end when it visits every step.
fn inside(found: Vec<f64>, count: usize, steps: usize) -> Result<Vec<f64>, Error> {
    match found.iter().all(|t| *t < count as f64) {
        true => Ok(found),
        false => Err(Error::Steps {
            steps,
            least: 1,
            most: count - 1,
        }),
    }
}
