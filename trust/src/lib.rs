//! Checks who made a model file, and whether it has been altered.
//!
//! Next to `model.gguf` are
//!
//! - `model.gguf.manifest`: JSON for people and programs, with BLAKE3 of the whole file,
//!   of every tensor, and of the list of block hashes;
//! - `model.gguf.hashes`: that list, 32 bytes per block, by which a block can be checked
//!   alone, before it is used;
//! - `model.gguf.manifest.minisig`: a signature of the manifest in minisign's format,
//!   which the stock `minisign -V` checks as well.
//!
//! [`measure`] makes the first two, [`sign`] the third. [`check`] is what every program
//! asks before it opens a model.
//!
//! ```no_run
//! use v4_trust::{Keys, Policy, Verify, check};
//!
//! let mut keys = Keys::default();
//! keys.add("release.pub")?;
//! let policy = Policy { keys, require_signed: true, verify: Verify::BeforeUse };
//! let trusted = check("model.gguf".as_ref(), &policy, &|_, _| true)?;
//! // Give `trusted.hashes` to `v4_runtime::EngineOptions::hashes`.
//! println!("{trusted}");
//! # Ok::<(), v4_trust::TrustError>(())
//! ```

#![forbid(unsafe_code)]

mod adapter;
mod error;
mod files;
mod folders;
mod hash;
mod manifest;
mod measure;
mod policy;
mod signature;

pub use adapter::{AdapterFiles, adapter_manifest, check_adapter, measure_adapter};
pub use error::TrustError;
pub use files::{Beside, replace};
pub use folders::KEYS_FOLDER;
pub use hash::HexHash;
pub use manifest::{BlockFacts, FileFacts, MANIFEST_FORMAT, Manifest, TensorFacts};
pub use measure::{Measured, Progress, measure, verify_blocks};
pub use policy::{Policy, Signer, Trusted, Verify, check};
pub use signature::{Keys, SecretKey, new_key_pair, sign};
