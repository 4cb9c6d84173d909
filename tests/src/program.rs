//! Runs the real programs: builds them once, applies a time limit, and checks how they
//! ended.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// No command of a test takes this long on two cores; one that does hangs.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// The workspace's folder.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Our own data: `tests/data/NAME`.
#[must_use]
pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// The folder of the running test's build: `target/release` or `target/debug`.
fn build_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    // target/PROFILE/deps/TEST
    let dir = test.parent().and_then(Path::parent);
    dir.expect("a test lies in deps/ of its profile").to_owned()
}

/// Path of one of the workspace's programs, built as the running test was.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn bin(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let dir = build_dir();
        let profile = match dir.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .current_dir(root())
            .args([
                "build",
                "--quiet",
                "--workspace",
                "--bins",
                "--profile",
                profile,
            ])
            .arg("--target-dir")
            .arg(dir.parent().expect("a profile lies in the target folder"))
            .output()
            .expect("cargo starts");
        assert!(
            built.status.success(),
            "the programs do not build:\n{}",
            String::from_utf8_lossy(&built.stderr)
        );
        dir
    });
    let path = dir.join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// An empty folder for the running test program's files, made once.
#[must_use]
pub fn scratch() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let test = std::env::current_exe().expect("the test's own path");
        // One folder per test program, reused by its next run: nothing piles up.
        let stem = test.file_stem().expect("a test has a name");
        let build = build_dir();
        let dir = build.with_file_name("tmp").join(stem);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).expect("the last run's files can be removed");
        }
        std::fs::create_dir_all(&dir).expect("a folder for the test's files");
        dir
    })
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The command, for messages.
    pub command: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// Wall-clock time.
    pub time: Duration,
}

impl Ended {
    /// Standard output as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text on standard output")
    }

    /// Asserts success, and gives itself on.
    ///
    /// # Panics
    /// If the program failed.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.command, self.stderr);
        self
    }

    /// Asserts exit code 1 and one line on standard error that has all `parts`.
    ///
    /// # Panics
    /// If it ended otherwise.
    pub fn failed_with(&self, parts: &[&str]) {
        let stderr = self.stderr.trim_end();
        assert_eq!(self.code, Some(1), "{}\n{stderr}", self.command);
        assert!(!stderr.is_empty(), "{}: no message", self.command);
        assert_eq!(
            stderr.lines().count(),
            1,
            "{}: one line:\n{stderr}",
            self.command
        );
        for part in parts {
            assert!(
                stderr.contains(part),
                "{}: no {part:?} in: {stderr}",
                self.command
            );
        }
    }
}

/// Runs `program` (see [`bin`]) with `args`.
///
/// # Panics
/// If it cannot start or hangs.
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Ended {
    run_with_input(program, args, b"")
}

/// As [`run`], with `input` on standard input.
///
/// # Panics
/// If it cannot start or hangs.
pub fn run_with_input<A: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = A>,
    input: &[u8],
) -> Ended {
    let mut command = Command::new(bin(program));
    command.args(args);
    let shown = format!("{command:?}");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let (status, stdout, stderr) = thread::scope(|scope| {
        scope.spawn(move || {
            // A program that ends without reading its input closes the pipe.
            let _ = stdin.write_all(input);
        });
        let stdout = scope.spawn(move || read_all(&mut stdout));
        let stderr = scope.spawn(move || read_all(&mut stderr));
        let status = loop {
            if let Some(status) = child.try_wait().expect("the program can be waited for") {
                break status;
            }
            if start.elapsed() > TIME_LIMIT {
                let _ = child.kill();
                panic!("{shown}: killed after {TIME_LIMIT:?}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        let join = |reader: thread::ScopedJoinHandle<'_, Vec<u8>>| reader.join().expect("a reader");
        (status, join(stdout), join(stderr))
    });
    Ended {
        command: shown,
        code: status.code(),
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        time: start.elapsed(),
    }
}

fn read_all(pipe: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).expect("a pipe can be read");
    bytes
}

/// The tiny V4 checkpoint converted with `recipe`, once per test program.
///
/// # Panics
/// If the conversion fails.
#[must_use]
pub fn tiny_v4(recipe: &str) -> PathBuf {
    tiny("tiny-v4", recipe, &[])
}

/// A tiny checkpoint of `tests/data` converted with `recipe` and these further
/// options, once per test program.
///
/// # Panics
/// If the conversion fails.
#[must_use]
pub fn tiny(checkpoint: &str, recipe: &str, options: &[&str]) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{checkpoint}-{recipe}{}", options.concat());
    if let Some(path) = made.get(&key) {
        return path.clone();
    }
    let path = scratch().join(format!("{key}.gguf"));
    let folder = data(checkpoint);
    let args = [folder.as_os_str(), path.as_os_str()];
    let more = [&["--recipe", recipe, "--quiet"][..], options].concat();
    let _ = run(
        "v4-convert",
        args.into_iter().chain(more.into_iter().map(OsStr::new)),
    )
    .ok();
    made.insert(key, path.clone());
    path
}

/// The file that `v4-run logits` writes for `ids`, with these further options.
///
/// # Panics
/// If the command fails.
#[must_use]
pub fn logits<T: ToString>(model: &Path, ids: &[T], options: &[&str]) -> Vec<u8> {
    // A folder of its own, as tests run side by side.
    let dir = tempfile::tempdir_in(scratch()).expect("a folder for one run");
    let (file, out) = (dir.path().join("ids"), dir.path().join("out.safetensors"));
    let words: Vec<String> = ids.iter().map(T::to_string).collect();
    std::fs::write(&file, words.join("\n")).expect("ids can be written");
    let args = ["logits".as_ref(), model.as_os_str()];
    let args = args.into_iter().chain(["--ids".as_ref(), file.as_os_str()]);
    let args = args.chain(["--out".as_ref(), out.as_os_str(), "--quiet".as_ref()]);
    let _ = run("v4-run", args.chain(options.iter().map(OsStr::new))).ok();
    std::fs::read(out).expect("the command wrote its file")
}
