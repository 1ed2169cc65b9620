//! Files that change while they are mapped: an error, never a signal and never a value of neither version.
#![allow(clippy::unwrap_used)] // in functions that tests share

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use formats::{Error, Limits, Mapped, Planned, safetensors};
use quant::Encoding;
use tempfile::TempDir;

/// Bytes of the data: many pages.
const BYTES: usize = 4 << 20;

fn model(dir: &TempDir) -> std::path::PathBuf {
    let planned = [Planned { name: "a".into(), encoding: Encoding::U8, shape: vec![BYTES] }];
    let placement = safetensors::place(&Vec::new(), &planned).unwrap();
    let mut bytes = placement.head;
    bytes.resize(placement.total_bytes as usize, 7);
    let path = dir.path().join("m.safetensors");
    fs::write(&path, bytes).unwrap();
    path
}

fn writing(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Another tick of the clock from which the file system takes its times.
fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(30));
}

#[track_caller]
fn changed(file: &Mapped, how: &str) {
    match file.check_unchanged() {
        Err(e @ Error::Changed { .. }) => {
            assert!(e.to_string().contains("changed while it was in use"), "{e}");
            assert!(e.to_string().contains(how), "{e}");
            assert_eq!(e.help().as_deref(), Some("run the command again once nobody writes it"));
        }
        other => panic!("{how}: {other:?}"),
    }
}

#[test]
fn an_untouched_file_is_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir);
    let container = formats::open(&path, &Limits::default()).unwrap();
    assert_eq!(container.bytes(container.tensor("a").unwrap()), vec![7; BYTES]);
    fs::read(&path).unwrap();
    container.check_unchanged().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    Mapped::open(&empty).unwrap().check_unchanged().unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_that_is_cut_short_ends_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for left in [0, 1, 5000, BYTES as u64 - 1] {
        let path = model(&dir);
        let (first, second) = (Mapped::open(&path).unwrap(), Mapped::open(&path).unwrap());
        tick();
        writing(&path).set_len(left).unwrap();
        // Threads touch the lost pages at the same time, and each map on its own; none of them is hit by a signal.
        std::thread::scope(|scope| {
            for file in [&first, &first, &second] {
                scope.spawn(move || {
                    let lost = file.bytes().iter().filter(|b| **b == 0).count();
                    assert!(lost as u64 + left + 4096 >= BYTES as u64, "{lost} bytes are lost");
                });
            }
        });
        changed(&first, "it was shortened from");
        changed(&second, "it was shortened from");
    }
}

/// The size and the bytes are right again at the end, but not what was read meanwhile.
#[cfg(unix)]
#[test]
fn a_file_that_is_written_anew_ends_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir);
    let bytes = fs::read(&path).unwrap();
    let file = Mapped::open(&path).unwrap();
    tick();
    writing(&path).set_len(0).unwrap();
    let last = file.bytes().len() - 1;
    assert_eq!(file.bytes()[last], 0);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(file.bytes()[last], 0, "what was lost once does not come back");
    changed(&file, "it was overwritten");
}

#[test]
fn bytes_that_are_overwritten_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir);
    let file = Mapped::open(&path).unwrap();
    tick();
    let mut out = writing(&path);
    out.seek(SeekFrom::End(-10)).unwrap();
    out.write_all(b"other").unwrap();
    changed(&file, "it was overwritten");
    // The time of the last write can be set back; that of the last change cannot.
    let file = Mapped::open(&path).unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    tick();
    out.seek(SeekFrom::End(-10)).unwrap();
    out.write_all(b"again").unwrap();
    out.set_modified(before).unwrap();
    if cfg!(unix) {
        changed(&file, "it was written, linked, or its permissions changed");
    }
    out.seek(SeekFrom::End(0)).unwrap();
    out.write_all(b"more").unwrap();
    changed(&file, "it grew from");
}

#[cfg(unix)]
#[test]
fn another_file_of_the_name_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir);
    let file = Mapped::open(&path).unwrap();
    let other = dir.path().join("other");
    fs::copy(&path, &other).unwrap();
    fs::rename(&other, &path).unwrap();
    changed(&file, "another file has its name now");
    assert_eq!(*file.bytes().last().unwrap(), 7);
    let file = Mapped::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    changed(&file, "it was removed");
}

/// An error that the change itself made is reported as the change.
#[cfg(unix)]
#[test]
fn the_change_is_the_error_and_not_what_it_led_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir);
    let container = formats::open(&path, &Limits::default()).unwrap();
    tick();
    writing(&path).set_len(20).unwrap();
    let all = container.bytes(container.tensor("a").unwrap());
    assert_eq!(*all.last().unwrap(), 0);
    assert!(matches!(container.check_unchanged(), Err(Error::Changed { .. })));
}

#[cfg(unix)]
#[test]
fn side_files_are_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir);
    let path = {
        let hf = dir.path().join("model.safetensors");
        fs::rename(path, &hf).unwrap();
        hf
    };
    let config = dir.path().join("config.json");
    fs::write(&config, "{}").unwrap();
    let container = formats::open(&path, &Limits::default()).unwrap();
    assert_eq!(container.side_files().len(), 1);
    tick();
    fs::write(&config, "{\"a\": 1}").unwrap();
    assert!(container.check_unchanged().unwrap_err().to_string().contains("config.json"));
}

/// Any other SIGBUS ends the program as before.
#[cfg(unix)]
#[test]
fn a_fault_outside_a_guarded_map_still_ends_the_program() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "FORMATS_TEST_FAULT";
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir);
    if std::env::var_os(CHILD).is_some() {
        let guarded = Mapped::open(&path).unwrap();
        let file = File::open(&path).unwrap();
        // SAFETY: the map is read only; that a read of it faults is what is tested.
        #[allow(unsafe_code)]
        let own = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        writing(&path).set_len(0).unwrap();
        let last = guarded.bytes().len() - 1;
        assert_eq!(guarded.bytes()[last], 0);
        println!("alive");
        println!("{}", std::hint::black_box(own[last]));
        return;
    }
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this)
        .args(["--exact", "a_fault_outside_a_guarded_map_still_ends_the_program", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("alive"), "{output:?}");
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
}
