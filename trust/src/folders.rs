//! Folders of the system.

/// Where an administrator puts the public keys that are trusted.
pub const KEYS_FOLDER: &str = "/etc/v4-run/keys";
