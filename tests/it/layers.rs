//! One direction: every room of `src` has its place in one list, and uses nothing that comes after it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All rooms of `src`, from the ground up. A new one gets its place here.
const ROOMS: &[&str] = &[
    // Tools that know nothing of models.
    "process",
    "error",
    "choice",
    "digest",
    "escape",
    "files",
    "isa",
    "links",
    "random",
    "shard",
    "units",
    // The disk, the network, vocabularies.
    "storage",
    "hub",
    "vocab",
    // What a model is, and what it computes.
    "model",
    "runner",
    "equalize",
    "metadata",
    "eval",
    // What is asked for, and what tells results apart.
    "recipe",
    "identity",
    "checkpoint",
    // What a model is to become.
    "scheme",
    "targets",
    "plan",
    "low_rank",
    // The work.
    "diff",
    "verify",
    "pipeline",
    "compact",
    "calibrate",
    "convert",
    "shards",
    "clean",
    // Releases, and what people read.
    "templates",
    "html",
    "batch",
    "report",
    "cli",
];

/// The rooms that a text names behind `crate::`, its comments and its last part with tests left out.
fn used(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String =
        text.lines().map(|line| format!("{}\n", line.split("//").next().unwrap_or_default())).collect();
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let word =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match after.strip_prefix('{') {
            None => rooms.extend([word(after)]),
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                rooms.extend(list.split(',').map(|name| word(name.trim())));
            }
        }
    }
    rooms
}

/// Every source file of a folder that is no module of tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let root =
        ["mod.rs", "lib.rs"].map(|name| fs::read_to_string(folder.join(name)).unwrap_or_default()).concat();
    let is_test = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        root.contains(&format!("#[cfg(test)]\nmod {name};"))
            || root.contains(&format!("#[cfg(test)]\npub(crate) mod {name};"))
    };
    let is_source = |path: &PathBuf| path.extension().is_some_and(|e| e == "rs") && !is_test(path);
    files.into_iter().filter(is_source).chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

#[test]
fn no_room_uses_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let place = |room: &str| ROOMS.iter().position(|known| *known == room);
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for path in sources(&src) {
        let within = path.strip_prefix(&src).unwrap();
        let room = within.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&room) {
            continue;
        }
        let Some(own) = place(room) else { panic!("{room} has no place in the list") };
        for used in used(&fs::read_to_string(&path).unwrap()) {
            let Some(other) = place(&used) else { continue };
            arrows += usize::from(other != own);
            if other > own {
                wrong.push(format!("{} uses {used}, which is above it", within.display()));
            }
        }
    }
    assert!(arrows > 300, "{arrows}: are imports written otherwise now?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
