//! Progress of the work: a bar on a terminal, plain lines elsewhere, both on standard error.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Steps, Style};
use crate::pipeline::Observer;
use crate::units::bytes;

/// Interval between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows the progress of one conversion.
pub struct Progress {
    style: Style,
    probing: OnceLock<Steps>,
    calibrating: OnceLock<Steps>,
    writing: OnceLock<Writing>,
}

/// The files being written and verified.
struct Writing {
    total_bytes: u64,
    written: AtomicU64,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    /// A line every second.
    Lines(Mutex<Instant>),
    Nothing,
}

impl Progress {
    /// Progress before any work.
    pub fn new(style: Style) -> Progress {
        Progress { style, probing: OnceLock::new(), calibrating: OnceLock::new(), writing: OnceLock::new() }
    }

    /// Takes the bars off the terminal.
    pub fn clear(&self) {
        self.probing.get().into_iter().chain(self.calibrating.get()).for_each(Steps::clear);
        if let Some(Writing { shown: Shown::Bar(bar), .. }) = self.writing.get() {
            bar.finish_and_clear();
        }
    }
}

impl Writing {
    fn new(total_bytes: u64, style: Style) -> Writing {
        let shown = if style != Style::Human {
            Shown::Nothing
        } else if stderr().is_terminal() {
            // Writing and reading back both count.
            let bar =
                ProgressBar::with_draw_target(Some(2 * total_bytes), ProgressDrawTarget::stderr_with_hz(10));
            let template = "{bar:30} {percent:>3}%  {binary_bytes_per_sec}  {eta} left  {msg}";
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            Shown::Bar(bar)
        } else {
            Shown::Lines(Mutex::new(Instant::now()))
        };
        Writing { total_bytes, written: AtomicU64::new(0), shown }
    }
}

impl Observer for Progress {
    fn probed(&self, units: u64, of: u64) {
        self.probing.get_or_init(|| Steps::new(of, "measured", self.style)).add(units);
    }

    fn calibrated(&self, weights: u64, of: u64) {
        self.probing.get().into_iter().for_each(Steps::clear);
        self.calibrating.get_or_init(|| Steps::new(of, "weights", self.style)).add(weights);
    }

    fn begins(&self, bytes: u64) {
        self.calibrating.get().into_iter().for_each(Steps::clear);
        self.writing.get_or_init(|| Writing::new(bytes, self.style));
    }

    fn written(&self, name: &str, done: u64) {
        let Some(writing) = self.writing.get() else { return };
        match &writing.shown {
            Shown::Bar(bar) => {
                bar.set_message(name.to_owned());
                bar.inc(done);
            }
            Shown::Lines(last) => {
                let so_far = writing.written.fetch_add(done, Ordering::Relaxed) + done;
                let Ok(mut last) = last.lock() else { return };
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let percent = so_far * 100 / writing.total_bytes.max(1);
                    eprintln!("{percent:>3}%  {} of {} written", bytes(so_far), bytes(writing.total_bytes));
                }
            }
            Shown::Nothing => {}
        }
    }

    fn verified(&self, done: u64) {
        if let Some(Writing { shown: Shown::Bar(bar), .. }) = self.writing.get() {
            bar.set_message("verifying");
            bar.inc(done);
        }
    }
}
