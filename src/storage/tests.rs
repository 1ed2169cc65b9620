//! The transaction against kills, faults and strangers.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A folder with an old whole: a set of two files and an adapter, or a folder of two files.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Every file below, and what is in it.
    fn tree(&self) -> Vec<(PathBuf, String)> {
        fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
            for path in entries(folder).unwrap() {
                match path.is_dir() {
                    true => walk(&path, found),
                    false => found.push((path.clone(), fs::read_to_string(&path).unwrap())),
                }
            }
        }
        let mut found = Vec::new();
        walk(self.0.path(), &mut found);
        found
    }

    fn names(&self) -> Vec<String> {
        let name = |path: &Path| path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned();
        self.tree().iter().map(|(path, _)| name(path)).collect()
    }
}

/// The files of a model, split in two, with an adapter.
fn set(place: &Place) -> Targets {
    Targets {
        output: Output::Set,
        names: ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(Into::into).to_vec(),
        beside: vec![place.at("m.lora.gguf")],
        ..Targets::file(&place.at("m.gguf"))
    }
}

fn folder(place: &Place) -> Targets {
    Targets {
        output: Output::Folder,
        names: ["config.json", "model.safetensors"].map(Into::into).to_vec(),
        ..Targets::file(&place.at("m"))
    }
}

/// Fills all that is announced with `text`.
fn filled(targets: Targets, text: &str, force: bool) -> Result<Outputs> {
    let (count, beside) = (targets.names.len(), targets.beside.clone());
    let mut outputs = Outputs::claim(targets, &Inputs::new(), force)?;
    outputs.create(&vec![text.len() as u64; count])?;
    for file in 0..count {
        outputs.write_at(file, text.as_bytes(), 0)?;
    }
    beside.iter().try_for_each(|path| outputs.put(path, text.as_bytes()))?;
    Ok(outputs)
}

fn write_all(targets: Targets, text: &str, force: bool) -> Result<()> {
    filled(targets, text, force)?.commit(&Inputs::new())
}

#[test]
fn all_files_get_their_names_and_nothing_else_is_left() {
    for targets in [set, folder] {
        let place = Place::new();
        write_all(targets(&place), "old", false).unwrap();
        let names = place.names();
        assert!(
            names.iter().all(|name| !name.contains(".partial") && !name.contains(".journal")),
            "{names:?}"
        );
        let error = write_all(targets(&place), "new", false).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
        write_all(targets(&place), "new", true).unwrap();
        assert_eq!(place.names(), names);
        assert!(place.tree().iter().all(|(_, text)| text == "new"));
    }
}

#[test]
fn what_fails_leaves_everything_as_it_was() {
    for targets in [set, folder] {
        let place = Place::new();
        write_all(targets(&place), "old", false).unwrap();
        let before = place.tree();
        drop(filled(targets(&place), "new", true).unwrap());
        assert_eq!(place.tree(), before);
        // Case adapter-lost-on-failed-force: a name that cannot be taken.
        let outputs = filled(targets(&place), "new", true).unwrap();
        fs::write(
            commit::aside_path(&place.at(if place.at("m").exists() { "m" } else { "m.lora.gguf" })),
            "x",
        )
        .unwrap();
        let error = outputs.commit(&Inputs::new()).unwrap_err().to_string();
        assert!(error.contains("is in the way"), "{error}");
        let left: Vec<_> = place
            .tree()
            .into_iter()
            .filter(|(path, _)| !path.ends_with(".m.previous") && !path.ends_with(".m.lora.gguf.previous"))
            .collect();
        assert_eq!(left, before);
    }
}

/// A run that is killed once its files are made, before the journal says which they are.
#[test]
fn what_was_made_and_not_noted_yet_is_removed() {
    let place = Place::new();
    let mut journal = journal::Journal::claim(&place.at("m.gguf")).unwrap();
    let made = ["m.gguf.partial", "m.gguf.partial/m-00001-of-00002.gguf"].map(|name| place.at(name));
    let names = made.iter().map(|path| journal.name(path)).collect();
    journal.append(&journal::Entry::Stage(names)).unwrap();
    journal.unlock();
    journal.keep();
    fs::create_dir(&made[0]).unwrap();
    fs::write(&made[1], "").unwrap();
    write_all(set(&place), "new", false).unwrap();
    assert!(place.tree().iter().all(|(_, text)| text == "new") && !made[0].exists());
}

/// A journal that somebody planted does not have files of other names removed or renamed.
#[test]
fn a_journal_removes_nothing_but_what_runs_make() {
    let id = |path: &Path| FileId::at(path).unwrap();
    for plant in 0..4 {
        let place = Place::new();
        let (empty, full) = (place.at("__init__.py"), place.at("full.py"));
        fs::write(&empty, "").unwrap();
        fs::write(&full, "x").unwrap();
        let mut journal = journal::Journal::claim(&place.at("m.gguf")).unwrap();
        let (empty_name, full_name) = (journal.name(&empty), journal.name(&full));
        let entry = match plant {
            0 => journal::Entry::Stage(vec![empty_name]),
            1 => journal::Entry::Staged(vec![(full_name, id(&full))]),
            2 => journal::Entry::Commit(vec![commit::Step::new(
                Some((full_name, id(&full))),
                empty_name,
                None,
            )]),
            _ => journal::Entry::Commit(vec![commit::Step::new(
                None,
                full_name,
                Some((empty_name, id(&empty))),
            )]),
        };
        journal.append(&entry).unwrap();
        journal.unlock();
        journal.keep();
        let error = write_all(Targets::file(&place.at("m.gguf")), "new", false).unwrap_err().to_string();
        assert!(error.contains(".m.gguf.journal is in the way"), "{error}");
        assert_eq!(place.names(), [".m.gguf.journal", "__init__.py", "full.py"], "{plant}");
    }
    // Elsewhere, an empty file is not known to be a run's by its name alone.
    let (place, other) = (Place::new(), Place::new());
    fs::write(other.at("a.partial"), "").unwrap();
    let mut journal = journal::Journal::claim(&place.at("m.gguf")).unwrap();
    let name = journal.name(&other.at("a.partial"));
    journal.append(&journal::Entry::Stage(vec![name])).unwrap();
    journal.unlock();
    journal.keep();
    write_all(Targets::file(&place.at("m.gguf")), "new", false).unwrap();
    assert_eq!(other.names(), ["a.partial"]);
}

/// Whole files are hashed as they were written: a bit that is read wrong, or a hole that is none, is found.
#[test]
fn hashes_are_of_what_was_written() {
    let place = Place::new();
    let mut outputs = Outputs::claim(Targets::file(&place.at("m.gguf")), &Inputs::new(), false).unwrap();
    outputs.create(&[12]).unwrap();
    outputs.write_at(0, b"end", 9).unwrap();
    outputs.write_at(0, b"start", 0).unwrap();
    let regions = outputs.sha256s(0, &[(0, 5), (9, 3)], &|_| Ok(())).unwrap();
    use crate::digest::hex;
    assert_eq!(hex(&regions[0]), crate::digest::sha256([&b"start"[..]]));
    assert_eq!(hex(&regions[1]), crate::digest::sha256([&b"end"[..]]));
    let [written] = outputs.written().unwrap().try_into().unwrap();
    assert_eq!((written.path, written.bytes), (place.at("m.gguf"), 12));
    assert_eq!(written.sha256, crate::digest::sha256([&b"start\0\0\0\0end"[..]]));
    for damaged in [&b"stArt\0\0\0\0end"[..], b"start\0x\0\0end"] {
        fs::write(place.at("m.gguf.partial"), damaged).unwrap();
        let error = outputs.written().unwrap_err().to_string();
        assert!(error.contains("was read back and found wrong"), "{error}");
    }
}

/// A run that is killed after `moved` renames of its commit is undone, or completed, by the next one.
#[test]
fn a_kill_at_any_moment_leaves_the_old_whole_or_the_new() {
    for (targets, old) in [(set as fn(&Place) -> Targets, true), (set, false), (folder, true)] {
        for renames in 0..8 {
            let place = Place::new();
            if old {
                write_all(targets(&place), "old", false).unwrap();
            }
            let before = place.tree();
            let outputs = filled(targets(&place), "new", true).unwrap();
            let is_over = killed(outputs, renames);
            // A reader finds no mixture: everything of one text, or less than a whole.
            let seen = place.tree();
            let main = |text: &str| seen.iter().filter(|(path, t)| !hidden(path) && t == text).count();
            assert!(main("old") == 0 || main("new") == 0, "{renames}: {seen:?}");
            assert!(broken_off(&place.at("m.gguf")).is_some() || broken_off(&place.at("m")).is_some());
            recover(&targets(&place).out).unwrap();
            let after = place.tree();
            let is_new = !after.is_empty() && after.iter().all(|(_, text)| text == "new");
            assert!(after == before || is_new, "{renames}: {after:?}");
            assert!(after.iter().all(|(path, _)| !hidden(path)), "{after:?}");
            write_all(targets(&place), "third", true).unwrap();
            assert!(place.tree().iter().all(|(_, text)| text == "third"));
            if is_over {
                break;
            }
        }
    }
}

fn hidden(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str().to_str().unwrap();
        name.starts_with(".m") || name.ends_with(".partial")
    })
}

/// Does what a commit does up to so many renames, and leaves it like a run that is killed; true if that was all of it.
fn killed(mut outputs: Outputs, renames: usize) -> bool {
    let is_over = outputs.break_off(renames);
    std::mem::forget(outputs);
    is_over
}

#[test]
fn what_another_program_made_is_never_removed() {
    let place = Place::new();
    fs::write(place.at("m.gguf.partial"), "precious").unwrap();
    let error = write_all(Targets::file(&place.at("m.gguf")), "new", true).unwrap_err().to_string();
    assert!(error.contains("m.gguf.partial is in the way"), "{error}");
    fs::remove_file(place.at("m.gguf.partial")).unwrap();
    fs::write(place.at(".m.gguf.journal"), "precious").unwrap();
    let error = write_all(Targets::file(&place.at("m.gguf")), "new", true).unwrap_err().to_string();
    assert!(error.contains(".m.gguf.journal is in the way"), "{error}");
    assert_eq!(fs::read_to_string(place.at(".m.gguf.journal")).unwrap(), "precious");
}

#[test]
fn two_outputs_of_one_name_and_two_runs_of_one_output_are_refused() {
    let place = Place::new();
    // Also a name that the run takes meanwhile: a recipe called like the partial file took the model's place.
    for name in ["M.gguf", "m.gguf.partial", ".m.gguf.journal", ".m.gguf.previous", "m.gguf.calibration"] {
        let checkpoint = Some(place.at("m.gguf.calibration"));
        let twice =
            Targets { beside: vec![place.at(name)], checkpoint, ..Targets::file(&place.at("m.gguf")) };
        let error = write_all(twice, "new", true).unwrap_err().to_string();
        assert!(error.contains("this run would write two files of the name"), "{error}");
        assert!(place.names().is_empty());
    }
    // Nor a file in a folder that goes when the run is over.
    let checkpoint = Some(place.at("m.gguf.calibration"));
    let within = Targets {
        beside: vec![place.at("m.gguf.calibration/recipe.toml")],
        checkpoint,
        ..Targets::file(&place.at("m.gguf"))
    };
    let error = write_all(within, "new", true).unwrap_err().to_string();
    assert!(error.contains("in a folder that this run makes and removes"), "{error}");
    let first = filled(set(&place), "first", false).unwrap();
    let error = filled(set(&place), "second", false).unwrap_err().to_string();
    assert!(error.contains("is being written by another process"), "{error}");
    first.commit(&Inputs::new()).unwrap();
}

#[test]
fn a_byte_that_the_disk_changed_is_found_before_any_name_is_given() {
    let place = Place::new();
    let outputs = filled(set(&place), "some text", false).unwrap();
    fs::write(place.at("m.gguf.partial/m-00002-of-00002.gguf"), "some tExt").unwrap();
    let error = outputs.commit(&Inputs::new()).unwrap_err().to_string();
    assert!(error.contains("was read back and found wrong"), "{error}");
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[test]
#[cfg(unix)]
fn devices_are_no_outputs_and_links_are_not_followed() {
    let place = Place::new();
    let error = write(Path::new("/dev/null"), b"x", &Inputs::new(), true).unwrap_err().to_string();
    assert!(error.contains("/dev/null is no regular file"), "{error}");
    fs::write(place.at("precious"), "precious").unwrap();
    for name in ["m.partial", ".m.journal"] {
        std::os::unix::fs::symlink(place.at("precious"), place.at(name)).unwrap();
        assert!(write(&place.at("m"), b"x", &Inputs::new(), true).is_err());
        fs::remove_file(place.at(name)).unwrap();
    }
    // A link that is replaced is a name; what it points at stays.
    std::os::unix::fs::symlink(place.at("precious"), place.at("m")).unwrap();
    assert!(write(&place.at("m"), b"x", &Inputs::new(), false).is_err());
    write(&place.at("m"), b"x", &Inputs::new(), true).unwrap();
    assert_eq!(fs::read_to_string(place.at("precious")).unwrap(), "precious");
    assert!(!place.at("m").is_symlink());
}
