//! The program from outside, with the tiny V4 checkpoint converted to a model.

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::{failure, ok, run, run_with_input, stderr, stdout, v4_run};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;
use v4_convert::plan::{Drafts, Plan, PlanOptions};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteOptions, write};
use v4_runtime::tokenizer::{Marks, Tokenizer};

/// Layers, experts per token and streams x width of the tiny model.
const LAYERS: usize = 6;
const USED: usize = 2;
const STREAMS: [usize; 2] = [4, 256];
const VOCAB: usize = 4096;

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny-v4")
}

/// A model and the folder that goes with it.
type Converted = (TempDir, PathBuf);

fn convert(recipe: &str) -> Converted {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let options = PlanOptions {
        recipe: Recipe::load(recipe).unwrap(),
        drafts: Drafts::Drop,
        name: None,
    };
    let plan = Plan::new(&checkpoint(), &options).unwrap();
    write(&plan, &path, WriteOptions::default(), &Watch::default()).unwrap();
    (dir, path)
}

/// The model as people run it.
fn model() -> &'static Path {
    static MODEL: LazyLock<Converted> = LazyLock::new(|| convert("native"));
    &MODEL.1
}

/// The model with every published value kept, to compare with the reference.
fn lossless() -> &'static Path {
    static MODEL: LazyLock<Converted> = LazyLock::new(|| convert("lossless"));
    &MODEL.1
}

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Arguments with the model put in place of `MODEL`.
fn with_model<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let model = model().to_str().unwrap();
    args.iter()
        .map(|&arg| if arg == "MODEL" { model } else { arg })
        .collect()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = run(scratch().path(), with_model(args));
    let text = ok(&output);
    assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn prompt_streams_an_answer_and_statistics_apart() {
    let args = with_model(&["MODEL", "-p", "fn main() {", "-n", "20", "--seed", "7"]);
    let output = run(scratch().path(), &args);
    let text = ok(&output);
    assert!(text.trim().len() > 10 && text.ends_with('\n'), "{text:?}");
    assert!(!text.contains('\x1b'), "no colours in a pipe");
    let notes = stderr(&output);
    assert!(
        notes.contains("seed 7") && notes.contains("length"),
        "{notes}"
    );
    assert_eq!(
        notes.matches('\n').count(),
        1,
        "no progress in a pipe: {notes:?}"
    );
    let quiet = run(scratch().path(), args.iter().chain(&["-q"]));
    assert_eq!((ok(&quiet), stderr(&quiet)), (text, ""));
}

#[test]
fn seed_decides_the_text() {
    let text = |seed: &str| {
        let args = [
            "MODEL", "-p", "use std", "-n", "24", "--seed", seed, "--json",
        ];
        json(&args)["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(text("1"), text("1"));
    assert_ne!(text("1"), text("2"));
}

#[test]
fn json_holds_what_was_streamed() {
    let args = ["MODEL", "-p", "let x", "-n", "16", "--seed", "3"];
    let streamed = run(scratch().path(), with_model(&args));
    let value = json(&["MODEL", "-p", "let x", "-n", "16", "--seed", "3", "--json"]);
    assert_eq!(
        ok(&streamed).trim_end(),
        value["text"].as_str().unwrap().trim_end()
    );
    assert_eq!(value["finish_reason"], "length");
    assert_eq!(value["seed"], 3);
    assert_eq!(value["reasoning"], Value::Null);
    assert_eq!(value["completion_tokens"], 16);
    let ids: Vec<u32> = serde_json::from_value(value["ids"].clone()).unwrap();
    assert_eq!(ids.len(), 16);
    assert!(
        value["timings"]["decode_tokens_per_second"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    // BOS, user mark, "let x" in at least one token, assistant mark, </think>.
    assert!(value["prompt_tokens"].as_u64().unwrap() >= 5);
}

#[test]
fn random_seed_shown_gives_the_same_text_again() {
    let first = json(&["MODEL", "-p", "a", "-n", "24", "--json"]);
    let seed = first["seed"].to_string();
    let again = json(&["MODEL", "-p", "a", "-n", "24", "--json", "--seed", &seed]);
    assert_eq!(first["ids"], again["ids"]);
}

#[test]
fn neither_threads_nor_chunk_change_the_text() {
    let text = |more: &[&str]| {
        let mut args = vec![
            "MODEL",
            "-p",
            "pub fn new(",
            "-n",
            "16",
            "--seed",
            "5",
            "--json",
        ];
        args.extend(more);
        json(&args)["ids"].clone()
    };
    let one = text(&["--threads", "1"]);
    assert_eq!(one, text(&["--threads", "3"]));
    assert_eq!(one, text(&["--chunk", "1"]));
}

#[test]
fn prompt_comes_from_standard_input_when_none_is_given() {
    let args = with_model(&["MODEL", "-n", "8", "--temp", "0", "-q"]);
    let given = run(scratch().path(), args.iter().chain(&["-p", "hello"]));
    for input in ["hello", "hello\n"] {
        let piped = run_with_input(v4_run(scratch().path(), &args), input.as_bytes());
        assert_eq!(ok(&piped), ok(&given), "{input:?}");
    }
    let empty = run_with_input(v4_run(scratch().path(), &args), b"\n");
    assert!(failure(&empty).contains("empty"));
}

#[test]
fn thinking_and_system_change_the_prompt() {
    let tokens = |more: &[&str]| {
        let mut args = vec!["MODEL", "-p", "x", "-n", "1", "--temp", "0", "--json"];
        args.extend(more);
        json(&args)["prompt_tokens"].as_u64().unwrap()
    };
    let plain = tokens(&[]);
    assert!(tokens(&["--system", "Be brief."]) > plain);
    assert!(tokens(&["--effort", "max"]) > tokens(&["--effort", "low"]));
}

#[test]
fn reasoning_is_apart_from_the_answer() {
    let args = [
        "MODEL", "-p", "x", "-n", "12", "--temp", "0", "--effort", "low",
    ];
    let value = json(&[&args[..], &["--json"]].concat());
    let reasoning = value["reasoning"].as_str().expect("the prompt opened it");
    assert!(!reasoning.is_empty());
    let streamed = run(scratch().path(), with_model(&args));
    let expected = format!("<think>\n{reasoning}\n</think>\n\n");
    assert!(
        ok(&streamed).starts_with(&expected),
        "{}",
        stdout(&streamed)
    );
}

#[test]
fn stop_string_ends_the_answer_and_is_left_out() {
    let args = [
        "complete",
        "MODEL",
        "-p",
        "fn main() {",
        "-n",
        "40",
        "--temp",
        "0",
        "--json",
    ];
    let whole = json(&args)["text"].as_str().unwrap().to_owned();
    // From the middle of the text, so that it lies across tokens.
    let middle: String = whole
        .chars()
        .skip(whole.chars().count() / 2)
        .take(5)
        .collect();
    let at = whole.find(&middle).unwrap();
    let cut = json(&[&args[..], &["--stop", &middle]].concat());
    assert_eq!(cut["text"].as_str().unwrap(), &whole[..at]);
    assert_eq!(cut["finish_reason"], "stop_string");
}

#[test]
fn prompt_without_room_is_refused_with_the_number_that_would_do() {
    let long = "word ".repeat(100);
    let args = ["MODEL", "-p", &long, "--ctx", "16"];
    let output = run(scratch().path(), with_model(&args));
    let message = failure(&output);
    let needed: String = message
        .split("--ctx ")
        .nth(1)
        .unwrap_or_else(|| panic!("{message}"))
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let value = json(&[
        "MODEL", "-p", &long, "--ctx", &needed, "--temp", "0", "--json",
    ]);
    assert_eq!(value["finish_reason"], "context_full");
    // The last token that fits is read, and one more is picked after it.
    assert_eq!(value["completion_tokens"], 2);
    let output = run(
        scratch().path(),
        with_model(&["MODEL", "-p", "x", "--ctx", "99999999"]),
    );
    assert!(failure(&output).contains("1048576"));
}

#[test]
fn ctrl_c_keeps_the_text_so_far() {
    let args = with_model(&["MODEL", "-p", "x", "--temp", "0.5", "--ctx", "200000"]);
    let mut child = v4_run(scratch().path(), args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    interrupt(child.id());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("interrupted"),
        "{}",
        stderr(&output)
    );
    assert!(rest.ends_with(b"\n"), "the line is ended");
}

fn interrupt(pid: u32) {
    let sent = Command::new("kill")
        .args(["-INT", &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn reader_that_left_ends_generation_quietly() {
    let args = with_model(&["MODEL", "-p", "x", "--temp", "0.5", "-q"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = v4_run(scratch().path(), args)
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    reader.read_exact(&mut [0; 1]).unwrap();
    drop(reader);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}

fn chat(dir: &Path, more: &[&str], script: &str) -> std::process::Output {
    let mut args = with_model(&["chat", "MODEL", "-n", "12", "--temp", "0"]);
    args.extend(more);
    run_with_input(v4_run(dir, args), script.as_bytes())
}

#[test]
fn chat_answers_each_line_and_reads_only_what_is_new() {
    let dir = scratch();
    let output = chat(
        dir.path(),
        &[],
        "fn main() {\n/stats\nmore\\\nof it\n/stats\n/quit\nnever\n",
    );
    ok(&output);
    let notes = stderr(&output);
    assert!(notes.contains("2 messages"), "{notes}");
    assert!(
        notes.contains("4 messages") && !notes.contains("6 messages"),
        "{notes}"
    );
    // The second prompt's beginning was in the session: all of the first turn.
    let reused = notes.split(" more reused").next().unwrap();
    let reused: usize = reused.rsplit('(').next().unwrap().parse().unwrap();
    assert!(reused > 12, "{notes}");
    let first = run(
        dir.path(),
        with_model(&["MODEL", "-p", "fn main() {", "-n", "12", "--temp", "0"]),
    );
    assert!(
        stdout(&output).starts_with(ok(&first)),
        "{}",
        stdout(&output)
    );
}

#[test]
fn chat_that_was_reset_answers_as_at_first() {
    let once = chat(scratch().path(), &[], "hello\n");
    let twice = chat(scratch().path(), &[], "hello\n/reset\nhello\n");
    assert_eq!(ok(&twice), ok(&once).repeat(2));
}

#[test]
fn chat_keeps_its_session_after_ctrl_c() {
    let dir = scratch();
    let args = with_model(&["chat", "MODEL", "--temp", "0.5"]);
    let mut child = v4_run(dir.path(), args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut out = child.stdout.take().unwrap();
    use std::io::Write;
    stdin.write_all(b"hello\n").unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    interrupt(child.id());
    stdin.write_all(b"/stats\n/save talk.json\n").unwrap();
    drop(stdin);
    out.read_to_end(&mut Vec::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("(stopped)"), "{}", stderr(&output));
    let saved = std::fs::read_to_string(dir.path().join("talk.json")).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["messages"][0]["content"], "hello");
    assert_eq!(saved["messages"][1]["role"], "assistant");
}

#[test]
fn chat_in_a_script_stops_at_an_unknown_command() {
    let output = chat(scratch().path(), &[], "/nope\nhello\n");
    assert!(failure(&output).starts_with("/nope: no such command"));
}

#[test]
fn chat_saves_privately_and_overwrites_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = scratch();
    let output = chat(
        dir.path(),
        &["--system", "Be brief."],
        "hi\n/save a.json\n/save a.json\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a.json: "));
    let path = dir.path().join("a.json");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let roles: Vec<&str> = saved["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
}

#[test]
fn completion_adds_nothing_to_the_text() {
    let args = [
        "complete",
        "MODEL",
        "-p",
        "fn main() {",
        "-n",
        "16",
        "--temp",
        "0",
    ];
    let output = run(scratch().path(), with_model(&args));
    let value = json(&[&args[..], &["--json"]].concat());
    assert_eq!(ok(&output), value["text"].as_str().unwrap());
    let tokenizer = tokenizer();
    let prompt = tokenizer.encode("fn main() {", Marks::Plain).unwrap();
    assert_eq!(
        value["prompt_tokens"],
        prompt.len() + 1,
        "one more: begin of sentence"
    );
}

#[test]
fn marks_in_completed_text_are_text_unless_asked_for() {
    let tokens = |more: &[&str]| {
        let args = ["complete", "MODEL", "-p", "<think>", "-n", "1", "--json"];
        json(&[&args[..], more].concat())["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    assert!(tokens(&[]) > 2);
    assert_eq!(tokens(&["--marks"]), 2);
}

#[test]
fn gap_between_two_files_is_filled() {
    let dir = scratch();
    std::fs::write(dir.path().join("a.rs"), "fn add(a: u32, b: u32) -> u32 {\n").unwrap();
    std::fs::write(dir.path().join("b.rs"), "\n}\n").unwrap();
    let gap = ["--prefix", "a.rs", "--suffix", "b.rs"];
    let args = ["complete", "MODEL", "-n", "8", "--temp", "0", "--json"];
    let output = run(dir.path(), with_model(&[&args[..], &gap].concat()));
    let filled: Value = serde_json::from_str(ok(&output)).unwrap();
    // The same prompt spelt out with its marks.
    let spelt = "<｜fim▁begin｜>fn add(a: u32, b: u32) -> u32 {\n<｜fim▁hole｜>\n}\n<｜fim▁end｜>";
    let same = json(&[&args[..], &["-p", spelt, "--marks"]].concat());
    assert_eq!(filled["ids"], same["ids"]);
    assert_eq!(filled["prompt_tokens"], same["prompt_tokens"]);
    let missing = ["complete", "MODEL", "--prefix", "a.rs", "--suffix", "no.rs"];
    assert!(failure(&run(dir.path(), with_model(&missing))).starts_with("no.rs: "));
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json_file(&checkpoint().join("tokenizer.json")).unwrap()
}

const TEXT: &str = "use std::io;\n\nfn main() -> io::Result<()> {\n    let mut line = String::new();\n    \
                    io::stdin().read_line(&mut line)?;\n    println!(\"{line}\");\n    Ok(())\n}\n";

/// Runs `logits` on ids and returns the file.
fn logits(dir: &Path, ids: &[u32], more: &[&str]) -> Vec<u8> {
    logits_of(model(), dir, ids, more)
}

fn logits_of(model: &Path, dir: &Path, ids: &[u32], more: &[&str]) -> Vec<u8> {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    std::fs::write(dir.join("ids"), ids.join("\n")).unwrap();
    let model = model.to_str().unwrap();
    let out = ["--ids", "ids", "--out", "out.safetensors"];
    let output = run(dir, [&["logits", model], &out[..], more].concat());
    assert_eq!(ok(&output), "");
    assert_eq!(
        std::fs::read_dir(dir).unwrap().count(),
        2,
        "nothing but ids and output"
    );
    std::fs::read(dir.join("out.safetensors")).unwrap()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    let values = tensor.data().chunks_exact(4);
    let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape().to_vec(), values.collect())
}

fn integers(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<i32>) {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I32, "{name}");
    let values = tensor.data().chunks_exact(4);
    let values = values.map(|b| i32::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape().to_vec(), values.collect())
}

#[test]
fn logits_are_those_of_the_golden_file() {
    let golden = std::fs::read(checkpoint().join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let (_, ids) = integers(&golden, "short.ids");
    let ids: Vec<u32> = ids.iter().map(|&id| u32::try_from(id).unwrap()).collect();
    let dir = scratch();
    let more = ["--precision", "exact", "--trace"];
    let file = logits_of(lossless(), dir.path(), &ids, &more);
    let file = SafeTensors::deserialize(&file).unwrap();

    let (shape, ours) = floats(&file, "logits");
    assert_eq!(shape, [ids.len(), VOCAB]);
    let (_, theirs) = floats(&golden, "short.exact.logits");
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    let worst = worst.fold(0.0, f32::max);
    assert!(worst < 2e-3, "{worst}");
    assert_eq!(
        integers(&file, "positions"),
        integers(&golden, "short.positions")
    );
    for layer in 0..LAYERS {
        let experts = format!("{layer}.experts");
        assert_eq!(
            integers(&file, &experts),
            integers(&golden, &format!("short.exact.{experts}")),
            "{experts}"
        );
        let name = format!("{layer}.streams");
        let (shape, ours) = floats(&file, &name);
        assert_eq!(shape, STREAMS);
        let (_, theirs) = floats(&golden, &format!("short.exact.{name}"));
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() < 2e-3 * b.abs().max(1.0), "{name}: {a} {b}");
        }
    }
}

#[test]
fn logits_file_is_the_same_bytes_for_any_chunk_and_threads() {
    let ids: Vec<u32> = tokenizer().encode(TEXT, Marks::Plain).unwrap();
    let whole = logits(scratch().path(), &ids, &["--trace"]);
    for more in [
        &["--chunk", "1"][..],
        &["--chunk", "7"],
        &["--threads", "1"],
    ] {
        let other = logits(scratch().path(), &ids, &[&["--trace"][..], more].concat());
        assert!(whole == other, "{more:?}");
    }
}

#[test]
fn last_logits_are_the_end_of_all() {
    let ids: Vec<u32> = (10..40).collect();
    let all = logits(scratch().path(), &ids, &[]);
    let last = logits(
        scratch().path(),
        &ids,
        &["--last", "3", "--chunk", "8", "--trace"],
    );
    let all = SafeTensors::deserialize(&all).unwrap();
    let last = SafeTensors::deserialize(&last).unwrap();
    let (shape, values) = floats(&last, "logits");
    assert_eq!(shape, [3, VOCAB]);
    let (_, every) = floats(&all, "logits");
    assert_eq!(values, every[27 * VOCAB..]);
    assert_eq!(integers(&last, "positions"), (vec![3], vec![27, 28, 29]));
    assert_eq!(
        integers(&last, "0.experts").0,
        [30, USED],
        "of every position"
    );
    assert!(all.tensor("0.experts").is_err(), "only with --trace");
}

#[test]
fn id_outside_the_vocabulary_is_named_and_leaves_no_file() {
    let dir = scratch();
    std::fs::write(dir.path().join("ids"), "5 4096 7").unwrap();
    let args = ["logits", "MODEL", "--ids", "ids", "--out", "out"];
    let output = run(dir.path(), with_model(&args));
    let message = failure(&output);
    assert!(
        message.starts_with("ids: token id 4096 (number 2)"),
        "{message}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn ctrl_c_while_logits_are_written_leaves_no_file() {
    let dir = scratch();
    let ids: Vec<String> = (0..60_000).map(|i| (i % VOCAB).to_string()).collect();
    std::fs::write(dir.path().join("ids"), ids.join(" ")).unwrap();
    let args = [
        "logits", "MODEL", "--ids", "ids", "--out", "out", "--last", "1",
    ];
    let child = v4_run(dir.path(), with_model(&args))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let started = Instant::now();
    while files() == 1 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(files(), 2, "the unfinished file");
    interrupt(child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(files(), 1);
}

#[test]
fn output_folder_that_is_missing_is_named() {
    let dir = scratch();
    std::fs::write(dir.path().join("ids"), "5").unwrap();
    let args = ["logits", "MODEL", "--ids", "ids", "--out", "no/out"];
    assert!(failure(&run(dir.path(), with_model(&args))).starts_with("no/out: "));
}

/// Perplexity against the logits it should come from.
#[test]
fn perplexity_is_the_mean_over_logits_from_the_first_token() {
    let dir = scratch();
    std::fs::write(dir.path().join("text"), TEXT).unwrap();
    let targets = tokenizer().encode(TEXT, Marks::Plain).unwrap();
    let mut inputs = vec![0];
    inputs.extend(&targets[..targets.len() - 1]);
    let file = logits(scratch().path(), &inputs, &[]);
    let file = SafeTensors::deserialize(&file).unwrap();
    let (_, rows) = floats(&file, "logits");
    let nll: Vec<f64> = rows
        .chunks_exact(VOCAB)
        .zip(&targets)
        .map(|(row, &target)| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .collect();
    let mean = |nll: &[f64]| nll.iter().sum::<f64>() / nll.len() as f64;

    let value = |more: &[&str]| -> Value {
        let args = ["perplexity", "MODEL", "text", "--json"];
        let output = run(dir.path(), with_model(&[&args[..], more].concat()));
        serde_json::from_str(ok(&output)).unwrap()
    };
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-6;
    for more in [&[][..], &["--chunk", "5"]] {
        let all = value(more);
        assert!(close(&all["nll"], mean(&nll)), "{all}");
        assert!((all["ppl"].as_f64().unwrap() / mean(&nll).exp() - 1.0).abs() < 1e-6);
        assert_eq!(all["tokens"], targets.len());
    }
    assert!(close(&value(&["--tokens", "9"])["nll"], mean(&nll[..9])));
    assert!(close(&value(&["--skip", "4"])["nll"], mean(&nll[4..])));
    // Windows begin anew, so only the first is part of the whole.
    let windows = value(&["--window", "11"]);
    assert_eq!(windows["tokens"], targets.len());
    assert!(!close(&windows["nll"], mean(&nll)));

    let text = run(
        dir.path(),
        with_model(&["perplexity", "MODEL", "text", "-q"]),
    );
    assert!(ok(&text).contains("ppl") && stderr(&text).is_empty());
    std::fs::write(dir.path().join("text"), "").unwrap();
    let empty = run(dir.path(), with_model(&["perplexity", "MODEL", "text"]));
    assert!(failure(&empty).starts_with("text: "));
}

#[test]
fn bench_reports_every_case() {
    let args = [
        "bench", "MODEL", "--prompt", "4,8", "--gen", "3", "--depth", "0,5", "--reps", "2",
        "--json",
    ];
    let value = json(&args);
    let tests = value["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 6);
    for test in tests {
        let rate = &test["tokens_per_second"];
        let [min, median, max] = ["min", "median", "max"].map(|k| rate[k].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{test}");
        assert_eq!(rate["runs"].as_array().unwrap().len(), 2);
    }
    assert!(value["weight_bytes_per_token"].as_u64().unwrap() > 0);
}

#[test]
fn truncated_model_is_one_line() {
    let dir = scratch();
    let bytes = std::fs::read(model()).unwrap();
    for cut in [8, 1000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(dir.path().join("cut.gguf"), &bytes[..cut]).unwrap();
        let output = run(dir.path(), ["cut.gguf", "-p", "x"]);
        assert!(
            failure(&output).starts_with("cut.gguf"),
            "{cut}: {}",
            stderr(&output)
        );
    }
}
