//! Progress for people: bars on a terminal, lines elsewhere.

use ekstra_components::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Draws builds on standard error.
pub(crate) struct Bars {
    terminal: bool,
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, all: MultiProgress::new(), bars: Mutex::default() }
    }

    fn bars(&self) -> std::sync::MutexGuard<'_, HashMap<String, ProgressBar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn started(&self, name: &str, version: &str, estimate: Duration) {
        if !self.terminal {
            eprintln!("building {name} {version} (about {} s of two cores)", estimate.as_secs());
            return;
        }
        let style = ProgressStyle::with_template("{prefix:28} {bar:30} {percent:>3}% {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.all.add(ProgressBar::new(1000).with_style(style));
        bar.set_prefix(format!("{name} {version}"));
        self.bars().insert(name.to_owned(), bar);
    }

    fn advanced(&self, name: &str, fraction: f32, detail: &str) {
        if let Some(bar) = self.bars().get(name) {
            bar.set_position((f64::from(fraction) * 1000.0) as u64);
            bar.set_message(detail.chars().take(60).collect::<String>());
        }
    }

    fn finished(&self, name: &str, took: Duration) {
        match self.bars().remove(name) {
            Some(bar) => bar.finish_with_message(format!("{:.0} s", took.as_secs_f32())),
            None => eprintln!("built {name} in {:.0} s", took.as_secs_f32()),
        }
    }
}

/// Says what is waited for, and for how long.
pub(crate) struct Waiting {
    bar: ProgressBar,
    started: Instant,
    last: String,
    terminal: bool,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, started: Instant::now(), last: String::new(), terminal }
    }

    pub(crate) fn on(&mut self, what: &str) {
        if self.last != what {
            if !self.terminal && !what.is_empty() {
                eprintln!("{:5.1} s  {what}", self.started.elapsed().as_secs_f32());
            }
            self.bar.set_message(what.to_owned());
            self.last = what.to_owned();
        }
    }

    pub(crate) fn done(self, what: &str) {
        self.bar.finish_and_clear();
        eprintln!("{:5.1} s  {what}", self.started.elapsed().as_secs_f32());
    }
}
