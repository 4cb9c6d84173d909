/// Most lines of notes; histories repeat themselves.
const MOST_NOTES: usize = 8;

/// What was left out or filled in.
#[derive(Debug, Default)]
pub(super) struct Notes {
    lines: Vec<String>,
    more: usize,
}

impl Notes {
    pub fn add(&mut self, line: String) {
        match self.lines.len() < MOST_NOTES {
            true => self.lines.push(line),
            false => self.more += 1,
        }
    }

    pub fn lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines
                .push(format!("and {} more like these", self.more));
        }
        self.lines
    }
}
