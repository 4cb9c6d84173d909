//! `v4-run render`: the prompt of a request. Its interface is stable, for people who
//! verify this program.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use v4_chat::{ModelVersion, Protocol, Request};

use super::vocabulary::{self, Vocabulary};

/// Longest request read, in bytes.
const MAX_REQUEST: u64 = 256 << 20;

/// Arguments of `v4-run render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// GGUF file, or tokenizer.json with --model-version
    #[arg(value_name = "MODEL|tokenizer.json")]
    pub model: PathBuf,
    /// Protocol of the request
    #[arg(long, value_enum)]
    pub protocol: ProtocolArg,
    /// Prompt format, if MODEL is a tokenizer.json
    #[arg(long, value_enum, value_name = "VERSION")]
    pub model_version: Option<VersionArg>,
    /// JSON request [default: standard input]
    #[arg(value_name = "REQUEST")]
    pub request: Option<PathBuf>,
}

/// A chat protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArg {
    /// OpenAI's Chat Completions.
    Chat,
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Responses.
    Responses,
}

/// The generation of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VersionArg {
    /// V4 (Flash and Pro).
    V4,
    /// V4.1.
    V41,
}

/// Reads a request and prints its prompt and ids, or the protocol's error (exit code
/// 1).
pub fn run(args: RenderArgs) -> anyhow::Result<ExitCode> {
    let out = io::stdout().lock();
    match &args.request {
        None => render(&args, io::stdin().lock(), "standard input", out),
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| name.clone())?;
            render(&args, file, &name, out)
        }
    }
}

fn render(
    args: &RenderArgs,
    input: impl Read,
    name: &str,
    mut output: impl Write,
) -> anyhow::Result<ExitCode> {
    let vocabulary = vocabulary::load(&args.model)?;
    let version = version(args, &vocabulary)?;
    let mut body = Vec::new();
    input
        .take(MAX_REQUEST + 1)
        .read_to_end(&mut body)
        .with_context(|| name.to_owned())?;
    if body.len() as u64 > MAX_REQUEST {
        bail!("{name}: larger than {MAX_REQUEST} bytes; give a shorter request");
    }
    let protocol = match args.protocol {
        ProtocolArg::Chat => Protocol::Chat,
        ProtocolArg::Messages => Protocol::Messages,
        ProtocolArg::Responses => Protocol::Responses,
    };
    let (answer, code) = match Request::parse(protocol, version, &body) {
        Ok(request) => {
            let rendered = request
                .render(&vocabulary.tokenizer)
                .with_context(|| args.model.display().to_string())?;
            let answer = json!({"prompt": rendered.prompt, "ids": rendered.ids});
            (answer, ExitCode::SUCCESS)
        }
        Err(error) => (error.body, ExitCode::FAILURE),
    };
    serde_json::to_writer(&mut output, &answer).map_err(io::Error::from)?;
    output.write_all(b"\n")?;
    output.flush()?;
    Ok(code)
}

/// The format's version: a model file says it, a `tokenizer.json` does not.
fn version(args: &RenderArgs, vocabulary: &Vocabulary) -> anyhow::Result<ModelVersion> {
    let name = args.model.display();
    let given = args.model_version.map(|version| match version {
        VersionArg::V4 => ModelVersion::V4,
        VersionArg::V41 => ModelVersion::V41,
    });
    let Some(architecture) = &vocabulary.architecture else {
        return given.with_context(|| {
            format!(
                "{name}: a tokenizer.json does not name its model; add --model-version v4 or v41"
            )
        });
    };
    let own = ModelVersion::from_architecture(architecture).with_context(|| name.to_string())?;
    if given.is_some_and(|given| given != own) {
        bail!("{name}: the model's architecture is {architecture}; leave out --model-version");
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn args(protocol: ProtocolArg, model_version: Option<VersionArg>) -> RenderArgs {
        RenderArgs {
            model: vocabulary::tests::tiny(),
            protocol,
            model_version,
            request: None,
        }
    }

    fn answer(protocol: ProtocolArg, body: &Value) -> (Value, ExitCode) {
        let mut out = Vec::new();
        let args = args(protocol, Some(VersionArg::V4));
        let code = render(&args, body.to_string().as_bytes(), "in", &mut out).unwrap();
        (serde_json::from_slice(&out).unwrap(), code)
    }

    #[test]
    fn a_request_of_each_protocol_gives_its_prompt_and_ids() {
        let expected = "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>";
        let messages = json!([{"role": "user", "content": "Hi"}]);
        let off = json!({"type": "disabled"});
        for (protocol, body) in [
            (
                ProtocolArg::Chat,
                json!({"model": "x", "messages": messages, "thinking": off}),
            ),
            (
                ProtocolArg::Messages,
                json!({"model": "x", "messages": messages, "max_tokens": 9, "thinking": off}),
            ),
            (
                ProtocolArg::Responses,
                json!({"model": "x", "input": "Hi", "reasoning": {"effort": "none"}}),
            ),
        ] {
            let (answer, code) = answer(protocol, &body);
            assert_eq!(answer["prompt"], expected, "{protocol:?}");
            let ids = answer["ids"].as_array().unwrap();
            assert_eq!(ids[0], 0);
            assert_eq!(answer.as_object().unwrap().len(), 2);
            assert_eq!(code, ExitCode::SUCCESS);
        }
    }

    #[test]
    fn a_refused_request_gives_the_protocols_error_and_code_1() {
        let (answer, code) = answer(ProtocolArg::Chat, &json!({"model": "x", "messages": 3}));
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert_eq!(code, ExitCode::FAILURE);
    }

    #[test]
    fn a_tokenizer_json_needs_the_version() {
        let error = render(
            &args(ProtocolArg::Chat, None),
            io::empty(),
            "in",
            io::sink(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("--model-version"), "{error}");
    }
}
