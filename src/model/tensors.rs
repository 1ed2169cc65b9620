//! Files of any architecture as a list of tensors, of which nothing is known but how they are stored.

use formats::Container;

use super::{
    Body, Dims, Dropped, Model, ModelTensor, NAMINGS, TensorSpec, TensorView, Version, ZeroRule,
    detect::wildcard,
};
use crate::error::{Error, Result};

/// Stand-in for the version of such a file.
static TENSORS: Version = Version {
    name: "none",
    about: "a list of tensors of an unknown architecture",
    body: Body::Unknown,
    ..Version::PLAIN
};

impl Model {
    /// All tensors of a container in file order, under their names there, but for those whose names match a pattern of
    /// `drop`. No runtime runs such a model; its tensors can be stored in other files and types.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor holds no weights.
    pub fn of_tensors(container: Container, drop: &[String]) -> Result<Model> {
        let rule = |name: &str| drop.iter().find(|pattern| wildcard(pattern, name));
        let (mut tensors, mut dropped) = (Vec::new(), Vec::new());
        for (i, tensor) in container.tensors().iter().enumerate() {
            if let Some(pattern) = rule(&tensor.name) {
                dropped.push(Dropped { name: tensor.name.clone(), rule: format!("--drop {pattern}") });
                continue;
            }
            let cannot = |what: String| Error::Tensor {
                path: container.path().to_owned(),
                tensor: tensor.name.clone(),
                what,
                help: format!("leave it out: --drop {:?}", tensor.name),
            };
            let values = TensorView::of(&container, i)
                .ok_or_else(|| cannot(format!("holds {}, which are no weights", tensor.encoding)))?;
            if tensor.name.contains("{}") {
                return Err(cannot("has {} in its name, which stands for the number of a block".to_owned()));
            }
            // A spec lives as long as the program, as those of the versions do; a name is as long as in the file.
            let name: &'static str = Box::leak(tensor.name.clone().into_boxed_str());
            let spec = Box::leak(Box::new(TensorSpec::model(name, ZeroRule::of_tensor(tensor).role(), &[])));
            tensors.push(ModelTensor { spec, layer: 0, values });
        }
        Ok(Model {
            container,
            version: &TENSORS,
            naming: &NAMINGS[0],
            prefix: String::new(),
            dims: Dims::default(),
            ranks: Vec::new(),
            tensors,
            dropped,
            adapters: Vec::new(),
            state: None,
        })
    }
}
