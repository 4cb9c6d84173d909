//! `v4-run client-config`: prints the settings that connect published clients to the
//! service.
//!
//! It only prints. It does not check whether a service answers there: nothing in this
//! repository contains a network client.

mod args;
mod service;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use super::print_json;
pub use args::ClientConfigArgs;
use service::Service;
use table::{CLIENTS, Client, Content};

/// Runs the command.
pub fn run(args: ClientConfigArgs) -> anyhow::Result<ExitCode> {
    let Some(name) = &args.client else {
        return list(args.json);
    };
    let service = Service::new(&args)?;
    let client = CLIENTS
        .iter()
        .find(|c| c.name == name)
        .expect("clap takes names of the table only");
    let parts = fill(client, &service)?;
    let parts = match &args.only {
        Some(only) => vec![one_of(parts, only)?],
        None => parts,
    };
    if args.json {
        let parts: Vec<_> = parts.iter().map(Filled::json).collect();
        print_json(&json!({
            "client": client.name,
            "title": client.title,
            "tried": client.tried,
            "parts": parts,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    match (&args.only, parts.first()) {
        (Some(_), Some(part)) => out.write_all(part.text.as_bytes())?,
        _ => out.write_all(whole(client, &service, &parts).as_bytes())?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let all: Vec<_> = CLIENTS
            .iter()
            .map(|c| json!({"client": c.name, "title": c.title, "tried": c.tried}))
            .collect();
        print_json(&json!(all))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    for client in CLIENTS {
        let tried = client.tried.unwrap_or("not run: from its documentation");
        writeln!(out, "{:<16} {} ({tried})", client.name, client.title)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A part with the service's values in it.
struct Filled {
    /// By which `--only` finds it.
    name: String,
    /// What a reader is told about it.
    heading: String,
    /// Where it goes, if it is a file.
    path: Option<&'static str>,
    text: String,
}

impl Filled {
    fn json(&self) -> serde_json::Value {
        json!({"name": self.name, "path": self.path, "text": self.text})
    }
}

fn fill(client: &Client, service: &Service) -> anyhow::Result<Vec<Filled>> {
    if service.socket.is_some() && client.socket.is_none() {
        bail!(
            "--listen: {} cannot connect to a Unix socket; make the service also listen on \
             127.0.0.1:8080, and use --url",
            client.title
        );
    }
    let fill_one = |part: &table::Part| match part.content {
        Content::Env(text) => {
            let mut lines = service.fill(text);
            if let (Some(socket), Some(variable)) = (&service.socket, client.socket) {
                lines.push_str(&format!("{variable}={socket}\n"));
            }
            let text = lines.lines().map(|l| format!("export {l}\n")).collect();
            ("env".to_owned(), "environment".to_owned(), None, text)
        }
        Content::File(path, text) => {
            let name = path.rsplit('/').next().unwrap_or(path);
            (
                service.fill(name),
                format!("file {path}"),
                Some(path),
                service.fill(text),
            )
        }
        Content::Run(text) => ("run".to_owned(), "run".to_owned(), None, service.fill(text)),
    };
    Ok(client
        .parts
        .iter()
        .map(|part| {
            let (name, mut heading, path, text) = fill_one(part);
            if !part.note.is_empty() {
                heading = format!("{heading}: {}", part.note);
            }
            Filled {
                name,
                heading,
                path,
                text,
            }
        })
        .collect())
}

fn one_of(parts: Vec<Filled>, only: &str) -> anyhow::Result<Filled> {
    let names: Vec<_> = parts.iter().map(|p| p.name.clone()).collect();
    match parts.into_iter().find(|p| p.name == only) {
        Some(part) => Ok(part),
        None => bail!(
            "--only {only}: no such part; choose from {}",
            names.join(", ")
        ),
    }
}

/// All parts, with headings in comments.
fn whole(client: &Client, service: &Service, parts: &[Filled]) -> String {
    let tried = match client.tried {
        Some(version) => format!("tried with {version}"),
        None => "not run, from its documentation".to_owned(),
    };
    let mut text = format!(
        "# {}, {tried}; for {} at {}, {} tokens of context.\n",
        client.title, service.model, service.address, service.context
    );
    for part in parts {
        text.push_str(&format!("\n# == {}\n", part.heading));
        text.push_str(&part.text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service {
            url: "http://127.0.0.1:8080".into(),
            address: "http://127.0.0.1:8080".into(),
            socket: None,
            model: "sql+v4-flash".into(),
            context: 131_072,
            key: "a-key-of-the-service".into(),
        }
    }

    #[test]
    fn every_json_and_toml_file_is_well_formed_and_has_all_values() {
        for client in CLIENTS {
            let parts = fill(client, &service()).unwrap();
            let all: String = parts.iter().map(|p| p.text.as_str()).collect();
            assert!(all.contains("127.0.0.1:8080"), "{}", client.name);
            assert!(all.contains("sql+v4-flash"), "{}", client.name);
            for part in &parts {
                let place = format!("{}: {}", client.name, part.name);
                assert!(part.text.ends_with('\n'), "{place}");
                for left in ["@URL@", "@MODEL@", "@CTX@", "@OUTPUT@", "@KEY@"] {
                    assert!(!part.text.contains(left), "{place}: {left}");
                }
                if part.name.ends_with(".json") {
                    serde_json::from_str::<serde_json::Value>(&part.text).expect(&place);
                }
                if part.name.ends_with(".toml") {
                    toml::from_str::<toml::Table>(&part.text).expect(&place);
                }
                if part.name == "env" {
                    for line in part.text.lines() {
                        let set = line.strip_prefix("export ").expect(&place);
                        assert!(set.split_once('=').is_some_and(|(n, v)| !n.is_empty()
                            && !v.is_empty()
                            && !v.contains(' ')));
                    }
                }
            }
        }
    }

    #[test]
    fn names_of_clients_and_of_their_parts_are_unique() {
        for (i, client) in CLIENTS.iter().enumerate() {
            assert!(CLIENTS[..i].iter().all(|c| c.name != client.name));
            let parts = fill(client, &service()).unwrap();
            for (j, part) in parts.iter().enumerate() {
                assert!(
                    parts[..j].iter().all(|p| p.name != part.name),
                    "{}",
                    part.name
                );
            }
        }
    }

    #[test]
    fn a_socket_is_for_clients_that_know_sockets() {
        let mut service = service();
        service.socket = Some("/run/v4.sock".into());
        for client in CLIENTS {
            match fill(client, &service) {
                Ok(parts) => assert!(parts[0].text.contains("=/run/v4.sock\n"), "{}", client.name),
                Err(error) => assert!(error.to_string().contains("Unix socket")),
            }
        }
    }

    #[test]
    fn a_part_that_is_not_there_is_answered_with_those_that_are() {
        let codex = CLIENTS.iter().find(|c| c.name == "codex").unwrap();
        let parts = fill(codex, &service()).unwrap();
        let error = one_of(parts, "env").err().unwrap().to_string();
        assert!(error.contains("config.toml, v4-models.json"), "{error}");
    }

    #[test]
    fn claude_code_as_it_is_printed() {
        let client = CLIENTS.iter().find(|c| c.name == "claude-code").unwrap();
        let parts = fill(client, &service()).unwrap();
        let text = whole(client, &service(), &parts);
        let first = text.lines().next().unwrap();
        assert!(
            first.ends_with("for sql+v4-flash at http://127.0.0.1:8080, 131072 tokens of context."),
            "{first}"
        );
        for line in [
            "export ANTHROPIC_BASE_URL=http://127.0.0.1:8080",
            "export ANTHROPIC_AUTH_TOKEN=a-key-of-the-service",
            "export CLAUDE_CODE_MAX_OUTPUT_TOKENS=16384",
            "export CLAUDE_CODE_MAX_CONTEXT_TOKENS=131072",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }
}
