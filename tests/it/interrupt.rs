//! Ctrl-C leaves nothing behind.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::run::{program, testdata};

#[test]
fn an_interrupted_conversion_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let partial = dir.path().join("out.gguf.partial");
    // The conversion of a small model is over in a moment, so it is stopped as soon as it has begun; a run that
    // was faster than the signal is tried again.
    for _ in 0..50 {
        let mut child = program()
            .args([
                "convert",
                testdata("rwkv7-bytes.pth").to_str().unwrap(),
                out.to_str().unwrap(),
                "-t",
                "q5_1",
            ])
            .args(["--threads", "1", "--force"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !partial.exists() && start.elapsed() < Duration::from_secs(10) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.code() == Some(130) {
            assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
            assert!(!partial.exists() && !out.exists(), "nothing is left behind");
            return;
        }
        std::fs::remove_file(&out).ok();
    }
    panic!("no run could be interrupted in time");
}
