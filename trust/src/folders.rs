//! Folders of the system.

/// Where an administrator puts the trusted public keys.
pub const KEYS_FOLDER: &str = "/etc/v4-run/keys";
