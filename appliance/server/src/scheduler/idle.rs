//! Sessions that nobody uses at the moment, for prompts that begin like them.

use v4_runtime::Session;

/// Shorter sessions are not worth their place.
const LEAST: usize = 8;

#[derive(Debug)]
struct Entry {
    session: Session,
    /// Several prompts may go on from it: it is copied, not taken.
    shared: bool,
    used: u64,
}

/// Sessions within a bound, the least recently used given up first.
#[derive(Debug)]
pub(super) struct Idle {
    entries: Vec<Entry>,
    most_bytes: u64,
    most: usize,
    clock: u64,
}

impl Idle {
    pub fn new(most_bytes: u64, most: usize) -> Self {
        Self {
            entries: Vec::new(),
            most_bytes,
            most,
            clock: 0,
        }
    }

    /// The session that holds most of the beginning of `ids`.
    pub fn take(&mut self, ids: &[u32]) -> Option<Session> {
        let best = (0..self.entries.len())
            .map(|i| (self.entries[i].session.reusable(ids), i))
            .filter(|&(tokens, _)| tokens > 0)
            .max()?;
        self.clock += 1;
        let entry = &mut self.entries[best.1];
        entry.used = self.clock;
        if entry.shared
            && let Ok(copy) = entry.session.fork()
        {
            return Some(copy);
        }
        Some(self.entries.remove(best.1).session)
    }

    /// A session whose request has ended.
    pub fn add(&mut self, session: Session) {
        self.put(session, false);
    }

    /// Where later prompts are likely to part from this one.
    pub fn checkpoint(&mut self, session: &Session) {
        if self.has(session) {
            return;
        }
        // Without memory for it there is none.
        if let Ok(copy) = session.fork() {
            self.put(copy, true);
        }
    }

    fn has(&self, session: &Session) -> bool {
        let mut all = self.entries.iter();
        all.any(|e| e.session.tokens() == session.tokens())
    }

    fn put(&mut self, session: Session, shared: bool) {
        if session.len() < LEAST || self.has(&session) {
            return;
        }
        self.clock += 1;
        self.entries.push(Entry {
            session,
            shared,
            used: self.clock,
        });
        while self.entries.len() > self.most || self.bytes() > self.most_bytes {
            if !self.evict() {
                break;
            }
        }
    }

    fn bytes(&self) -> u64 {
        let bytes = |e: &Entry| e.session.kv_bytes() as u64;
        self.entries.iter().map(bytes).sum()
    }

    /// Gives up the least recently used; false if there is none.
    pub fn evict(&mut self) -> bool {
        let oldest = (0..self.entries.len()).min_by_key(|&i| self.entries[i].used);
        oldest.map(|i| self.entries.remove(i)).is_some()
    }
}
