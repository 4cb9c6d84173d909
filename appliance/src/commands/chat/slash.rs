//! The commands of a chat.

use std::path::PathBuf;

use crate::args::EffortArg;
use crate::args::values::temperature;
use crate::options::Thinking;

/// What `/help` prints.
pub const HELP: &str = "\
/think [on|off|low|high|max]  show or set reasoning before answers, and its depth
/system [TEXT]                show or set the system message (- removes it)
/temp [T]                     show or set the temperature
/seed [N]                     show or set the seed
/stats                        show context use and speed
/save FILE                    write the conversation to FILE as JSON
/reset                        forget the conversation
/quit                         leave (also Ctrl-D)
A trailing \\ continues on the next line; \"\"\" starts and ends a block of lines;
// sends a line that starts with a slash; Ctrl-C stops an answer.";

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub enum Slash {
    /// List the commands.
    Help,
    /// Show or set thinking.
    Think(Option<Thinking>),
    /// Show, set or (inner `None`) remove the system message.
    System(Option<Option<String>>),
    /// Show or set the temperature.
    Temp(Option<f32>),
    /// Show or set the seed.
    Seed(Option<u64>),
    /// Show counts and speed.
    Stats,
    /// Write the conversation to a new file.
    Save(PathBuf),
    /// Forget the conversation.
    Reset,
    /// Leave.
    Quit,
}

/// Parses a line that begins with a slash; the error says what is wrong.
pub fn parse(line: &str) -> Result<Slash, String> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let given = (!rest.is_empty()).then_some(rest);
    let alone = |command| match given {
        Some(_) => Err(format!("{word} takes no argument")),
        None => Ok(command),
    };
    match word {
        "/help" | "/?" => alone(Slash::Help),
        "/stats" => alone(Slash::Stats),
        "/reset" => alone(Slash::Reset),
        "/quit" | "/exit" => alone(Slash::Quit),
        "/think" => Ok(Slash::Think(given.map(think).transpose()?)),
        "/system" => Ok(Slash::System(
            given.map(|text| (text != "-").then(|| text.to_owned())),
        )),
        "/temp" => match given.map(temperature).transpose() {
            Ok(value) => Ok(Slash::Temp(value)),
            Err(e) => Err(format!("/temp {rest}: {e}")),
        },
        "/seed" => match given.map(str::parse).transpose() {
            Ok(value) => Ok(Slash::Seed(value)),
            Err(_) => Err(format!("/seed {rest}: must be a whole number")),
        },
        "/save" => match given {
            Some(path) => Ok(Slash::Save(path.into())),
            None => Err("/save needs a file name".into()),
        },
        _ => Err(format!(
            "{word}: no such command; /help lists them, and // sends a line that starts with a slash"
        )),
    }
}

fn think(word: &str) -> Result<Thinking, String> {
    let (on, effort) = match word {
        "on" => (true, None),
        "off" => (false, None),
        "low" => (true, Some(EffortArg::Low)),
        "high" => (true, Some(EffortArg::High)),
        "max" => (true, Some(EffortArg::Max)),
        _ => return Err(format!("/think {word}: must be on, off, low, high or max")),
    };
    Ok(Thinking { on, effort })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_show_without_and_set_with_an_argument() {
        assert_eq!(parse("/temp"), Ok(Slash::Temp(None)));
        assert_eq!(parse("/temp 0.5"), Ok(Slash::Temp(Some(0.5))));
        assert_eq!(parse("/seed 7"), Ok(Slash::Seed(Some(7))));
        assert_eq!(
            parse("/system  Be  brief. "),
            Ok(Slash::System(Some(Some("Be  brief.".into()))))
        );
        assert_eq!(parse("/system -"), Ok(Slash::System(Some(None))));
        let max = Thinking {
            on: true,
            effort: Some(EffortArg::Max),
        };
        assert_eq!(parse("/think max"), Ok(Slash::Think(Some(max))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, part) in [
            ("/nope x", "/nope: no such command"),
            ("/temp hot", "/temp hot: must be a number"),
            ("/temp -1", "from 0 to 100"),
            ("/seed -1", "must be a whole number"),
            ("/think maybe", "on, off"),
            ("/save", "file name"),
            ("/reset now", "takes no argument"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for word in [
            "/think", "/system", "/temp", "/seed", "/stats", "/save", "/reset", "/quit",
        ] {
            assert!(HELP.contains(word), "{word}");
        }
    }
}
