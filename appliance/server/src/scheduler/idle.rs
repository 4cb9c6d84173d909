//! Sessions that nobody uses at the moment, for prompts that begin like them.

use v4_runtime::{Engine, EngineError, Hooks, Session};

/// Shorter sessions are not worth their place.
const LEAST: usize = 8;

/// A session, and the name that it is kept under on the disk.
#[derive(Debug)]
pub(super) struct Named {
    pub session: Session,
    pub name: Option<String>,
}

#[derive(Debug)]
struct Entry {
    named: Named,
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

/// Of a session's tokens, how many it can be had with without running any again, as a
/// beginning of `ids` that leaves the last one to be run; none if it is of another model.
fn usable(session: &Session, engine: &Engine, ids: &[u32]) -> usize {
    if !session.engine().is_same_as(engine) {
        return 0;
    }
    let ids = &ids[..ids.len().saturating_sub(1)];
    let both = session.tokens().iter().zip(ids);
    let same = both.take_while(|(a, b)| a == b).count();
    if same == session.len() {
        return same;
    }
    let marks = session.marks().filter(|&mark| mark <= same);
    marks.max().unwrap_or(0)
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

    /// A session that holds as much of the beginning of `ids` as any here, more than
    /// none. It is a copy, as other prompts may begin like it as well; without memory
    /// for one it is the session itself.
    pub fn take(&mut self, engine: &Engine, ids: &[u32]) -> Result<Option<Named>, EngineError> {
        let all = 0..self.entries.len();
        let best = all
            .map(|i| (usable(&self.entries[i].named.session, engine, ids), i))
            .max_by_key(|&(tokens, i)| (tokens, std::cmp::Reverse(i)));
        let Some((tokens @ 1.., i)) = best else {
            return Ok(None);
        };
        self.clock += 1;
        self.entries[i].used = self.clock;
        let held = self.entries[i].named.session.len();
        let mut named = match self.entries[i].named.session.fork() {
            Ok(session) => Named {
                session,
                name: self.entries[i].named.name.clone(),
            },
            Err(_) => self.entries.remove(i).named,
        };
        // A prompt that leaves most of it behind is of another conversation.
        if 2 * tokens < held {
            named.name = None;
        }
        named.session.rewind(tokens, &mut Hooks::default())?;
        Ok(Some(named))
    }

    /// A session whose request has ended.
    pub fn add(&mut self, named: Named) {
        let tokens = named.session.tokens();
        if tokens.len() < LEAST {
            return;
        }
        // What it goes on from is found in it.
        let same = |session: &Session| session.engine().is_same_as(named.session.engine());
        self.entries.retain(|e| {
            let session = &e.named.session;
            !(tokens.starts_with(session.tokens()) && same(session))
        });
        self.clock += 1;
        self.entries.push(Entry {
            named,
            used: self.clock,
        });
        while self.entries.len() > self.most || self.bytes() > self.most_bytes {
            if !self.evict() {
                break;
            }
        }
    }

    fn bytes(&self) -> u64 {
        let bytes = |e: &Entry| e.named.session.kv_bytes() as u64;
        self.entries.iter().map(bytes).sum()
    }

    /// Gives up the least recently used; false if there is none.
    pub fn evict(&mut self) -> bool {
        let oldest = (0..self.entries.len()).min_by_key(|&i| self.entries[i].used);
        oldest.map(|i| self.entries.remove(i)).is_some()
    }
}
