//! Files from the Hub into its cache. Nothing that a server says is believed: names that it gives become parts of paths
//! only if they are plain, bytes are compared with the SHA-256 that it tells, and the token goes to the Hub's own host alone.
//!
//! The cache has the layout of `huggingface_hub`: `models--OWNER--NAME/blobs/ETAG`, and links to these at
//! `snapshots/COMMIT/FILE`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION};
use reqwest::{Method, StatusCode, Url, redirect};
use sha2::{Digest, Sha256};

use super::Address;
use crate::digest::hex;
use crate::error::{Error, Result};

/// The revision of an address that names none.
const DEFAULT_REVISION: &str = "main";
/// Redirects that are followed for one file.
const MAX_REDIRECTS: usize = 10;
/// Largest list of a repository's files.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// Times that a server which is busy or out of reach is asked, and the first pause in between.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Bytes written at a time.
const STEP: usize = 1 << 20;
/// Longest name of a file or commit that is taken from a server, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// Advice where the Hub refuses.
pub(super) const NEEDS_TOKEN: &str =
    "set HF_TOKEN to a token that may do this; some models also ask for an agreement on their page";
/// Advice where the Hub finds nothing.
pub(super) const CHECK_SPELLING: &str = "check the spelling; what is private needs a token in HF_TOKEN";
/// Advice for all other errors.
pub(super) const TRY_AGAIN: &str = "check the network, HF_ENDPOINT and the status of the Hub, then try again";

/// The files of one repository at one revision.
pub(super) struct Download<'a> {
    address: &'a Address,
    revision: &'a str,
    client: Client,
    endpoint: Url,
    token: Option<String>,
    /// `models--OWNER--NAME` in the cache.
    folder: PathBuf,
}

/// Facts that a server states about a file.
struct Told {
    etag: String,
    commit: String,
    bytes: u64,
}

impl<'a> Download<'a> {
    /// Prepares downloads from the Hub at `endpoint` into the cache `cache`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the address holds names that are no plain ones; [`Error::Model`] if there can be no client.
    pub fn new(
        address: &'a Address,
        endpoint: &str,
        token: Option<String>,
        cache: &Path,
    ) -> Result<Download<'a>> {
        let revision = address.revision.as_deref().unwrap_or(DEFAULT_REVISION);
        let names =
            [Some(address.owner.as_str()), Some(&address.name), Some(revision), address.file.as_deref()];
        if !names.into_iter().flatten().all(is_plain_path) {
            return Err(Error::Usage {
                what: format!("{address} holds a name that is no plain one, such as .."),
                help: "copy the names from the repository's page".to_owned(),
            });
        }
        let endpoint =
            Url::parse(endpoint).map_err(|e| failed(address, format!("{endpoint} is no URL: {e}")))?;
        let client =
            Client::builder().redirect(redirect::Policy::none()).timeout(None).user_agent("rwkv-quant");
        let client =
            client.connect_timeout(Duration::from_secs(30)).build().map_err(|e| network(address, &e))?;
        let folder = cache.join(format!("models--{}--{}", address.owner, address.name));
        Ok(Download { address, revision, client, endpoint, token, folder })
    }

    /// The path of a file in the cache, once it is there.
    ///
    /// # Errors
    /// [`Error::Model`] if the Hub cannot or will not give it, or gives other bytes than it says; [`Error::Io`].
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        self.file_of(name, self.revision)
    }

    /// The path of the repository's folder in the cache, once all files that `is_wanted` are in it.
    ///
    /// # Errors
    /// As [`Download::file`].
    pub fn folder(&self, is_wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
        let url = self.url(
            &["api", "models", &self.address.owner, &self.address.name, "revision", self.revision],
            "",
        )?;
        let mut text = Vec::new();
        let list = self.get(url)?;
        list.take(MAX_LIST_BYTES).read_to_end(&mut text).map_err(|e| failed(self.address, e.to_string()))?;
        let list: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|e| failed(self.address, format!("the Hub's list of files is not understood: {e}")))?;
        let commit = list["sha"].as_str().filter(|sha| is_hex(sha, 40));
        let commit = commit.ok_or_else(|| failed(self.address, "the Hub names no commit".to_owned()))?;
        let names = list["siblings"].as_array().into_iter().flatten().filter_map(|f| f["rfilename"].as_str());
        for name in names.filter(|name| is_wanted(name)) {
            if !is_plain_path(name) {
                return Err(failed(self.address, format!("the Hub lists {name:?}, which is no plain path")));
            }
            self.file_of(name, commit)?;
        }
        Ok(self.folder.join("snapshots").join(commit))
    }

    fn file_of(&self, name: &str, revision: &str) -> Result<PathBuf> {
        let cached =
            |commit: &str| Some(self.folder.join("snapshots").join(commit).join(name)).filter(|p| p.exists());
        if let Some(path) = Some(revision).filter(|r| is_hex(r, 40)).and_then(cached) {
            return Ok(path);
        }
        let url = self.url(&[&self.address.owner, &self.address.name, "resolve", revision], name)?;
        let told = match self.told(name, url.clone()) {
            // Without a network, what was loaded once is still there.
            Err(error @ Error::Io { .. }) => {
                let commit = fs::read_to_string(self.folder.join("refs").join(revision)).unwrap_or_default();
                let commit = Some(commit.trim()).filter(|c| is_hex(c, 40));
                return commit.and_then(cached).ok_or(error);
            }
            told => told?,
        };
        let blob = self.folder.join("blobs").join(&told.etag);
        if !fs::metadata(&blob).is_ok_and(|there| there.len() == told.bytes) {
            self.load(name, url, &told, &blob)?;
        }
        let path = self.folder.join("snapshots").join(&told.commit).join(name);
        link(&blob, &path)?;
        if !is_hex(revision, 40) {
            let reference = self.folder.join("refs").join(revision);
            make_parent(&reference)?;
            fs::write(&reference, &told.commit).map_err(Error::io("write", &reference))?;
        }
        Ok(path)
    }

    /// Facts that the Hub's own host states about a file, even where another one holds it.
    fn told(&self, name: &str, url: Url) -> Result<Told> {
        let (response, _) = self.ask(&Method::HEAD, url, false)?;
        let headers = response.headers();
        let text = |key: &str| header(headers, key);
        let etag = text("x-linked-etag").or_else(|| text(ETAG.as_str())).unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_ascii_lowercase();
        let commit = text("x-repo-commit").unwrap_or_default().to_ascii_lowercase();
        let bytes = text("x-linked-size").or_else(|| text(CONTENT_LENGTH.as_str()));
        let bytes = bytes.and_then(|b| b.parse().ok());
        let is_sum = is_hex(&etag, 64) || is_hex(&etag, 40);
        match bytes.filter(|_| is_sum && is_hex(&commit, 40)) {
            Some(bytes) => Ok(Told { etag, commit, bytes }),
            None => Err(failed(self.address, format!("the Hub does not say which bytes {name} has"))),
        }
    }

    /// Loads a file to `blob`, which gets its name when its bytes are right.
    fn load(&self, name: &str, url: Url, told: &Told, blob: &Path) -> Result<()> {
        make_parent(blob)?;
        let partial = blob.with_file_name(format!("{}.{}.incomplete", told.etag, std::process::id()));
        let _ = fs::remove_file(&partial);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&partial);
        let loaded = match &mut file {
            Ok(file) => self.receive(name, url, told, file, &partial),
            Err(_) => file.map(|_| ()).map_err(Error::io("create", &partial)),
        };
        let named = loaded.and_then(|()| fs::rename(&partial, blob).map_err(Error::io("rename", &partial)));
        named.inspect_err(|_| drop(fs::remove_file(&partial)))
    }

    fn receive(&self, name: &str, url: Url, told: &Told, file: &mut File, partial: &Path) -> Result<()> {
        let mut response = self.get(url)?;
        let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; STEP], 0);
        loop {
            let read = response.read(&mut buffer);
            let read = read.map_err(|e| failed(self.address, format!("{name} breaks off: {e}")))?;
            bytes += read as u64;
            if read == 0 || bytes > told.bytes {
                break;
            }
            hash.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(Error::io("write to", partial))?;
        }
        if bytes != told.bytes {
            let what = format!("{name} has other than the {} bytes that the Hub says", told.bytes);
            return Err(failed(self.address, what));
        }
        let sum: String = hex(&hash.finalize());
        // Small files that are in the repository itself have the hash of git, which covers their length.
        if is_hex(&told.etag, 64) && sum != told.etag {
            let what = format!("{name} has the SHA-256 {sum}, and the Hub says {}", told.etag);
            return Err(failed(self.address, what));
        }
        file.sync_all().map_err(Error::io("flush", partial))
    }

    fn get(&self, url: Url) -> Result<Response> {
        Ok(self.ask(&Method::GET, url, true)?.0)
    }

    /// The answer to a request. Redirects within the Hub are followed, those to other hosts only if `leaves`, without the
    /// token and never from https to http.
    fn ask(&self, method: &Method, mut url: Url, leaves: bool) -> Result<(Response, Url)> {
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask_once(method, &url)?;
            let status = response.status();
            if !status.is_redirection() {
                return match status.is_success() {
                    true => Ok((response, url)),
                    false => Err(refused(self.address, status)),
                };
            }
            let place = header(response.headers(), LOCATION.as_str()).and_then(|place| url.join(place).ok());
            let Some(next) = place else {
                return Err(failed(self.address, format!("the Hub redirects to nowhere ({status})")));
            };
            if !self.is_own(&next) && !leaves {
                return Ok((response, url));
            }
            if next.scheme() != "https" && next.scheme() != self.endpoint.scheme() {
                return Err(failed(
                    self.address,
                    format!("the Hub redirects to {next}, which is not encrypted"),
                ));
            }
            url = next;
        }
        Err(failed(self.address, format!("the Hub redirects more than {MAX_REDIRECTS} times")))
    }

    fn ask_once(&self, method: &Method, url: &Url) -> Result<Response> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let mut request = self.client.request(method.clone(), url.clone());
            if let Some(token) = self.token.as_ref().filter(|_| self.is_own(url)) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let busy = |s: StatusCode| s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS;
            match request.send() {
                Ok(response) if attempt == ATTEMPTS || !busy(response.status()) => return Ok(response),
                Err(e) if attempt == ATTEMPTS || !(e.is_connect() || e.is_timeout()) => {
                    return Err(network(self.address, &e));
                }
                _ => std::thread::sleep(pause),
            }
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    /// True for URLs of the Hub's own host, the only one that may see the token.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// A URL of the Hub: parts that each are one segment, then a path.
    fn url(&self, parts: &[&str], path: &str) -> Result<Url> {
        let mut url = self.endpoint.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(parts).extend(path.split('/').filter(|part| !part.is_empty()));
            }
            Err(()) => return Err(failed(self.address, format!("{} is no URL of a server", self.endpoint))),
        }
        Ok(url)
    }
}

/// The token of the user: from `HF_TOKEN`, a file named by `HF_TOKEN_PATH`, or the one in the Hub's folder.
pub(super) fn token() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let in_file = |path: &Path| fs::read_to_string(path).ok();
    let token = variable("HF_TOKEN").or_else(|| in_file(Path::new(&variable("HF_TOKEN_PATH")?)));
    let token = token.or_else(|| in_file(&hf_hub::hf_home().join("token")))?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// True for relative paths whose parts are names and nothing else, on every system.
fn is_plain_path(path: &str) -> bool {
    let is_name = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
    };
    path.len() <= MAX_NAME_BYTES && path.split('/').all(is_name)
}

/// Makes `path` a link to a blob, or a copy where there are no links.
fn link(blob: &Path, path: &Path) -> Result<()> {
    make_parent(path)?;
    let _ = fs::remove_file(path);
    let deep = path.components().count() - blob.components().count() + 1;
    let made = match cfg!(unix) {
        true => {
            let mut target: PathBuf = std::iter::repeat_n("..", deep).collect();
            target.extend([Path::new("blobs"), Path::new(blob.file_name().unwrap_or_default())]);
            symlink(&target, path)
        }
        false => fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(|_| ())),
    };
    match made {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()), // another run made it meanwhile
        made => made.map_err(Error::io("create", path)),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

fn make_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))
}

fn failed(address: &Address, why: String) -> Error {
    unusable(address, &why, TRY_AGAIN)
}

fn network(address: &Address, error: &reqwest::Error) -> Error {
    // The error alone says only that there was one.
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    let source = std::io::Error::other(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "));
    Error::Io { action: "load", path: PathBuf::from(address.to_string()), source }
}

fn refused(address: &Address, status: StatusCode) -> Error {
    let help = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => NEEDS_TOKEN,
        StatusCode::NOT_FOUND => CHECK_SPELLING,
        _ => TRY_AGAIN,
    };
    unusable(address, &format!("the Hub answers {status}"), help)
}

fn unusable(address: &Address, why: &str, help: &str) -> Error {
    Error::Model {
        path: PathBuf::from(address.to_string()),
        what: format!("cannot be loaded: {why}"),
        help: help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_become_parts_of_paths() {
        for plain in
            ["a", "a/b.pth", "a b", "model-00001-of-00002.safetensors", "..a", "a..", "refs/pr/1", "é"]
        {
            assert!(is_plain_path(plain), "{plain}");
        }
        for other in
            ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "C:a", "a\0", "a\nb"]
        {
            assert!(!is_plain_path(other), "{other:?}");
        }
        assert!(!is_plain_path(&"a".repeat(MAX_NAME_BYTES + 1)));
    }
}
