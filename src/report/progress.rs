//! How far the work is: a bar on a terminal, plain lines elsewhere, both on standard error.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Style, bytes};
use crate::pipeline::Observer;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows the progress of one file being written and verified.
pub struct Progress {
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
    /// Progress towards `total_bytes` of file.
    pub fn new(total_bytes: u64, style: Style) -> Progress {
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
        Progress { total_bytes, written: AtomicU64::new(0), shown }
    }

    /// Takes the bar off the terminal.
    pub fn clear(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn written(&self, name: &str, done: u64) {
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_message(name.to_owned());
                bar.inc(done);
            }
            Shown::Lines(last) => {
                let so_far = self.written.fetch_add(done, Ordering::Relaxed) + done;
                let Ok(mut last) = last.lock() else { return };
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let percent = so_far * 100 / self.total_bytes.max(1);
                    eprintln!("{percent:>3}%  {} of {} written", bytes(so_far), bytes(self.total_bytes));
                }
            }
            Shown::Nothing => {}
        }
    }

    fn verified(&self, done: u64) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_message("verifying");
            bar.inc(done);
        }
    }
}
