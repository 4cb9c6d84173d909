//! Builds messages from lines: a trailing backslash and `"""` join several lines.

use super::lines::{Line, Lines};

const FENCE: &str = "\"\"\"";

/// What the user wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Say this to the model.
    Message(String),
    /// A command, with its slash.
    Command(String),
    /// An empty line.
    Nothing,
    /// Ctrl-C: whatever was begun is dropped.
    Interrupted,
    /// Leave.
    End,
}

/// Reads one message or command.
pub fn read(lines: &mut dyn Lines) -> anyhow::Result<Input> {
    let first = match lines.line(true)? {
        Line::Text(text) => text,
        Line::Interrupted => return Ok(Input::Interrupted),
        Line::End => return Ok(Input::End),
    };
    let trimmed = first.trim();
    if trimmed.is_empty() {
        return Ok(Input::Nothing);
    }
    let escaped = trimmed.starts_with("//");
    if trimmed.starts_with('/') && !escaped {
        lines.remember(trimmed);
        return Ok(Input::Command(trimmed.to_owned()));
    }
    let message = if let Some(rest) = trimmed.strip_prefix(FENCE) {
        fenced(lines, rest)?
    } else {
        // `//` sends a message that begins with a slash.
        let first = if escaped { &trimmed[1..] } else { &first[..] };
        continued(lines, first.to_owned())?
    };
    Ok(match message {
        Some(message) if message.trim().is_empty() => Input::Nothing,
        Some(message) => {
            lines.remember(&message);
            Input::Message(message)
        }
        None => Input::Interrupted,
    })
}

/// Lines up to one that ends in the fence. The end of input closes it too.
fn fenced(lines: &mut dyn Lines, rest: &str) -> anyhow::Result<Option<String>> {
    if let Some(text) = rest.strip_suffix(FENCE) {
        return Ok(Some(text.to_owned()));
    }
    let mut message = rest.to_owned();
    loop {
        let line = match lines.line(false)? {
            Line::Text(text) => text,
            Line::Interrupted => return Ok(None),
            Line::End => return Ok(Some(message)),
        };
        if !message.is_empty() {
            message.push('\n');
        }
        if let Some(last) = line.trim_end().strip_suffix(FENCE) {
            message.push_str(last);
            if last.is_empty() && message.ends_with('\n') {
                message.pop();
            }
            return Ok(Some(message));
        }
        message.push_str(&line);
    }
}

/// A line, and more while they end in a backslash.
fn continued(lines: &mut dyn Lines, mut message: String) -> anyhow::Result<Option<String>> {
    while message.ends_with('\\') {
        message.pop();
        match lines.line(false)? {
            Line::Text(text) => {
                message.push('\n');
                message.push_str(&text);
            }
            Line::Interrupted => return Ok(None),
            Line::End => break,
        }
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::super::lines::Piped;
    use super::*;

    fn inputs(text: &str) -> Vec<Input> {
        let mut lines = Piped::new(text.as_bytes());
        let mut all = Vec::new();
        loop {
            match read(&mut lines).unwrap() {
                Input::End => return all,
                input => all.push(input),
            }
        }
    }

    fn message(text: &str) -> Input {
        Input::Message(text.into())
    }

    #[test]
    fn each_line_is_a_message() {
        assert_eq!(
            inputs("a\n\n b \n"),
            [message("a"), Input::Nothing, message(" b ")]
        );
    }

    #[test]
    fn a_backslash_joins_lines_and_the_end_cuts_them() {
        assert_eq!(
            inputs("a\\\nb\\\nc\nd\\"),
            [message("a\nb\nc"), message("d")]
        );
    }

    #[test]
    fn fences_keep_lines_backslashes_and_slashes() {
        let text = "\"\"\"\n/x\n\n y\\\n\"\"\"\n\"\"\"one\"\"\"\n\"\"\"open";
        assert_eq!(
            inputs(text),
            [message("/x\n\n y\\"), message("one"), message("open")]
        );
    }

    #[test]
    fn a_slash_is_a_command_and_two_are_text() {
        let all = inputs("/help\n//etc/passwd?\n");
        assert_eq!(
            all,
            [Input::Command("/help".into()), message("/etc/passwd?")]
        );
    }

    #[test]
    fn ctrl_c_inside_a_message_drops_it() {
        struct Fake(Vec<Line>);
        impl Lines for Fake {
            fn line(&mut self, _: bool) -> anyhow::Result<Line> {
                Ok(self.0.remove(0))
            }
        }
        let mut lines = Fake(vec![Line::Text("a\\".into()), Line::Interrupted, Line::End]);
        assert_eq!(read(&mut lines).unwrap(), Input::Interrupted);
        assert_eq!(read(&mut lines).unwrap(), Input::End);
    }
}
