//! Replaces the `hf-hub` crate, which downloads files over HTTP.
//!
//! Nothing in this project downloads anything, but `tokenizers` is compiled
//! with its `http` feature by `deepseek-recipe`, which would link an HTTP and a
//! TLS client. This crate has just the names that `tokenizers` mentions; every
//! call that would need the network returns [`Offline`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fmt;

/// The only answer this crate gives: there is no network client here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offline;

impl fmt::Display for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this program has no network client: pass a local tokenizer.json")
    }
}

impl std::error::Error for Offline {}

/// Kinds of hub repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoType {
    /// A model.
    Model,
    /// A data set.
    Dataset,
    /// A space.
    Space,
}

/// Names a hub repository.
#[derive(Debug, Clone)]
pub struct Repo;

impl Repo {
    /// Accepts and forgets the name.
    #[must_use]
    pub fn with_revision(_id: String, _kind: RepoType, _revision: String) -> Self {
        Self
    }
}

/// The blocking interface.
pub mod api {
    /// The blocking interface.
    pub mod sync {
        use super::super::{Offline, Repo};
        use std::path::PathBuf;

        /// Builds an [`Api`]; never succeeds.
        #[derive(Debug)]
        pub struct ApiBuilder;

        impl ApiBuilder {
            /// Reads no environment variable.
            #[must_use]
            pub fn from_env() -> Self {
                Self
            }

            /// Drops the token.
            #[must_use]
            pub fn with_token(self, _token: Option<String>) -> Self {
                self
            }

            /// # Errors
            /// Always [`Offline`].
            pub fn build(self) -> Result<Api, Offline> {
                Err(Offline)
            }
        }

        /// Cannot be constructed outside this module.
        #[derive(Debug)]
        pub struct Api(());

        impl Api {
            /// Cannot be reached, as no [`Api`] exists.
            #[must_use]
            pub fn repo(&self, _repo: Repo) -> ApiRepo {
                ApiRepo(())
            }
        }

        /// Cannot be constructed outside this module.
        #[derive(Debug)]
        pub struct ApiRepo(());

        impl ApiRepo {
            /// # Errors
            /// Always [`Offline`].
            pub fn get(&self, _file: &str) -> Result<PathBuf, Offline> {
                Err(Offline)
            }
        }
    }
}
