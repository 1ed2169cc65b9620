//! The Hub's client: downloads of our own, uploads by the crate `hf-hub`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::repository::{AddSource, CommitOperation};
use hf_hub::{HFClientSync, HFError, RepoTypeModel};

use super::Address;
use super::download::{self, CHECK_SPELLING, Download, NEEDS_TOKEN, TRY_AGAIN};
use crate::error::{Error, Result};

/// The Hub, unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";
/// Extensions of what a folder of a model consists of.
const FOLDER: &[&str] = &["safetensors", "json", "txt", "py", "md"];

/// Loads the file or the repository into the cache; gives its path there.
pub(super) fn load(address: &Address) -> Result<PathBuf> {
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty());
    let endpoint = endpoint.as_deref().unwrap_or(ENDPOINT);
    let download = Download::new(address, endpoint, download::token(), &hf_hub::resolve_cache_dir())?;
    match &address.file {
        Some(file) => download.file(file),
        None => download.folder(|name| {
            let extension = Path::new(name).extension().and_then(|e| e.to_str());
            extension.is_some_and(|e| FOLDER.contains(&e))
        }),
    }
}

/// Puts `files` of a folder into a repository, in one commit, whose address is given back. The repository is made if
/// `create` says so, and whether it is private.
pub(super) fn commit(
    folder: &Path,
    files: &BTreeSet<String>,
    address: &Address,
    create: Option<bool>,
    message: &str,
) -> Result<String> {
    let failed = |e: HFError| failed(address, "be written", &e);
    let client = client(address)?;
    if let Some(private) = create {
        let id = format!("{}/{}", address.owner, address.name);
        let repository = client.create_repository().repo_id(&id).repo_type(RepoTypeModel);
        repository.private(private).exist_ok(true).send().map_err(failed)?;
    }
    let repository = client.model(&address.owner, &address.name);
    let add = |name: &String| CommitOperation::Add {
        path_in_repo: address.file.as_ref().map_or(name.clone(), |place| format!("{place}/{name}")),
        source: AddSource::File(folder.join(name)),
    };
    let upload = repository.create_commit().operations(files.iter().map(add).collect::<Vec<_>>());
    let upload = upload.commit_message(message).maybe_revision(address.revision.clone());
    let done = upload.send().map_err(failed)?;
    Ok(done.commit_url.unwrap_or_else(|| address.to_string()))
}

fn client(address: &Address) -> Result<HFClientSync> {
    HFClientSync::new().map_err(|e| failed(address, "be reached", &e))
}

fn failed(address: &Address, action: &str, error: &HFError) -> Error {
    let help = match error {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => NEEDS_TOKEN,
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            CHECK_SPELLING
        }
        _ => TRY_AGAIN,
    };
    Error::Model {
        path: PathBuf::from(address.to_string()),
        what: format!("cannot {action}: {error}"),
        help: help.to_owned(),
    }
}
