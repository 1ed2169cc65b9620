//! Source of a view: its stored tensor.

use std::sync::Arc;

use formats::{Container, Tensor};

/// Stored tensor, by container and number.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Number so many of the container that is read.
    Own(usize),
    /// Number so many of another container: one that an adapter brought.
    Other(Arc<Container>, usize),
}

impl Source {
    /// The container and the tensor, if `own` is the container that is read.
    pub fn resolve<'a>(&'a self, own: &'a Container) -> (&'a Container, &'a Tensor) {
        let (container, i) = match self {
            Source::Own(i) => (own, *i),
            Source::Other(container, i) => (container.as_ref(), *i),
        };
        (container, &container.tensors()[i])
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::Own(a), Source::Own(b)) => a == b,
            (Source::Other(a, i), Source::Other(b, k)) => Arc::ptr_eq(a, b) && i == k,
            _ => false,
        }
    }
}
