//! Arguments of sessions on the disk.

use std::path::PathBuf;

use clap::Args;

use super::values::size;

/// Arguments of what is kept from run to run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Session")]
pub struct SessionArgs {
    /// Keep what was read and said under NAME, and go on from there: what a prompt has in common
    /// with it at its beginning is not read again. A path if it has a slash in it
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Encrypt sessions with the key in FILE: 32 bytes or 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub session_key: Option<PathBuf>,
    /// Most that sessions may take on the disk together; those unused for longest are deleted
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "32G")]
    pub session_limit: usize,
    /// Do not look for another session that begins like the prompt
    #[arg(long)]
    pub no_reuse: bool,
}
