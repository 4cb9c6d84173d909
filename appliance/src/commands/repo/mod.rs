//! `v4-run repo`: answers questions about a source tree.

mod ignored;
mod walk;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use v4_chat::Turn;
use v4_files::gguf::GgufFile;
use v4_runtime::{Engine, EngineError, Hooks, Want};
use v4_tokenizer::{Marks, Tokenizer};
use walk::{Filter, LeftOut, SourceFile, walk};

use super::one_shot::OneShot;
use super::print_json;
use crate::args::values::{MAX_CONTEXT, positive, size};
use crate::args::{GenerationArgs, PromptArgs};
use crate::detokenizer::Detokenizer;
use crate::interrupt::{self, Busy, EXIT_INTERRUPTED};
use crate::output::{Notes, one_line};
use crate::session_files::SessionFiles;
use crate::{conversation, model, options};

/// Room for the question and its answer if the context is not given.
const ROOM: usize = 4096;

/// How files are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// Path and text, as people paste them into a chat.
    Plain,
    /// The tokenizer's marks for repositories and files.
    Marks,
}

/// The order in which files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Least recently changed first: edited files come last, and those before them are not
    /// read again.
    Age,
    /// By path; the same on every machine.
    Path,
}

/// Arguments of `repo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run repo model.gguf src -p \"Where are sessions written?\"
  v4-run repo model.gguf . --count
  v4-run repo model.gguf . --order path --max-file 64K -p \"List the public types.\"

Reads a source tree and answers the question. Files that .gitignore names, files that
are not text and files larger than --max-file are left out. The tree is saved in a
session named after it: the next question starts from there, and after an edit only
the edited file and those after it are read again.

Files are separated by plain paths, as people paste them into a chat, because chat
models are trained on that. --layout marks uses the tokenizer's marks for repositories
instead. A tree that does not fit the context is refused; --trim leaves out the
longest files until it fits, and names them.")]
pub struct RepoArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Root folder of the source tree
    pub folder: PathBuf,
    /// Question to answer
    #[arg(short, long, value_name = "TEXT", required_unless_present = "count")]
    pub prompt: Option<String>,
    /// Only count tokens per folder, without running the model
    #[arg(long)]
    pub count: bool,
    /// How files are separated
    #[arg(long, value_enum, default_value = "plain")]
    pub layout: Layout,
    /// Order in which files are read
    #[arg(long, value_enum, default_value = "age")]
    pub order: Order,
    /// Leave out files larger than SIZE
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256K")]
    pub max_file: usize,
    /// Also read hidden files
    #[arg(long)]
    pub hidden: bool,
    /// Tokens between the points from which a session can continue: fewer mean less to read again
    /// after an edit, more mean less disk space
    #[arg(long, value_name = "N", value_parser = positive, default_value = "2048")]
    pub group: usize,
    /// Leave out the longest files until the rest fits the context
    #[arg(long)]
    pub trim: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
    /// Do not print progress or statistics to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// The chat prompt around it.
    #[command(flatten)]
    pub chat: PromptArgs,
    /// How text is generated.
    #[command(flatten)]
    pub generation: GenerationArgs,
}

/// A file and its tokens.
struct Encoded {
    path: String,
    ids: Vec<u32>,
}

/// Runs the command.
pub fn run(mut args: RepoArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    model::check_is_file(&args.model)?;
    let root = args
        .folder
        .canonicalize()
        .with_context(|| args.folder.display().to_string())?;
    let filter = Filter {
        most_bytes: args.max_file as u64,
        hidden: args.hidden,
    };
    let (mut files, left_out) = walk(&root, &filter)?;
    sort(&mut files, args.order);
    if !args.count {
        warn(&left_out);
    }
    if files.is_empty() {
        let unread = match left_out.unreadable {
            0 => String::new(),
            n => format!(" ({n} files cannot be read)"),
        };
        bail!("{}: contains no text files{unread}", args.folder.display());
    }
    if args.count {
        let file = GgufFile::open(&args.model)?;
        let tokenizer = Tokenizer::from_gguf(file.metadata())
            .with_context(|| args.model.display().to_string())?;
        let files = encode(&tokenizer, &files, args.layout)?;
        print_counts(&files, &left_out, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let engine = model::open_to_generate(&args.model, &args.generation, notes)?;
    let mut encoded = encode(engine.tokenizer(), &files, args.layout)?;
    let name = root
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or("repository");
    let around = Around::new(&args, &engine, name)?;
    let model_max = engine.config().context_length;
    let context = args
        .generation
        .length
        .ctx
        .unwrap_or(model_max)
        .min(model_max);
    let room = args.generation.length.max_tokens.unwrap_or(ROOM).min(ROOM);
    fit(&mut encoded, around.len() + room, context, &args, notes)?;

    let session = match &args.generation.sessions.session {
        Some(name) => name.clone(),
        None => format!("repo-{}-{:08x}", plain(name), hash(&root)),
    };
    let (ids, ends) = around.whole(&encoded);
    // Only as much as needed, so that memory is not set aside for a million tokens.
    let asked = args.generation.length.ctx.filter(|&ctx| ctx != MAX_CONTEXT);
    let context = asked.unwrap_or((ids.len() + room).min(model_max));
    let sessions = SessionFiles::new(&args.generation.sessions)?;
    let ahead = Ahead {
        ids: &ids,
        ends: &ends,
        context,
    };
    if read_ahead(&args, &engine, &sessions, &session, &ahead, notes)?.is_break() {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    args.generation.length.ctx = Some(context);
    let conversation = around.conversation;
    let tokenizer = engine.tokenizer();
    OneShot {
        args: &args.generation,
        sessions: &sessions,
        session: Some(&session),
        json: args.json,
        raw: false,
        notes,
    }
    .run(
        &engine,
        &ids,
        Detokenizer::chat(
            conversation.reply_parser(tokenizer),
            &args.generation.length.stop,
        ),
    )
}

/// Reports files that could not be read, even with --quiet: the answer ignores them.
fn warn(left_out: &LeftOut) {
    for line in unread(left_out) {
        // A closed standard error is not a reason to stop working.
        let _ = writeln!(io::stderr(), "v4-run: {line}");
    }
}

/// Files that could not be read, one per line.
fn unread(left_out: &LeftOut) -> Vec<String> {
    let named = left_out.named.iter();
    let mut lines: Vec<String> = named
        .map(|unread| {
            let path = if unread.path.is_empty() {
                "."
            } else {
                &unread.path
            };
            one_line(&format!("not read: {path}: {}", unread.reason))
        })
        .collect();
    if left_out.more > 0 {
        lines.push(format!("not read: {} more", left_out.more));
    }
    lines
}

fn sort(files: &mut [SourceFile], order: Order) {
    match order {
        Order::Path => files.sort_by(|a, b| a.path.cmp(&b.path)),
        Order::Age => files.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path))),
    }
}

/// Encodes each file by itself, so that its tokens do not depend on its neighbours.
fn encode(
    tokenizer: &Tokenizer,
    files: &[SourceFile],
    layout: Layout,
) -> anyhow::Result<Vec<Encoded>> {
    let mark = |mark: &str| {
        tokenizer
            .mark(mark)
            .with_context(|| format!("the tokenizer has no {mark}; use --layout plain"))
    };
    files
        .iter()
        .map(|file| {
            let text = |text: &str| tokenizer.encode(text, Marks::Plain);
            let ids = match layout {
                Layout::Plain => text(&format!("{}\n```\n{}\n```\n\n", file.path, file.text))?,
                Layout::Marks => {
                    let mut ids = vec![mark("<｜begin▁of▁file▁name｜>")?];
                    ids.extend(text(&file.path)?);
                    ids.push(mark("<｜end▁of▁file▁name｜>")?);
                    ids.push(mark("<｜begin▁of▁file｜>")?);
                    ids.extend(text(&file.text)?);
                    ids.push(mark("<｜end▁of▁file｜>")?);
                    ids
                }
            };
            Ok(Encoded {
                path: file.path.clone(),
                ids,
            })
        })
        .collect()
}

/// The chat prompt before and after the files.
struct Around {
    before: Vec<u32>,
    after: Vec<u32>,
    conversation: v4_chat::Conversation,
}

impl Around {
    fn new(args: &RepoArgs, engine: &Engine, name: &str) -> anyhow::Result<Self> {
        let tokenizer = engine.tokenizer();
        let mut conversation = conversation::new(engine, options::thinking(&args.chat))?;
        let system = args.chat.system.clone().map(Turn::System);
        conversation.turns.extend(system);
        let question = args.prompt.clone().unwrap_or_default();
        conversation.turns.push(Turn::User(question));
        let ids = conversation.render(tokenizer)?.ids;
        let user = tokenizer
            .mark("<｜User｜>")
            .context("the tokenizer has no <｜User｜> mark")?;
        let at = ids.iter().rposition(|&id| id == user);
        let at = at.context("the prompt has no user message")? + 1;
        let mut before = ids[..at].to_vec();
        if args.layout == Layout::Marks {
            for (mark, text) in [
                ("<｜begin▁of▁repo▁name｜>", name),
                ("<｜end▁of▁repo▁name｜>", ""),
            ] {
                before.push(
                    tokenizer.mark(mark).with_context(|| {
                        format!("the tokenizer has no {mark}; use --layout plain")
                    })?,
                );
                before.extend(tokenizer.encode(text, Marks::Plain)?);
            }
        }
        Ok(Self {
            before,
            after: ids[at..].to_vec(),
            conversation,
        })
    }

    fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// All ids, and where each file ends.
    fn whole(&self, files: &[Encoded]) -> (Vec<u32>, Vec<usize>) {
        let mut ids = self.before.clone();
        let mut ends = Vec::with_capacity(files.len());
        for file in files {
            ids.extend(&file.ids);
            ends.push(ids.len());
        }
        ids.extend(&self.after);
        (ids, ends)
    }
}

/// Makes the files and `more` tokens fit the context.
fn fit(
    files: &mut Vec<Encoded>,
    more: usize,
    context: usize,
    args: &RepoArgs,
    notes: Notes,
) -> anyhow::Result<()> {
    let sum = |files: &[Encoded]| files.iter().map(|f| f.ids.len()).sum::<usize>() + more;
    if sum(files) <= context {
        return Ok(());
    }
    if !args.trim {
        bail!(
            "{}: {} tokens with the question and room for an answer do not fit the context of \
             {context}; give a subfolder, a smaller --max-file, a larger --ctx, or --trim to \
             leave out the longest files (--count lists them)",
            args.folder.display(),
            sum(files)
        );
    }
    while sum(files) > context {
        let longest = files.iter().enumerate().max_by_key(|(_, f)| f.ids.len());
        let Some((at, file)) = longest else {
            bail!("the question alone does not fit the context of {context}; give a larger --ctx");
        };
        notes.line(&format!(
            "v4-run: left out {} ({} tokens)",
            crate::output::visible(&file.path),
            file.ids.len()
        ));
        files.remove(at);
    }
    Ok(())
}

/// What remains to be read.
struct Ahead<'a> {
    ids: &'a [u32],
    /// Where each file ends.
    ends: &'a [usize],
    /// Room for all.
    context: usize,
}

/// Reads the files that the session does not hold yet, a group at a time.
fn read_ahead(
    args: &RepoArgs,
    engine: &Arc<Engine>,
    sessions: &SessionFiles,
    session: &str,
    ahead: &Ahead<'_>,
    notes: Notes,
) -> anyhow::Result<ControlFlow<()>> {
    let &Ahead { ids, ends, context } = ahead;
    let mut file = sessions.open(engine, session)?;
    let mut session = sessions.beginning_of(engine, Some(&mut file), ids, context)?;
    let read_before = session.len();
    let last = ends.last().copied().unwrap_or(0);
    let bar = notes.bar("reading files", last.max(read_before));
    let busy = Busy::start()?;
    for (i, &end) in ends.iter().enumerate() {
        let whole = end >= session.len().saturating_add(args.group) || i + 1 == ends.len();
        if !whole || end <= session.len() {
            continue;
        }
        let from = session.len();
        let mut progress = |done: usize, _: usize| {
            bar.set_position((from + done) as u64);
            match interrupt::requested() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let mut hooks = Hooks {
            progress: Some(&mut progress),
            between: Some(&interrupt::between),
            ..Hooks::default()
        };
        let done = session.append_with(&ids[from..end], Want::None, &mut hooks);
        let stopped = match done {
            Ok(_) => interrupt::requested(),
            Err(EngineError::Cancelled) => true,
            Err(error) => return Err(error.into()),
        };
        // Even if Ctrl-C stopped it: what was read is kept.
        session.save(&mut file.log)?;
        file.make_room(notes)?;
        if stopped {
            bar.finish_and_clear();
            return Ok(ControlFlow::Break(()));
        }
    }
    bar.finish_and_clear();
    drop(busy);
    notes.line(&format!(
        "[{} files, {last} tokens, {} reused]",
        ends.len(),
        read_before.min(last)
    ));
    Ok(ControlFlow::Continue(()))
}

/// A name with characters that a session name cannot have replaced.
fn plain(name: &str) -> String {
    let plain = |c: char| {
        if c.is_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    name.chars().map(plain).take(40).collect()
}

/// Distinguishes trees of the same name; the same on every machine.
fn hash(root: &Path) -> u32 {
    // FNV-1a.
    root.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5, |h: u32, &b| {
            (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
        })
}

/// Prints tokens per folder, including its subfolders.
fn print_counts(files: &[Encoded], left_out: &LeftOut, as_json: bool) -> anyhow::Result<()> {
    let mut folders: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for file in files {
        let mut folder = file.path.as_str();
        loop {
            folder = folder.rsplit_once('/').map_or("", |(folder, _)| folder);
            let count = folders.entry(folder.to_owned()).or_default();
            count.0 += 1;
            count.1 += file.ids.len();
            if folder.is_empty() {
                break;
            }
        }
    }
    let total: usize = files.iter().map(|f| f.ids.len()).sum();
    if as_json {
        let list: Vec<_> = files
            .iter()
            .map(|f| json!({"path": f.path, "tokens": f.ids.len()}))
            .collect();
        let folders: Vec<_> = folders
            .iter()
            .map(|(path, (files, tokens))| json!({"path": path, "files": files, "tokens": tokens}))
            .collect();
        return print_json(&json!({
            "tokens": total,
            "files": list,
            "folders": folders,
            "left_out": {
                "long": left_out.long, "binary": left_out.binary, "empty": left_out.empty,
                "links": left_out.links, "special": left_out.special,
                "unreadable": left_out.unreadable,
            },
            "not_read": left_out.named.iter()
                .map(|unread| json!({"path": unread.path, "reason": unread.reason}))
                .collect::<Vec<_>>(),
        }));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{:>10} {:>7}  folder", "tokens", "files")?;
    for (folder, (files, tokens)) in &folders {
        let name = if folder.is_empty() { "." } else { folder };
        writeln!(
            out,
            "{tokens:>10} {files:>7}  {}",
            crate::output::visible(name)
        )?;
    }
    writeln!(
        out,
        "left out: {} larger than --max-file, {} not text, {} empty, {} links, {} sockets, pipes \
         and devices, {} unreadable",
        left_out.long,
        left_out.binary,
        left_out.empty,
        left_out.links,
        left_out.special,
        left_out.unreadable
    )?;
    for line in unread(left_out) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
