//! Loss curves: raw and smoothed, with a cursor, and the figures as a table.

use std::fmt::Write as _;

use serde_json::json;

use super::html::{count, counted, fold, position, script_json, table, text};
use super::{Report, Section, TrainingRun};

/// Points drawn per curve: more cannot be seen, and the file stays small.
const DRAWN_POINT_COUNT: usize = 300;
/// Rows of the table.
const TABLE_ROW_COUNT: usize = 12;
/// Side of the drawing in its own units; CSS stretches it.
const CANVAS: f64 = 1000.0;

/// The losses of all runs in one drawing.
pub(super) fn section(report: &Report) -> Option<Section> {
    let curves: Vec<Curve> = report
        .training_runs
        .iter()
        .filter_map(|run| Curve::new(report, run))
        .collect();
    let frame = Frame::around(&curves)?;
    Some(Section {
        id: "training",
        title: "Training",
        lead: format!(
            "Loss per supervised token, in nats; pale as measured, strong as a running mean over {}. \
             Point at the drawing, or use the arrow keys, to read it.",
            counted(
                curves.iter().map(|c| c.window as u64).max().unwrap_or(1),
                "point"
            )
        ),
        body: format!(
            "<figure class=\"curves\">\n{}{}{}</figure>\n{}",
            report.arm_legend(),
            drawing(&curves, &frame),
            data(&curves),
            fold("The losses as a table", &figures(&curves))
        ),
    })
}

/// One run, ready to draw. All three lists have the same length.
struct Curve {
    name: String,
    class: &'static str,
    /// Points of the running mean's window.
    window: usize,
    steps: Vec<u64>,
    raw: Vec<f64>,
    smooth: Vec<f64>,
}

impl Curve {
    /// `None` when the run has no finite loss.
    fn new(report: &Report, run: &TrainingRun) -> Option<Self> {
        let points: Vec<_> = run.points.iter().filter(|p| p.loss.is_finite()).collect();
        let losses: Vec<f64> = points.iter().map(|p| p.loss).collect();
        let window = (points.len() / 40).max(1);
        let smooth = running_mean(&losses, window);
        let stride = points.len().div_ceil(DRAWN_POINT_COUNT).max(1);
        // The last point is always drawn: it is what the reader looks for.
        let kept: Vec<usize> = (0..points.len())
            .rev()
            .step_by(stride)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        let label = if run.label.is_empty() {
            run.arm.clone()
        } else {
            format!("{}, {}", run.arm, run.label)
        };
        (!kept.is_empty()).then(|| Self {
            name: label,
            class: report.arm_class(&run.arm),
            window,
            steps: kept.iter().map(|&i| points[i].step).collect(),
            raw: kept.iter().map(|&i| losses[i]).collect(),
            smooth: kept.iter().map(|&i| smooth[i]).collect(),
        })
    }

    fn polyline(&self, frame: &Frame, losses: &[f64], class: &str) -> String {
        let mut points = String::new();
        for (step, loss) in self.steps.iter().zip(losses) {
            let _ = write!(
                points,
                "{:.1},{:.1} ",
                frame.x(*step) * CANVAS,
                (1.0 - frame.y(*loss)) * CANVAS
            );
        }
        format!(
            "<polyline class=\"{class} {}\" points=\"{}\"/>",
            self.class,
            points.trim_end()
        )
    }
}

/// The part of the plane that is shown.
struct Frame {
    last_step: u64,
    high: f64,
    tick: f64,
}

impl Frame {
    /// From zero to a little above all but the highest fiftieth of the losses: a first step at
    /// three times the rest would press the curves flat.
    fn around(curves: &[Curve]) -> Option<Self> {
        let mut losses: Vec<f64> = curves.iter().flat_map(|c| c.raw.iter().copied()).collect();
        losses.sort_by(f64::total_cmp);
        let top = losses
            .get((losses.len() * 49 / 50).min(losses.len().checked_sub(1)?))?
            .max(1e-6)
            * 1.08;
        let tick = tick_size(top);
        let last_step = curves
            .iter()
            .filter_map(|c| c.steps.last())
            .max()
            .copied()?
            .max(1);
        Some(Self {
            last_step,
            high: (top / tick).ceil() * tick,
            tick,
        })
    }

    fn x(&self, step: u64) -> f64 {
        step as f64 / self.last_step as f64
    }

    fn y(&self, loss: f64) -> f64 {
        loss / self.high
    }

    fn y_ticks(&self) -> Vec<f64> {
        (0..=(self.high / self.tick).round() as usize)
            .map(|i| i as f64 * self.tick)
            .collect()
    }
}

fn drawing(curves: &[Curve], frame: &Frame) -> String {
    let decimals = if frame.tick < 0.1 {
        2
    } else {
        usize::from(frame.tick < 1.0)
    };
    let mut grid = String::new();
    let mut labels = String::new();
    for loss in frame.y_ticks() {
        let y = (1.0 - frame.y(loss)) * CANVAS;
        let _ = write!(
            grid,
            "<line class=\"grid\" x1=\"0\" x2=\"{CANVAS}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
        );
        let _ = write!(
            labels,
            "<span class=\"y\" style=\"bottom:{}\">{loss:.decimals$}</span>",
            position(frame.y(loss))
        );
    }
    let stride = tick_size(frame.last_step as f64).max(1.0) as usize;
    for step in (0..=frame.last_step).step_by(stride) {
        let _ = write!(
            labels,
            "<span class=\"x\" style=\"left:{}\">{}</span>",
            position(frame.x(step)),
            count(step)
        );
    }
    let raw: String = curves
        .iter()
        .map(|c| c.polyline(frame, &c.raw, "raw"))
        .collect();
    let smooth: String = curves
        .iter()
        .map(|c| c.polyline(frame, &c.smooth, "smooth"))
        .collect();
    let names: Vec<&str> = curves.iter().map(|c| c.name.as_str()).collect();
    format!(
        "<div class=\"plot\" id=\"loss-plot\" tabindex=\"0\" role=\"img\" aria-label=\"Loss by step of {}; the table below \
         holds the figures\" data-last=\"{}\">\n\
         <svg viewBox=\"0 0 {CANVAS} {CANVAS}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{grid}{raw}{smooth}</svg>\n\
         {labels}<span class=\"axis-name\">step</span><div class=\"cursor\" hidden></div><div class=\"tip\" hidden></div></div>\n",
        text(&names.join(", ")),
        frame.last_step
    )
}

/// What the cursor reads.
fn data(curves: &[Curve]) -> String {
    let round =
        |values: &[f64]| -> Vec<f64> { values.iter().map(|v| (v * 1e4).round() / 1e4).collect() };
    let curves: Vec<_> = curves
        .iter()
        .map(|c| json!({"name": c.name, "class": c.class, "steps": c.steps, "raw": round(&c.raw), "smooth": round(&c.smooth)}))
        .collect();
    format!(
        "<script type=\"application/json\" id=\"loss-data\">{}</script>\n",
        script_json(&json!(curves))
    )
}

/// Smoothed loss of every run at a dozen steps.
fn figures(curves: &[Curve]) -> String {
    let Some(longest) = curves.iter().max_by_key(|c| c.steps.len()) else {
        return String::new();
    };
    let stride = longest.steps.len().div_ceil(TABLE_ROW_COUNT).max(1);
    let head: Vec<String> = std::iter::once("Step".to_owned())
        .chain(curves.iter().map(|c| text(&c.name).to_string()))
        .collect();
    let mut steps: Vec<u64> = longest
        .steps
        .iter()
        .rev()
        .step_by(stride)
        .copied()
        .collect();
    steps.reverse();
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let at = |c: &Curve| {
                let reached = c.steps.partition_point(|s| s <= step);
                let within = c.steps.last().is_some_and(|last| step <= last);
                if within && reached > 0 {
                    format!("{:.3}", c.smooth[reached - 1])
                } else {
                    "–".into()
                }
            };
            std::iter::once(count(*step))
                .chain(curves.iter().map(at))
                .collect()
        })
        .collect();
    table("Smoothed loss by step", &head, &rows)
}

/// Mean of each value and the `window - 1` before it.
fn running_mean(values: &[f64], window: usize) -> Vec<f64> {
    (1..=values.len())
        .map(|end| {
            let seen = &values[end.saturating_sub(window)..end];
            seen.iter().sum::<f64>() / seen.len() as f64
        })
        .collect()
}

/// A step of 1, 2 or 5 times a power of ten that gives three to six ticks below `top`.
fn tick_size(top: f64) -> f64 {
    let magnitude = 10_f64.powf((top / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * magnitude)
        .find(|tick| top / tick <= 5.5)
        .unwrap_or(magnitude * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_mean_starts_with_what_there_is() {
        assert_eq!(running_mean(&[4.0, 2.0, 0.0, 6.0], 2), [4.0, 3.0, 1.0, 3.0]);
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            [0.9, 3.3, 7.0, 12.0]
                .map(tick_size)
                .map(|t| (t * 10.0).round() / 10.0),
            [0.2, 1.0, 2.0, 5.0]
        );
    }
}
