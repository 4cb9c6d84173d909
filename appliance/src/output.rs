//! Output to the terminal, with control characters made visible.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use v4_runtime::error_text;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Marks around reasoning where it cannot be dimmed.
const REASONING_OPEN: &str = "<think>\n";
const REASONING_CLOSE: &str = "\n</think>\n\n";

/// Standard output for streamed answers: flushed piece by piece, reasoning set
/// apart, control characters made visible on a terminal.
pub struct AnswerWriter<W: Write> {
    out: W,
    terminal: bool,
    colour: bool,
    reasoning: bool,
    at_line_start: bool,
}

impl AnswerWriter<io::Stdout> {
    /// Writes to the process's standard output.
    pub fn stdout() -> Self {
        let out = io::stdout();
        let terminal = out.is_terminal();
        AnswerWriter::new(out, terminal, terminal && colours_wanted())
    }
}

impl<W: Write> AnswerWriter<W> {
    fn new(out: W, terminal: bool, colour: bool) -> Self {
        AnswerWriter {
            out,
            terminal,
            colour,
            reasoning: false,
            at_line_start: true,
        }
    }

    /// Writes a piece of the answer itself.
    pub fn content(&mut self, text: &str) -> io::Result<()> {
        self.close_reasoning()?;
        self.text(text)
    }

    /// Writes a piece of the reasoning before the answer.
    pub fn reasoning(&mut self, text: &str) -> io::Result<()> {
        if !self.reasoning && !text.is_empty() {
            self.reasoning = true;
            let open = if self.colour { DIM } else { REASONING_OPEN };
            self.out.write_all(open.as_bytes())?;
        }
        self.text(text)
    }

    /// Ends the answer on a line of its own.
    pub fn end(&mut self) -> io::Result<()> {
        self.close_reasoning()?;
        if !self.at_line_start {
            self.out.write_all(b"\n")?;
            self.at_line_start = true;
        }
        self.out.flush()
    }

    /// Ends the answer without adding a newline: for text that a program takes
    /// byte by byte. On a terminal the line is ended all the same.
    pub fn end_raw(&mut self) -> io::Result<()> {
        if self.terminal {
            return self.end();
        }
        self.out.flush()
    }

    fn close_reasoning(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.reasoning) {
            if self.colour {
                write!(self.out, "{PLAIN}\n\n")?;
            } else {
                self.out.write_all(REASONING_CLOSE.as_bytes())?;
            }
            self.at_line_start = true;
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let shown = if self.terminal {
            visible(text)
        } else {
            Cow::Borrowed(text)
        };
        self.out.write_all(shown.as_bytes())?;
        self.at_line_start = text.ends_with('\n');
        self.out.flush()
    }
}

/// True where colours are welcome: NO_COLOR unset or empty, TERM not `dumb`.
fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Text that cannot command a terminal: a model may print escape sequences,
/// and so may a file's metadata. Controls other than newline and tab are shown
/// as their pictures (U+2400…), C1 controls as U+FFFD.
pub fn visible(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let show = |c: char| match c {
        c if harmless(c) => c,
        '\x7f' => '\u{2421}',
        c => char::from_u32(0x2400 + c as u32)
            .filter(|_| c < ' ')
            .unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    Cow::Owned(text.chars().map(show).collect())
}

/// An error message as one harmless line.
pub fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split(['\n', '\r']).map(str::trim).collect();
    visible(words.join(" ").trim()).into_owned()
}

/// An error in one line on standard error. If that is closed too, the exit
/// code must do.
pub fn print_error(error: &anyhow::Error) {
    let line = one_line(&error_text(error.as_ref()));
    let _ = writeln!(io::stderr(), "v4-run: {line}");
}

/// Whether whoever read our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Notes on standard error: progress where somebody watches, statistics unless
/// `--quiet`.
#[derive(Debug, Clone, Copy)]
pub struct Notes {
    quiet: bool,
}

impl Notes {
    /// Notes that `--quiet` silences.
    pub fn new(quiet: bool) -> Self {
        Notes { quiet }
    }

    /// One line of statistics or advice.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            // A closed standard error is not a reason to stop working.
            let _ = writeln!(io::stderr(), "{}", visible(text));
        }
    }

    /// A spinner with a message, hidden unless standard error is a terminal.
    pub fn spinner(&self, message: String) -> ProgressBar {
        let bar = ProgressBar::new_spinner().with_message(message);
        bar.set_draw_target(self.target());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// A bar over `total` tokens, hidden unless standard error is a terminal.
    pub fn bar(&self, what: &str, total: usize) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{msg} {bar:30} {pos}/{len} tokens, {per_sec}, {eta} left",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total as u64), self.target());
        bar.set_style(style);
        bar.set_message(what.to_owned());
        bar
    }

    /// A bar over bytes, hidden unless standard error is a terminal.
    pub fn bytes_bar(&self, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{msg} {bar:30} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), self.target());
        bar.set_style(style);
        bar.set_message(what.to_owned());
        bar
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.quiet || !io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(terminal: bool, colour: bool, f: impl FnOnce(&mut AnswerWriter<Vec<u8>>)) -> String {
        let mut answer = AnswerWriter::new(Vec::new(), terminal, colour);
        f(&mut answer);
        String::from_utf8(answer.out).unwrap()
    }

    #[test]
    fn escape_sequences_reach_no_terminal() {
        let text = "a\x1b]0;title\x07\u{9b}31m\tb\n";
        let shown = written(true, false, |a| a.content(text).unwrap());
        assert_eq!(shown, "a␛]0;title␇\u{fffd}31m\tb\n");
        assert_eq!(written(false, false, |a| a.content(text).unwrap()), text);
    }

    #[test]
    fn reasoning_is_set_apart_with_and_without_colour() {
        let both = |a: &mut AnswerWriter<Vec<u8>>| {
            a.reasoning("hm").unwrap();
            a.reasoning("…").unwrap();
            a.content("yes").unwrap();
            a.end().unwrap();
        };
        assert_eq!(
            written(false, false, both),
            "<think>\nhm…\n</think>\n\nyes\n"
        );
        assert_eq!(written(true, true, both), "\x1b[2mhm…\x1b[0m\n\nyes\n");
    }

    #[test]
    fn dimming_ends_even_when_no_answer_follows() {
        let cut = |a: &mut AnswerWriter<Vec<u8>>| {
            a.reasoning("hm").unwrap();
            a.end().unwrap();
        };
        assert!(written(true, true, cut).contains(PLAIN));
    }

    #[test]
    fn raw_text_gains_no_newline_in_a_pipe() {
        let raw = |a: &mut AnswerWriter<Vec<u8>>| {
            a.content("x").unwrap();
            a.end_raw().unwrap();
        };
        assert_eq!(written(false, false, raw), "x");
        assert_eq!(written(true, false, raw), "x\n");
    }

    #[test]
    fn an_error_of_many_lines_becomes_one() {
        assert_eq!(one_line("a\n  b\r\nc\x1b"), "a b  c␛");
    }
}
