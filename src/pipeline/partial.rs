//! A file that is not finished: written under another name, renamed when it is right, removed when it is not.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// `NAME.partial`, which becomes `NAME` when it is finished and vanishes when it is dropped before.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    out: PathBuf,
    force: bool,
    finished: bool,
}

impl Partial {
    /// Makes the file, as long as the finished one will be.
    pub fn create(out: &Path, bytes: u64, force: bool) -> Result<Partial> {
        if out.is_dir() {
            return Err(Error::Usage {
                what: format!("{} is a folder", out.display()),
                help: "name the file to write within it".to_owned(),
            });
        }
        if !force && out.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: out.to_owned() });
        }
        let folder = match out.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        check_space(folder, bytes)?;
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = out.with_file_name(name);
        clear_leftover(&path, out)?;
        // `create_new` follows no link and opens nothing that is there: what is written to is ours alone.
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        file.try_lock().map_err(|_| in_use(out))?;
        let partial = Partial { file, path, out: out.to_owned(), force, finished: false };
        partial.file.set_len(bytes).map_err(Error::io("make room for", &partial.path))?;
        Ok(partial)
    }

    /// The unfinished file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        write_all_at(&self.file, bytes, offset).map_err(Error::io("write to", &self.path))
    }

    /// Waits until the disk has everything, then gives the file its name.
    pub fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("flush", &self.path))?;
        if !self.force && self.out.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: self.out.clone() });
        }
        fs::rename(&self.path, &self.out).map_err(Error::io("rename to its name", &self.path))?;
        self.finished = true;
        // So that the name outlasts a power cut; not all systems can flush a folder.
        if let Some(folder) = self.out.parent().and_then(|p| File::open(p).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
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
fn clear_leftover(path: &Path, out: &Path) -> Result<()> {
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    if !there.is_file() || links(&there) != 1 {
        return Err(Error::Usage {
            what: format!("{} is in the way: it is no file that an interrupted run left", path.display()),
            help: "move it away, or give the output another name".to_owned(),
        });
    }
    let leftover = File::open(path).map_err(Error::io("open", path))?;
    leftover.try_lock().map_err(|_| in_use(out))?;
    fs::remove_file(path).map_err(Error::io("remove", path))
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
