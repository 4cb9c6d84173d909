//! Arguments for sessions on disk.

use std::path::PathBuf;

use clap::Args;

use super::values::size;

/// Arguments for what is kept between runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Session")]
pub struct SessionArgs {
    /// Save the session under NAME and continue from it: the part of a prompt that matches its
    /// beginning is not computed again. A NAME with a slash is a path
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Encrypt sessions with the key in FILE: 32 bytes or 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub session_key: Option<PathBuf>,
    /// Disk space for all sessions; those unused longest are deleted first
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "32G")]
    pub session_limit: usize,
    /// Do not reuse another session that begins like the prompt
    #[arg(long)]
    pub no_reuse: bool,
}
