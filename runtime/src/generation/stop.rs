//! Stop strings: found across token boundaries, and never shown in part.

/// Looks for stop strings in streamed text and holds back what might be the
/// beginning of one.
#[derive(Debug, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopFilter {
    /// A filter for non-empty `stops`; without any, text passes unchanged.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        StopFilter {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            ..StopFilter::default()
        }
    }

    /// Takes the next piece of text and returns what can be shown. After a
    /// stop string has been met, nothing can.
    #[must_use]
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        let earliest = self.stops.iter().filter_map(|s| self.held.find(s)).min();
        if let Some(at) = earliest {
            self.stopped = true;
            let mut shown = std::mem::take(&mut self.held);
            shown.truncate(at);
            return shown;
        }
        let keep = self.possible_beginning();
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// True once a stop string has been met.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The end of the text: what was held back is text after all.
    #[must_use]
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn possible_beginning(&self) -> usize {
        let held = self.held.as_str();
        self.stops
            .iter()
            .flat_map(|stop| stop.char_indices().map(move |(n, _)| &stop[..n]))
            .filter(|beginning| held.ends_with(beginning))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut filter = StopFilter::new(&stops);
        let mut shown = String::new();
        for piece in pieces {
            shown += &filter.push(piece);
        }
        shown += &filter.finish();
        (shown, filter.stopped())
    }

    #[test]
    fn a_stop_split_over_pieces_is_found_and_left_out() {
        assert_eq!(
            through(&["STOP"], &["ab S", "T", "OPcd"]),
            ("ab ".into(), true)
        );
    }

    #[test]
    fn a_false_beginning_is_shown_in_the_end() {
        assert_eq!(
            through(&["STOP"], &["ST", "ART ST"]),
            ("START ST".into(), false)
        );
    }

    #[test]
    fn the_earliest_of_several_stops_wins() {
        assert_eq!(through(&["cd", "b"], &["abcd"]), ("a".into(), true));
    }

    #[test]
    fn a_repeated_beginning_is_not_missed() {
        assert_eq!(
            through(&["aab"], &["a", "a", "a", "b", "x"]),
            ("a".into(), true)
        );
    }

    #[test]
    fn stops_of_wide_characters_are_held_whole() {
        assert_eq!(
            through(&["é!"], &["caf", "é", "s"]),
            ("cafés".into(), false)
        );
        assert_eq!(through(&["é!"], &["caf", "é", "!"]), ("caf".into(), true));
    }

    #[test]
    fn without_stops_text_is_never_held_back() {
        let mut filter = StopFilter::new(&[]);
        assert_eq!(filter.push("abc"), "abc");
    }
}
