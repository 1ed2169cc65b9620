//! Files that are not finished: written under another name, renamed when they are right, removed when they are not.
//!
//! ```text
//! one file            OUT.partial, then OUT
//! several             OUT.partial/NAME, then NAME beside OUT
//! a folder            OUT.partial/NAME, then OUT/NAME: the folder is renamed as a whole
//! ```

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use formats::Mapped;

use crate::error::{Error, Result};
use crate::files::{self, refuse_special};
use crate::plan::Plan;
use crate::targets::{Output, SmallFile};

/// `OUT.partial`, which becomes `OUT` when it is finished and vanishes when it is dropped before.
pub(crate) struct Partial {
    /// `OUT.partial`: a file, or a folder of files.
    path: PathBuf,
    out: PathBuf,
    output: Output,
    /// First those with tensors, in the order of the plan.
    files: Vec<Unfinished>,
    /// What an earlier output of the same name, split otherwise, consists of.
    earlier: Vec<PathBuf>,
    force: bool,
    finished: bool,
}

/// Largest index that is looked into.
const INDEX_BYTES: u64 = 64 << 20;

/// One file of it.
struct Unfinished {
    file: File,
    path: PathBuf,
    /// Where it will be.
    out: PathBuf,
}

impl Partial {
    /// Makes the files of a plan, as long as the finished ones will be; the small ones are filled.
    pub fn of_plan(
        out: &Path,
        plan: &Plan,
        inputs: &[&Mapped],
        force: bool,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<Partial> {
        let sizes = plan.files.iter().map(|f| (f.name.as_os_str(), f.layout.total_bytes()));
        let small = plan.small.iter().map(|f| (f.name.as_os_str(), f.bytes.len() as u64));
        let files: Vec<(&OsStr, u64)> = sizes.chain(small).collect();
        let partial = Partial::create(out, plan.output, &files, inputs, force, check)?;
        for (number, small) in plan.small.iter().enumerate() {
            partial.write_at(plan.files.len() + number, &small.bytes, 0)?;
        }
        Ok(partial)
    }

    /// Makes files of these names and sizes; `inputs` are read meanwhile, and never replaced. Before the first one is
    /// made, `check` must agree.
    pub fn create(
        out: &Path,
        output: Output,
        files: &[(&OsStr, u64)],
        inputs: &[&Mapped],
        force: bool,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<Partial> {
        if output != Output::Folder && out.is_dir() {
            return Err(Error::Usage {
                what: format!("{} is a folder", out.display()),
                help: "name the file to write within it".to_owned(),
            });
        }
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = out.with_file_name(name);
        let named = |name: &OsStr| match output {
            Output::File => (path.clone(), out.to_owned()),
            Output::Set => (path.join(name), out.with_file_name(name)),
            Output::Folder => (path.join(name), out.join(name)),
        };
        let files: Vec<(PathBuf, PathBuf, u64)> = files
            .iter()
            .map(|(name, bytes)| {
                let (path, out) = named(name);
                (path, out, *bytes)
            })
            .collect();
        let outs: Vec<&Path> = files.iter().map(|(_, out, _)| out.as_path()).collect();
        for file in outs.iter().chain([&out]) {
            refuse_input(inputs, file)?;
            refuse_special(file)?;
        }
        let earlier = match output {
            Output::Folder => Vec::new(),
            _ => earlier(out, &outs, inputs),
        };
        let (out_path, files_made) = (out.to_owned(), Vec::new());
        let mut partial =
            Partial { path, out: out_path, output, files: files_made, earlier, force, finished: false };
        partial.refuse_existing(&outs)?;
        let folder = match out.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        check_space(folder, files.iter().map(|(.., bytes)| bytes).sum())?;
        check()?;
        clear_leftover(&partial.path, out, &files)?;
        if output != Output::File {
            fs::create_dir(&partial.path).map_err(Error::io("create", &partial.path))?;
        }
        for (path, out, bytes) in files {
            // `create_new` follows no link and opens nothing that is there: what is written to is ours alone.
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            let file = file.map_err(Error::io("create", &path))?;
            file.try_lock().map_err(|_| in_use(&out))?;
            partial.files.push(Unfinished { file, path, out });
            let Unfinished { file, path, .. } = &partial.files[partial.files.len() - 1];
            file.set_len(bytes).map_err(Error::io("make room for", path))?;
        }
        Ok(partial)
    }

    /// Where the files are for now.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path.as_path())
    }

    /// Where the files will be.
    fn outs(&self) -> Vec<&Path> {
        self.files.iter().map(|f| f.out.as_path()).collect()
    }

    /// What opens all of it.
    pub fn to_open(&self) -> &Path {
        match (self.output, self.files.first()) {
            (Output::Set, Some(first)) => &first.path,
            _ => &self.path,
        }
    }

    /// The small files, and where they are for now.
    pub fn small<'a>(&self, plan: &'a Plan) -> Vec<(PathBuf, &'a SmallFile)> {
        let files = self.files.iter().skip(plan.files.len()).map(|f| f.path.clone());
        files.zip(&plan.small).collect()
    }

    /// Writes all of `bytes` at `offset` of file number `file`.
    pub fn write_at(&self, file: usize, bytes: &[u8], offset: u64) -> Result<()> {
        let Unfinished { file, path, .. } = &self.files[file];
        write_all_at(file, bytes, offset).map_err(Error::io("write to", path))
    }

    /// Waits until the disk has everything, then gives the files their names.
    pub fn finish(mut self) -> Result<()> {
        for Unfinished { file, path, .. } in &self.files {
            file.sync_all().map_err(Error::io("flush", path))?;
        }
        self.refuse_existing(&self.outs())?;
        let rename =
            |from: &Path, to: &Path| fs::rename(from, to).map_err(Error::io("rename to its name", from));
        match self.output {
            Output::File => rename(&self.path, &self.out)?,
            Output::Set => {
                for file in &self.files {
                    rename(&file.path, &file.out)?;
                }
                fs::remove_dir(&self.path).map_err(Error::io("remove", &self.path))?;
            }
            Output::Folder => {
                flush_folder(&self.path);
                if self.out.is_dir() {
                    for file in entries(&self.out)? {
                        fs::remove_file(&file).map_err(Error::io("remove", &file))?;
                    }
                    fs::remove_dir(&self.out).map_err(Error::io("remove", &self.out))?;
                }
                rename(&self.path, &self.out)?;
            }
        }
        self.finished = true;
        for file in &self.earlier {
            fs::remove_file(file).map_err(Error::io("remove", file))?;
        }
        // So that the names outlast a power cut.
        self.out.parent().into_iter().for_each(flush_folder);
        Ok(())
    }

    /// What is there already is replaced only if that was asked for.
    fn refuse_existing(&self, outs: &[&Path]) -> Result<()> {
        let exists = |path: &Path| path.symlink_metadata().is_ok();
        match self.output {
            Output::Folder if !exists(&self.out) => Ok(()),
            Output::Folder if !self.out.is_dir() || self.out.is_symlink() => Err(Error::Usage {
                what: format!("{} is no folder", self.out.display()),
                help: "give the output another name".to_owned(),
            }),
            Output::Folder if entries(&self.out)?.is_empty() => Ok(()),
            Output::Folder if self.force => refuse_strangers(&self.out, outs),
            Output::Folder => Err(Error::Exists { path: self.out.clone() }),
            _ if self.force => Ok(()),
            _ => match outs
                .iter()
                .find(|out| exists(out))
                .copied()
                .or(self.earlier.first().map(PathBuf::as_path))
            {
                Some(out) => Err(Error::Exists { path: out.to_owned() }),
                None => Ok(()),
            },
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            for file in &self.files {
                let _ = fs::remove_file(&file.path);
            }
            if self.output != Output::File {
                let _ = fs::remove_dir(&self.path);
            }
        }
    }
}

/// The output must not be one of the files that are read, the folder of them, or their index.
pub(crate) fn refuse_input(inputs: &[&Mapped], out: &Path) -> Result<()> {
    let Ok(real) = out.canonicalize() else { return Ok(()) };
    let index = match real.to_str().is_some_and(|name| name.ends_with(formats::INDEX_SUFFIX)) {
        true => files::text(&real, "index", INDEX_BYTES).unwrap_or_default(),
        false => String::new(),
    };
    let is_indexed = |input: &Path| {
        let name = input.file_name().unwrap_or_default().to_string_lossy();
        input.parent() == real.parent() && index.contains(&format!("{name:?}"))
    };
    let is_input = |f: &&Mapped| {
        let input = f.path().canonicalize();
        input.is_ok_and(|input| input == real || input.parent() == Some(&real) || is_indexed(&input))
    };
    if !inputs.iter().any(is_input) {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!("{} is the input, which is never changed", out.display()),
        help: "give the output another name".to_owned(),
    })
}

/// The files of an earlier output of this name that was split otherwise: readers would take them for parts of the new
/// one. Those of the input are none.
fn earlier(out: &Path, outs: &[&Path], inputs: &[&Mapped]) -> Vec<PathBuf> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(whole) = out.file_name().and_then(OsStr::to_str) else { return Vec::new() };
    let of_it = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        (name == whole || formats::is_of_set(name, whole)) && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries(folder).unwrap_or_default().into_iter().filter(of_it).collect();
    if found.iter().any(|path| refuse_input(inputs, path).is_err()) {
        return Vec::new();
    }
    found.retain(|path| outs.iter().all(|out| out.file_name() != path.file_name()));
    found.sort_unstable(); // the system lists them in any order
    found
}

/// Everything in a folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    list.map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path())).collect()
}

/// Refuses to replace a folder in which there is anything that a conversion does not write.
fn refuse_strangers(folder: &Path, planned: &[&Path]) -> Result<()> {
    for entry in entries(folder)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        let weights = name.starts_with("model") && name.contains(".safetensors");
        if !(weights || planned.contains(&entry.as_path())) || !entry.is_file() {
            return Err(Error::Usage {
                what: format!("{} holds {name}, which would be lost", folder.display()),
                help: "give the output another name, or move the folder away".to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses to start what the disk cannot hold.
fn check_space(folder: &Path, bytes: u64) -> Result<()> {
    let free = fs4::available_space(folder).map_err(Error::io("write to", folder))?;
    if free >= bytes {
        return Ok(());
    }
    Err(Error::Resources {
        what: format!(
            "the file takes {} MB, and the disk of {} has {} MB left",
            bytes.div_ceil(1_000_000),
            folder.display(),
            free / 1_000_000
        ),
        help: "free some space, or write to another disk".to_owned(),
    })
}

/// Removes what an interrupted run left, and refuses to touch anything else of that name.
fn clear_leftover(path: &Path, out: &Path, files: &[(PathBuf, PathBuf, u64)]) -> Result<()> {
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    if !there.is_dir() {
        return remove_leftover(path, out, path);
    }
    let left = entries(path)?;
    if let Some(stranger) = left.iter().find(|entry| files.iter().all(|(file, ..)| file != *entry)) {
        return Err(in_the_way(stranger));
    }
    left.iter().try_for_each(|entry| remove_leftover(entry, out, path))?;
    fs::remove_dir(path).map_err(Error::io("remove", path))
}

/// Removes a file that an interrupted run left; `leftover` is all of what it left.
fn remove_leftover(path: &Path, out: &Path, leftover: &Path) -> Result<()> {
    let there = path.symlink_metadata().map_err(Error::io("open", path))?;
    if !there.is_file() || links(&there) != 1 {
        return Err(in_the_way(leftover));
    }
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.try_lock().map_err(|_| in_use(out))?;
    fs::remove_file(path).map_err(Error::io("remove", path))
}

fn in_the_way(path: &Path) -> Error {
    Error::Usage {
        what: format!("{} is in the way: it is no file that an interrupted run left", path.display()),
        help: "move it away, or give the output another name".to_owned(),
    }
}

/// Waits until the disk has the names in a folder; not all systems can flush one.
fn flush_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

fn in_use(out: &Path) -> Error {
    Error::Usage {
        what: format!("{} is being written by another process", out.display()),
        help: "wait until it is done, or give another name".to_owned(),
    }
}

/// How many names a file has.
#[cfg(unix)]
fn links(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn links(_: &fs::Metadata) -> u64 {
    1
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}
