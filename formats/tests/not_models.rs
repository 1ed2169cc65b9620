//! Files that are no model, and files that cannot be read.
#![allow(clippy::unwrap_used)] // in functions that tests share

use std::fs;
use std::path::Path;

use formats::{Error, Limits, open};

fn refused(path: &Path) -> (String, String) {
    let error = open(path, &Limits::default()).expect_err("this must be refused");
    (error.to_string(), error.help().unwrap_or_default())
}

#[test]
fn content_of_other_kinds_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = vec![0; 1024];
    tar[..5].copy_from_slice(b"model");
    tar[257..262].copy_from_slice(b"ustar");
    for (content, found, help) in [
        (&b""[..], "is empty, not a model", "download it again"),
        (&[0; 5000], "a file of zeros", "did not finish"),
        (b"  <!DOCTYPE html><html>", "an HTML page", "use the link of the file itself"),
        (b"<HTML>", "an HTML page", "web page"),
        (b"<?xml version=\"1.0\"?><Error>", "an XML document", "a server's answer"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer", "git lfs pull"),
        (b"{\"error\": \"no\"}", "a JSON file", "open the folder"),
        (b"\x1f\x8b\x08\0\0", "gzip data", "unpack"),
        (b"\x28\xb5\x2f\xfd\0", "zstd data", "unpack"),
        (&tar, "a tar archive", "unpack"),
        (b"\x89PNG\r\n", "a PNG picture", "link"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX model", "checkpoint"),
        (b"\x93NUMPY\x01\0", "a NumPy array", "checkpoint"),
        (b"tjgg\x03\0\0\0", "a GGJT file of an old llama.cpp", "checkpoint"),
        (b"Entry not found", "a text file (it starts with \"Entry not found\")", "error message"),
        ("找不到文件".repeat(20).as_bytes(), "a text file (it starts with \"找", "error message"),
        (b"\x01\x02\x03abcdefgh", "of no known format (it starts with 01 02 03 61", "these are read"),
    ] {
        let path = dir.path().join("model.pth");
        fs::write(&path, content).unwrap();
        let (text, advice) = refused(&path);
        assert!(text.contains(found), "{text}");
        assert!(advice.contains(help), "{advice}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (text, help) = refused(&dir.path().join("x.pth"));
    assert!(text.starts_with("cannot open "), "{text}");
    assert!(help.contains("spelling"));
    let (_, help) = refused(&dir.path().join("no/x.pth"));
    assert!(help.contains("the folder"));
}

#[cfg(unix)]
#[test]
fn links_to_nothing_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("model.safetensors");
    std::os::unix::fs::symlink("../blobs/abc", &link).unwrap();
    for path in [link.as_path(), dir.path()] {
        assert!(refused(path).0.contains("it is a link to ../blobs/abc, which is not there"));
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_waited_for() {
    let (text, _) = refused(Path::new("/dev/zero"));
    assert!(text.contains("a pipe or a device"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("model.safetensors");
    match std::process::Command::new("mkfifo").arg(&pipe).status() {
        Ok(status) if status.success() => {
            for path in [pipe.as_path(), dir.path()] {
                assert!(refused(path).0.contains("a pipe or a device"));
            }
        }
        _ => println!("skipped: there is no mkfifo"),
    }
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.st");
    fs::write(&file, "x").unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for path in [&file, &folder] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    if fs::read(&file).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    for path in [&file, &folder] {
        let error = open(path, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.help().unwrap().contains("permissions"));
    }
}
