//! Makes torch files by hand: a pickle assembler and a zip writer, both able to lie.

use std::path::PathBuf;

use formats::{Container, Error, Limits};
use tempfile::TempDir;

/// A pickle under construction.
#[derive(Clone, Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new() -> Pickle {
        Pickle(vec![0x80, 2])
    }

    /// Raw instructions.
    pub fn op(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn then(self, f: impl FnOnce(Pickle) -> Pickle) -> Pickle {
        f(self)
    }

    pub fn text(self, text: &str) -> Pickle {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    pub fn int(self, v: i64) -> Pickle {
        match i32::try_from(v) {
            Ok(v) => self.op(b"J").op(&v.to_le_bytes()),
            Err(_) => self.op(&[0x8a, 8]).op(&v.to_le_bytes()),
        }
    }

    pub fn global(self, module: &str, name: &str) -> Pickle {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn ints(self, items: &[i64]) -> Pickle {
        items.iter().fold(self.op(b"("), |p, i| p.int(*i)).op(b"t")
    }

    pub fn storage(self, class: &str, key: &str, elements: i64) -> Pickle {
        self.op(b"(").text("storage").global("torch", class).text(key).text("cpu").int(elements).op(b"tQ")
    }

    /// `_rebuild_tensor_v2` of a storage.
    pub fn tensor(self, class: &str, key: &str, elements: i64, view: View<'_>) -> Pickle {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(b"(")
            .tensor_args(class, key, elements, view)
            .op(b"tR")
    }

    pub fn tensor_args(self, class: &str, key: &str, elements: i64, view: View<'_>) -> Pickle {
        self.storage(class, key, elements)
            .int(view.0)
            .ints(view.1)
            .ints(view.2)
            .op(b"\x89")
            .global("collections", "OrderedDict")
            .op(b")R")
    }

    /// A row-major float tensor that fills its storage, as the value of `name`.
    pub fn item(self, name: &str, key: &str, shape: &[i64]) -> Pickle {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        self.text(name).tensor("FloatStorage", key, shape.iter().product(), View(0, shape, &strides))
    }

    pub fn stop(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// Offset, shape, strides.
#[derive(Clone, Copy)]
pub struct View<'a>(pub i64, pub &'a [i64], pub &'a [i64]);

/// A dict pickle with what `f` puts between `(` and `u`.
pub fn dict(f: impl FnOnce(Pickle) -> Pickle) -> Vec<u8> {
    f(Pickle::new().op(b"}(")).op(b"u").stop()
}

/// An entry to be written; `method` and `descriptor` are for lies and torch's habits.
#[derive(Clone)]
pub struct File {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    pub extra: Vec<u8>,
}

/// A plain stored entry.
pub fn file(name: &str, data: impl Into<Vec<u8>>) -> File {
    File { name: name.to_owned(), data: data.into(), method: 0, flags: 0, extra: Vec::new() }
}

/// A zip archive of these files.
pub fn zip(files: &[File]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for f in files {
        let header = out.len() as u32;
        let crc = crc32fast::hash(&f.data);
        let size = f.data.len() as u32;
        let late = f.flags & 8 != 0;
        let put16 = |to: &mut Vec<u8>, values: &[u16]| {
            values.iter().for_each(|v| to.extend_from_slice(&v.to_le_bytes()));
        };
        let put32 = |to: &mut Vec<u8>, values: &[u32]| {
            values.iter().for_each(|v| to.extend_from_slice(&v.to_le_bytes()));
        };
        put32(&mut out, &[0x04034b50]);
        put16(&mut out, &[20, f.flags, f.method, 0, 0]);
        put32(&mut out, &if late { [0; 3] } else { [crc, size, size] });
        put16(&mut out, &[f.name.len() as u16, f.extra.len() as u16]);
        out.extend_from_slice(f.name.as_bytes());
        out.extend_from_slice(&f.extra);
        out.extend_from_slice(&f.data);
        if late {
            put32(&mut out, &[0x08074b50, crc, size, size]);
        }
        put32(&mut directory, &[0x02014b50]);
        put16(&mut directory, &[20, 20, f.flags, f.method, 0, 0]);
        put32(&mut directory, &[crc, size, size]);
        put16(&mut directory, &[f.name.len() as u16, 0, 0, 0, 0]);
        put32(&mut directory, &[0, header]);
        directory.extend_from_slice(f.name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    for v in [files.len() as u16, files.len() as u16] {
        out.extend_from_slice(&v.to_le_bytes());
    }
    for v in [directory.len() as u32, start] {
        out.extend_from_slice(&v.to_le_bytes());
    }
    out.extend_from_slice(&[0, 0]);
    out
}

/// A torch file of this pickle and these storages of so many bytes each.
pub fn pth(pickle: &[u8], storages: &[(&str, usize)]) -> Vec<u8> {
    let mut files = vec![file("m/data.pkl", pickle), file("m/byteorder", "little")];
    for (key, bytes) in storages {
        let data: Vec<u8> = (0..*bytes).map(|i| i as u8).collect();
        files.push(file(&format!("m/data/{key}"), data));
    }
    files.push(file("m/version", "3\n"));
    zip(&files)
}

/// A folder for files that are opened; it goes away with this value.
pub struct Scratch(pub TempDir);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("x.pth");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn open(&self, bytes: &[u8]) -> Result<Container, Error> {
        formats::open(&self.write(bytes), &Limits::default())
    }
}

pub fn open(bytes: &[u8]) -> Result<Container, Error> {
    Scratch::new().open(bytes)
}

/// The text of the error that these bytes make, without the folder's name, and the help.
pub fn error(bytes: &[u8]) -> (String, String) {
    let scratch = Scratch::new();
    match scratch.open(bytes) {
        Ok(c) => panic!("it opened: {:?}", c.tensors()),
        Err(e) => {
            let folder = format!("{}/", scratch.0.path().display());
            (e.to_string().replace(&folder, ""), e.help().unwrap_or_default())
        }
    }
}

/// A legacy file of this pickle, these keys, and what follows them.
pub fn legacy(pickle: &[u8], keys: &[&str], data: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    out.extend(b"\x80\x02M\xe9\x03.");
    out.extend(dict(|p| p.text("protocol_version").int(1001).text("little_endian").op(b"\x88")));
    out.extend(pickle);
    out.extend(keys.iter().fold(Pickle::new().op(b"]("), |p, k| p.text(k)).op(b"e").stop());
    out.extend(data);
    out
}
