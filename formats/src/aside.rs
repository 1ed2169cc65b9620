//! Weights that a file holds beside those that are read of it.

/// Choice among several state dicts of a file: the one that is read, and those that are left aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAside {
    /// The dict that is read, as Python finds it in the file: `["model"]`; empty for the outermost one.
    pub taken: String,
    /// The other dicts with tensors in them: `["ema"]`.
    pub others: Vec<String>,
}

impl LeftAside {
    /// The Python that saves one of the dicts alone, so that it can be converted.
    pub fn how_to_take(dict: &str) -> String {
        format!("torch.save(torch.load(path, weights_only=True){dict}, new_path)")
    }
}
