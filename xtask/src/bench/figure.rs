//! A figure: what was measured, beside what it should be.

use crate::workspace;
use anyhow::{Context, Result};
use serde_json::json;

/// One row of the table.
pub(super) struct Figure {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
    goal: Option<Goal>,
}

#[derive(Clone, Copy)]
struct Goal {
    /// As it is written.
    text: &'static str,
    /// Whether a median does.
    reached: fn(f64) -> bool,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self { name: name.into(), unit, samples, goal: None }
    }

    pub(super) fn with_goal(self, text: &'static str, reached: fn(f64) -> bool) -> Self {
        Self { goal: Some(Goal { text, reached }), ..self }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        samples
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn ends(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let nothing = f64::NAN;
        (sorted.first().copied().unwrap_or(nothing), sorted.last().copied().unwrap_or(nothing))
    }

    fn goal(&self) -> &'static str {
        self.goal.map_or("", |goal| goal.text)
    }

    fn is_reached(&self) -> bool {
        self.goal.is_none_or(|goal| (goal.reached)(self.median()))
    }
}

pub(super) fn show(figures: &[Figure]) {
    println!("{:<38} {:>9} {:>9} {:>9}  {:<9} {:<7}", "", "min", "median", "max", "unit", "goal");
    for figure in figures {
        let ((least, most), median) = (figure.ends(), figure.median());
        let missed = if figure.is_reached() { "" } else { "  missed" };
        println!(
            "{:<38} {least:>9.2} {median:>9.2} {most:>9.2}  {:<9} {:<7}{missed}",
            figure.name,
            figure.unit,
            figure.goal()
        );
    }
}

pub(super) fn write(figures: &[Figure]) -> Result<()> {
    let rows: Vec<_> = figures
        .iter()
        .map(|f| {
            let (least, most) = f.ends();
            json!({
                "name": f.name, "unit": f.unit, "goal": f.goal(), "samples": f.samples,
                "min": least, "median": f.median(), "max": most, "reached": f.is_reached(),
            })
        })
        .collect();
    let path = workspace::target()?.join("bench.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&rows)?).with_context(|| path.display().to_string())?;
    println!("written to {}", path.display());
    Ok(())
}
