//! The models that clients can select: the plain model, and the model with adapters.

use std::sync::Arc;

use v4_runtime::Adapter;

use crate::http::{ApiError, Kind};

/// Stands between the names of adapters that are wanted together.
const AND: char = '+';

/// What model names stand for.
#[derive(Debug)]
pub(crate) struct Models {
    plain: String,
    adapters: Vec<Arc<Adapter>>,
}

impl Models {
    /// The model's own name, and its adapters.
    pub fn new(plain: String, adapters: Vec<Arc<Adapter>>) -> Self {
        Self { plain, adapters }
    }

    /// The names that are listed, the plain model's first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let adapters = self.adapters.iter().map(|a| a.name());
        std::iter::once(&*self.plain).chain(adapters)
    }

    /// The adapters that a name stands for, in the order in which they are loaded: `a`, or
    /// `a+b` for both together.
    ///
    /// # Errors
    /// A name that stands for nothing here.
    pub fn find(&self, name: &str) -> Result<Vec<Arc<Adapter>>, ApiError> {
        if name == self.plain {
            return Ok(Vec::new());
        }
        let wanted: Vec<&str> = name.split(AND).collect();
        let known = |name: &&str| self.adapters.iter().any(|a| a.name() == *name);
        if !wanted.iter().all(known) {
            let names: Vec<_> = self.names().map(|name| format!("{name:?}")).collect();
            return Err(ApiError::new(
                Kind::NotFound,
                format!(
                    "The model {name:?} does not exist; available: {}.",
                    names.join(", ")
                ),
            ));
        }
        let all = self.adapters.iter();
        Ok(all
            .filter(|adapter| wanted.contains(&adapter.name()))
            .map(Arc::clone)
            .collect())
    }

    /// The adapters of a request. Where there are none to choose among, clients may call the
    /// model what they like: many have a name built in.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn of_request(&self, name: Option<&str>) -> Result<Vec<Arc<Adapter>>, ApiError> {
        match name {
            Some(name) if !self.adapters.is_empty() && !name.is_empty() => self.find(name),
            _ => Ok(Vec::new()),
        }
    }
}
