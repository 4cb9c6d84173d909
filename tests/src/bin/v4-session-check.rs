//! Checks the memory of long sessions, and that they survive a killed program.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use v4_runtime::plan::kv_bytes;
use v4_runtime::storage::SessionLog;
use v4_runtime::{Engine, EngineOptions, Session, Want};
use v4_tokenizer::Marks;

/// Checks a long session: its caches take the planned memory, and a program killed at
/// random moments while writing it (kill -9) leaves a session from which the next tokens
/// have the same bits as without an interruption.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Model file (GGUF)
    model: PathBuf,
    /// Text file to read tokens from; repeated if it is too short
    text: PathBuf,
    /// Length of the session in tokens
    #[arg(long, default_value = "65536")]
    tokens: usize,
    /// Number of times the program is killed
    #[arg(long, default_value = "100")]
    kills: usize,
    /// Seed for the random moments
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Act as the program that is killed: write this session
    #[arg(long, hide = true)]
    write: Option<PathBuf>,
}

const CHUNK: usize = 256;

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => match run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!(
                    "v4-session-check: {}",
                    v4_runtime::error_text(error.as_ref())
                );
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

fn run(args: &Args) -> Result<()> {
    let options = EngineOptions {
        context: args.tokens + 16,
        chunk: Some(CHUNK),
        ..EngineOptions::default()
    };
    let engine = Engine::open(&args.model, options)?;
    let text =
        std::fs::read_to_string(&args.text).with_context(|| args.text.display().to_string())?;
    let mut ids = engine.tokenizer().encode(&text, Marks::Plain)?;
    ensure!(!ids.is_empty(), "{}: no tokens", args.text.display());
    while ids.len() < args.tokens + 2 {
        ids.extend_from_within(..);
    }
    ids.truncate(args.tokens + 2);
    match &args.write {
        Some(path) => write(args, &engine, &ids, path),
        None => check(args, &engine, &ids),
    }
}

/// Tokens that are read between two saves: so few that a kill often meets one.
fn piece(args: &Args, random: &mut Random) -> usize {
    1 + random.below((args.tokens / args.kills.max(1)).max(2))
}

/// Reads on, saves, and says how far it came, again and again.
fn write(args: &Args, engine: &Arc<Engine>, ids: &[u32], path: &Path) -> Result<()> {
    let mut random = Random(args.seed);
    let mut log = SessionLog::open(path, engine.fingerprint(), None)?;
    let context = args.tokens + 16;
    let mut session = Session::restore(engine, context, CHUNK, &log, usize::MAX)?;
    while session.len() < args.tokens {
        let to = (session.len() + piece(args, &mut random)).min(args.tokens);
        session.append(&ids[session.len()..to], Want::None)?;
        session.save(&mut log)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{to}")?;
        out.flush()?;
    }
    Ok(())
}

/// Anonymous memory of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn bits(session: &mut Session, ids: &[u32]) -> Result<Vec<u32>> {
    let logits = session.append(ids, Want::All)?;
    Ok(logits.data.iter().map(|v| v.to_bits()).collect())
}

fn check(args: &Args, engine: &Arc<Engine>, ids: &[u32]) -> Result<()> {
    let (config, context) = (engine.config(), args.tokens + 16);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.session");
    // The one that never stops. A first token makes what is made once.
    let mut whole = Session::new(engine, context, CHUNK)?;
    whole.append(&ids[..1], Want::Last)?;
    let before = resident();
    let mut random = Random(!args.seed);
    let (mut kills, mut during, mut from, mut again) = (0, 0, 0, 0);
    let started = Instant::now();
    while kills < args.kills || from < args.tokens {
        if from == args.tokens {
            // All was written before enough kills: anew, from another seed.
            std::fs::remove_file(&path)?;
            again += 1;
            from = 0;
        }
        let killed = kills < args.kills;
        let seed = args.seed + kills as u64 + again;
        let said = one_life(args, &path, seed, killed.then_some(&mut random), from)?;
        kills += usize::from(killed);
        let log = SessionLog::open(&path, engine.fingerprint(), None)?;
        let mut restored = Session::restore(engine, context, CHUNK, &log, usize::MAX)?;
        let at = restored.len();
        ensure!(at >= said.max(from), "only {at} of {said} tokens are left");
        ensure!(restored.tokens() == &ids[..at], "other tokens");
        during += usize::from(at > said);
        from = at;
        if at < whole.len() {
            whole.rewind(at, &mut Default::default())?;
        }
        let missing = whole.len()..at;
        whole.append(&ids[missing], Want::None)?;
        let mut fork = whole.fork()?;
        if bits(&mut restored, &ids[at..at + 2])? != bits(&mut fork, &ids[at..at + 2])? {
            bail!("after {kills} kills, restored at {at}: different bits");
        }
    }
    let planned = kv_bytes(config, v4_runtime::KvPrecision::default(), args.tokens);
    let held = whole.kv_bytes() as u64 + 4 * whole.len() as u64;
    println!(
        "{kills} kills, {during} of them between a step's end on disk and its report; {} tokens, \
         {:.0} s: every restored session continued with the same bits",
        args.tokens,
        started.elapsed().as_secs_f64()
    );
    println!(
        "caches: planned {planned} bytes, held {held} ({:+.2} %); file {} bytes",
        100.0 * (held as f64 / planned as f64 - 1.0),
        std::fs::metadata(&path)?.len(),
    );
    println!(
        "anonymous memory since the first token: {:+} bytes",
        resident() as i64 - before as i64
    );
    ensure!(
        held.abs_diff(planned) * 100 <= 3 * planned,
        "the plan is off by more than 3 %"
    );
    Ok(())
}

/// Starts a writer, and kills it at a random moment if there is one. Returns the tokens
/// that it said were saved.
fn one_life(
    args: &Args,
    path: &Path,
    seed: u64,
    moment: Option<&mut Random>,
    from: usize,
) -> Result<usize> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([&args.model, &args.text])
        .args(["--tokens", &args.tokens.to_string()])
        .args(["--kills", &args.kills.to_string()])
        .args(["--seed", &seed.to_string()])
        .arg("--write")
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("its output")?;
    let mut lines = BufReader::new(out).lines();
    let mut said = from;
    let mut take = |line: std::io::Result<String>| -> Result<()> {
        said = line?.trim().parse()?;
        Ok(())
    };
    if let Some(random) = moment {
        // Once it has written something, or before.
        if random.below(8) > 0
            && let Some(line) = lines.next()
        {
            take(line)?;
        }
        std::thread::sleep(Duration::from_micros(random.below(60_000) as u64));
        kill(&mut child)?;
    }
    for line in lines {
        take(line)?;
    }
    let ended = child.wait()?;
    ensure!(
        ended.success() || std::os::unix::process::ExitStatusExt::signal(&ended) == Some(9),
        "the writer failed: {ended}"
    );
    Ok(said)
}

fn kill(child: &mut Child) -> Result<()> {
    // SIGKILL; one that has ended already is as well.
    child.kill().or_else(|e| match e.kind() {
        std::io::ErrorKind::InvalidInput => Ok(()),
        _ => Err(e),
    })?;
    Ok(())
}
