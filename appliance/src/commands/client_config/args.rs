//! Arguments of `client-config`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::table::CLIENTS;
use crate::args::Where;
use crate::args::values::positive;

/// Arguments of `client-config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run client-config --list
  v4-run client-config codex --ctx 131072
  v4-run client-config opencode --only opencode.json > ~/.config/opencode/opencode.json
  eval \"$(v4-run client-config claude-code --only env --url http://127.0.0.1:9000)\"
  v4-run client-config claude-code --listen unix:/run/v4-run/v4-run.sock

`v4-run serve` prints its context and model name at startup. A smaller context than the
service's is safe: a client that counts tokens then shortens its history earlier.
docs/clients.md says what each client still requests from the network, and how large
its first prompt is.")]
pub struct ClientConfigArgs {
    /// Client to configure
    #[arg(
        required_unless_present = "list",
        value_parser = PossibleValuesParser::new(CLIENTS.iter().map(|c| c.name)),
        hide_possible_values = true
    )]
    pub client: Option<String>,
    /// List the clients
    #[arg(long, conflicts_with_all = ["client", "only"])]
    pub list: bool,
    /// Address of the service
    #[arg(
        long,
        value_name = "http://HOST:PORT",
        default_value = "http://127.0.0.1:8080"
    )]
    pub url: String,
    /// The address as given to `v4-run serve --listen`
    #[arg(long, value_name = "WHERE", conflicts_with = "url")]
    pub listen: Option<Where>,
    /// The model name as given to `v4-run serve --name`
    #[arg(long, value_name = "NAME", default_value = "v4-flash")]
    pub model: String,
    /// Tokens of context available to the client, prompt and answer together
    #[arg(long, visible_alias = "context", value_name = "N", default_value = "65536", value_parser = positive)]
    pub ctx: usize,
    /// API key, if the service requires one
    #[arg(long, value_name = "KEY", conflicts_with = "key_file")]
    pub key: Option<String>,
    /// File whose first line is the API key, such as the service's key file
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print only one part: env, run, or a file name
    #[arg(long, value_name = "PART")]
    pub only: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
