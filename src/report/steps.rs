//! A bar for work that is counted in steps, on a terminal; nothing elsewhere.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Style;

/// Shows how many steps are done.
pub struct Steps(Option<ProgressBar>);

impl Steps {
    /// Progress toward `total` steps, named `unit`.
    pub fn new(total: u64, unit: &str, style: Style) -> Steps {
        if style != Style::Human || !stderr().is_terminal() {
            return Steps(None);
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
        let template = format!("{{bar:30}} {{percent:>3}}%  {{per_sec}} {unit}  {{eta}} left");
        bar.set_style(
            ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Steps(Some(bar))
    }

    /// Counts so many more as done.
    pub fn add(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(done);
        }
    }

    /// Takes the bar off the terminal.
    pub fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
