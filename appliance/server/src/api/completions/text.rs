//! Converts tokens to raw text: whole characters, stop strings, and the limits of an
//! indented block.

use v4_runtime::generation::StopFilter;
use v4_tokenizer::{DecodeStream, Tokenizer};

use crate::http::{ApiError, Kind};

/// Why a text is over before the model ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cut {
    /// A stop string was met.
    Stop(String),
    /// A line is less indented than the block that is written.
    Indent,
}

/// Text as its tokens come.
#[derive(Debug)]
pub(super) struct Text {
    /// Until the end.
    decoder: Option<DecodeStream>,
    indent: Indent,
    stops: StopFilter,
    stop_strings: Vec<String>,
    /// What was decoded of late, to tell which stop string was met.
    recent: String,
    /// Characters decoded.
    decoded: usize,
    /// Characters shown.
    shown: usize,
}

impl Text {
    /// Ends at one of `stops`, and before a line of less than `indent` blanks.
    pub fn new(tokenizer: &Tokenizer, stops: &[String], indent: usize) -> Self {
        Self {
            decoder: Some(tokenizer.decode_stream()),
            indent: Indent::new(indent),
            stops: StopFilter::new(stops),
            stop_strings: stops.to_vec(),
            recent: String::new(),
            decoded: 0,
            shown: 0,
        }
    }

    /// The text that a token completes.
    pub fn push(&mut self, id: u32) -> Result<String, ApiError> {
        let text = self.decoder.as_mut().map(|decoder| decoder.push(id));
        let text = text.transpose().map_err(|e| {
            ApiError::new(
                Kind::Internal,
                format!("The token that the model chose has no text: {e}"),
            )
        })?;
        Ok(self.take(&text.unwrap_or_default()))
    }

    /// The end of the text.
    pub fn finish(&mut self) -> String {
        let rest = self.decoder.take().map(DecodeStream::finish);
        let mut shown = self.take(&rest.unwrap_or_default());
        if self.cut().is_some() {
            return shown;
        }
        let held = self.indent.finish();
        let rest = self.stops.push(&held) + &self.stops.finish();
        self.shown += rest.chars().count();
        shown.push_str(&rest);
        shown
    }

    fn take(&mut self, text: &str) -> String {
        self.decoded += text.chars().count();
        let inside = self.indent.push(text);
        let longest = self.stop_strings.iter().map(String::len).max().unwrap_or(0);
        self.recent.push_str(&inside);
        let shown = self.stops.push(&inside);
        if !self.stops.stopped() {
            let old = self.recent.len().saturating_sub(longest);
            let old = (0..=old).rev().find(|&at| self.recent.is_char_boundary(at));
            self.recent.drain(..old.unwrap_or(0));
        }
        self.shown += shown.chars().count();
        shown
    }

    /// Why it is over, if it is.
    pub fn cut(&self) -> Option<Cut> {
        if self.stops.stopped() {
            let met = self.stop_strings.iter().filter(|s| !s.is_empty());
            let met = met.filter_map(|stop| Some((self.recent.find(stop.as_str())?, stop)));
            let first = met.min_by_key(|(at, _)| *at);
            return Some(Cut::Stop(first.map_or(String::new(), |(_, s)| s.clone())));
        }
        self.indent.over.then_some(Cut::Indent)
    }

    /// Characters of all that the model wrote.
    pub fn decoded(&self) -> usize {
        self.decoded
    }

    /// Characters of what was handed out.
    pub fn shown(&self) -> usize {
        self.shown
    }
}

/// Ends a text before the first line, after the one that it begins in, that has less
/// indentation than the block. Empty lines do not count.
#[derive(Debug, Default)]
struct Indent {
    least: usize,
    /// A line's end and blanks, until it is known what follows.
    held: String,
    over: bool,
}

impl Indent {
    fn new(least: usize) -> Self {
        Self {
            least,
            ..Self::default()
        }
    }

    fn push(&mut self, text: &str) -> String {
        if self.least == 0 {
            return text.to_owned();
        }
        let mut shown = String::new();
        for c in text.chars() {
            if self.over {
                break;
            }
            match (self.held.is_empty(), c) {
                (true, '\n') | (false, '\n' | '\r' | ' ' | '\t') => self.held.push(c),
                (true, _) => shown.push(c),
                (false, _) => {
                    let line = self.held.rsplit('\n').next().unwrap_or_default();
                    if line.chars().count() < self.least {
                        self.over = true;
                        break;
                    }
                    shown.push_str(&std::mem::take(&mut self.held));
                    shown.push(c);
                }
            }
        }
        shown
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use v4_tokenizer::Marks;

    use super::*;

    fn tiny() -> Tokenizer {
        let tiny = "../../tests/data/tiny-v4/tokenizer.json";
        Tokenizer::from_json_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join(tiny)).unwrap()
    }

    #[test]
    fn characters_come_whole_and_stops_not_at_all() {
        let tokenizer = tiny();
        let ids = tokenizer.encode("añ 你好 🐳!", Marks::Plain).unwrap();
        for (stop, expected) in [
            ("none", "añ 你好 🐳!"),
            ("好", "añ 你"),
            ("!", "añ 你好 🐳"),
        ] {
            let mut text = Text::new(&tokenizer, &[stop.to_owned()], 0);
            let mut all = String::new();
            for &id in &ids {
                let piece = text.push(id).unwrap();
                assert!(!piece.contains('\u{fffd}'));
                all.push_str(&piece);
            }
            all.push_str(&text.finish());
            assert_eq!(all, expected);
            let met = (stop != "none").then(|| Cut::Stop(stop.to_owned()));
            assert_eq!(text.cut(), met);
            assert_eq!(text.shown(), expected.chars().count());
        }
        assert!(Text::new(&tokenizer, &[], 0).push(99_999).is_err());
    }

    #[test]
    fn a_text_ends_where_its_block_does() {
        let whole = |least, pieces: &[&str]| {
            let mut indent = Indent::new(least);
            let mut text: String = pieces.iter().map(|piece| indent.push(piece)).collect();
            let over = indent.over;
            if !over {
                text.push_str(&indent.finish());
            }
            (text, over)
        };
        let pieces = ["a + b\n    c\n", "\n", "  ", "  d\n", "  e\nf"];
        assert_eq!(whole(4, &pieces), ("a + b\n    c\n\n    d".into(), true));
        assert_eq!(
            whole(2, &pieces),
            ("a + b\n    c\n\n    d\n  e".into(), true)
        );
        assert_eq!(whole(0, &pieces), (pieces.concat(), false));
        assert_eq!(whole(4, &["x", "\n  "]), ("x\n  ".into(), false));
        assert_eq!(whole(1, &["x\n\ty\n"]), ("x\n\ty\n".into(), false));
    }

    #[test]
    fn the_stop_string_that_came_first_is_named() {
        let mut text = Text {
            decoder: None,
            ..Text::new(&tiny(), &["c d".into(), "b".into(), "x".into()], 0)
        };
        let shown: String = ["a ", "c", " ", "b c d"]
            .iter()
            .map(|p| text.take(p))
            .collect();
        assert_eq!(shown, "a c ");
        assert_eq!(text.cut(), Some(Cut::Stop("b".into())));
    }
}
