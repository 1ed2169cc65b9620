//! Running the program, and finding test data.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a run of the program gave.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs the program.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rwkv-quant"));
    command.env("NO_COLOR", "1").env_remove("COLUMNS");
    command
}

/// Runs the program with these arguments.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let Output { status, stdout, stderr } = program().args(args).output().unwrap();
    Ran {
        status: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// Runs the program and wants it to succeed.
pub fn ok<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let ran = run(args);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    ran
}

/// The JSON that a successful run printed.
pub fn json<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> serde_json::Value {
    serde_json::from_str(&ok(args).stdout).unwrap()
}

/// A file of `testdata/`.
pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// The folder of other people's small models, which is not a part of this project: `RWKV_QUANT_DATA`, else `../shared/data`.
/// Tests that need it are ignored unless they are asked for (`--run-ignored all`).
pub fn shared_data() -> PathBuf {
    let path = std::env::var_os("RWKV_QUANT_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    assert!(path.is_dir(), "there is no folder {}: RWKV_QUANT_DATA names another", path.display());
    path
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
