//! The Hub's client: the crate `hf-hub`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::repository::{AddSource, CommitOperation};
use hf_hub::{HFClientSync, HFError, RepoTypeModel};

use super::Address;
use crate::error::{Error, Result};

/// What a folder of a model consists of.
const FOLDER: &[&str] = &["*.safetensors", "*.json", "*.txt", "*.py", "*.md"];

/// Where the file or the repository is in the cache, once it is there.
pub(super) fn load(address: &Address) -> Result<PathBuf> {
    let failed = |e: HFError| failed(address, "be loaded", &e);
    let repository = client(address)?.model(&address.owner, &address.name);
    let revision = address.revision.clone();
    match &address.file {
        Some(file) => {
            repository.download_file().filename(file).maybe_revision(revision).send().map_err(failed)
        }
        None => {
            let patterns = FOLDER.iter().map(ToString::to_string).collect();
            repository
                .snapshot_download()
                .allow_patterns(patterns)
                .maybe_revision(revision)
                .send()
                .map_err(failed)
        }
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
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            "set HF_TOKEN to a token that may do this; some models also ask for an agreement on their page"
        }
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            "check the spelling; what is private needs a token in HF_TOKEN"
        }
        _ => "check the network, HF_ENDPOINT and the status of the Hub, then try again",
    };
    Error::Model {
        path: PathBuf::from(address.to_string()),
        what: format!("cannot {action}: {error}"),
        help: help.to_owned(),
    }
}
