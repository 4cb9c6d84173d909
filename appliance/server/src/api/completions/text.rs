//! Raw text from tokens: characters whole, stop strings found.

use v4_runtime::generation::StopFilter;
use v4_runtime::tokenizer::{DecodeStream, Tokenizer};

use crate::http::{ApiError, Kind};

/// Text as its tokens come.
#[derive(Debug)]
pub(super) struct Text {
    /// Until the end.
    decoder: Option<DecodeStream>,
    stops: StopFilter,
}

impl Text {
    pub fn new(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        Self {
            decoder: Some(tokenizer.decode_stream()),
            stops: StopFilter::new(stops),
        }
    }

    /// The text that a token completes.
    pub fn push(&mut self, id: u32) -> Result<String, ApiError> {
        let text = self.decoder.as_mut().map(|decoder| decoder.push(id));
        let text = text.transpose().map_err(|e| {
            ApiError::new(
                Kind::Internal,
                format!("The model's choice has no text: {e}"),
            )
        })?;
        Ok(self.stops.push(&text.unwrap_or_default()))
    }

    /// The end of the text.
    pub fn finish(&mut self) -> String {
        let rest = self.decoder.take().map(DecodeStream::finish);
        let shown = self.stops.push(&rest.unwrap_or_default());
        shown + &self.stops.finish()
    }

    /// Whether a stop string was met.
    pub fn stopped(&self) -> bool {
        self.stops.stopped()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use v4_runtime::tokenizer::Marks;

    use super::*;

    #[test]
    fn characters_come_whole_and_stops_not_at_all() {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
        let tokenizer = Tokenizer::from_json_file(&tiny).unwrap();
        let ids = tokenizer.encode("añ 你好 🐳!", Marks::Plain).unwrap();
        for (stop, expected) in [
            ("none", "añ 你好 🐳!"),
            ("好", "añ 你"),
            ("!", "añ 你好 🐳"),
        ] {
            let mut text = Text::new(&tokenizer, &[stop.to_owned()]);
            let mut all = String::new();
            for &id in &ids {
                let piece = text.push(id).unwrap();
                assert!(!piece.contains('\u{fffd}'));
                all.push_str(&piece);
            }
            all.push_str(&text.finish());
            assert_eq!(all, expected);
            assert_eq!(text.stopped(), stop != "none");
        }
        assert!(Text::new(&tokenizer, &[]).push(99_999).is_err());
    }
}
