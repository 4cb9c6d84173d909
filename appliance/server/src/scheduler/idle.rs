//! Idle sessions, kept for prompts that begin like them.

use v4_runtime::storage::Landmark;
use v4_runtime::{Engine, EngineError, Hooks, Session};

/// Shorter sessions are not worth keeping.
const LEAST: usize = 8;
/// A session is copied for at least this many tokens of it, or for this part of it.
const WORTH: (usize, usize) = (32, 16);
/// A session is dropped as if it had been used this many events later for each time that
/// it was continued, up to this many times: a conversation outlives requests that came
/// once and after it.
const BONUS: (u64, u64) = (16, 4);
/// Sessions that must stay take at most this part of the memory.
const STAYING_SHARE: u64 = 2;

/// A session, and what is known of the conversation in it.
#[derive(Debug)]
pub(super) struct Named {
    pub session: Session,
    /// The name that it is kept under on disk.
    pub name: Option<String>,
    /// How many times it was continued.
    pub turns: u64,
    /// The entry that it continues from, whose place it takes.
    pub from: Option<u64>,
    /// Dropped after all others.
    pub stays: bool,
}

impl Named {
    /// A session that nothing is known of.
    pub fn new(session: Session) -> Self {
        Self {
            session,
            name: None,
            turns: 0,
            from: None,
            stays: false,
        }
    }
}

#[derive(Debug)]
struct Entry {
    named: Named,
    number: u64,
    used: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        (self.named.session.kv_bytes() + self.named.session.marks_bytes()) as u64
    }

    /// Those with less are given up first.
    fn worth(&self) -> (bool, u64) {
        let (bonus, most) = BONUS;
        let turns = self.named.turns.min(most);
        (self.named.stays, self.used + bonus * turns)
    }
}

/// Sessions within a memory limit; the least valuable are dropped first.
#[derive(Debug)]
pub(super) struct Idle {
    entries: Vec<Entry>,
    most_bytes: u64,
    most: usize,
    clock: u64,
}

/// A session here that a prompt can continue from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Best {
    /// Tokens in common that need not be run again.
    pub tokens: usize,
    at: usize,
}

/// Of a session's tokens, how many it can be had with without running any again, as a
/// beginning of `ids` that leaves the last one to be run; none if it is of another model.
pub(super) fn usable(session: &Session, engine: &Engine, ids: &[u32]) -> usize {
    if !session.engine().is_same_as(engine) {
        return 0;
    }
    let ids = &ids[..ids.len().saturating_sub(1)];
    let both = session.tokens().iter().zip(ids);
    let same = both.take_while(|(a, b)| a == b).count();
    if same == session.len() {
        return same;
    }
    let marks = session.marks().map(|(mark, _)| mark);
    marks.filter(|&mark| mark <= same).max().unwrap_or(0)
}

/// Whether to copy a session for that many of its tokens.
pub(super) fn worth_copying(tokens: usize, session: &Session) -> bool {
    let (enough, part) = WORTH;
    tokens >= enough.min(session.len().div_ceil(part)).max(1)
}

/// Whether a prompt that has `tokens` tokens in common with a session continues with the
/// conversation in it: it shares more than the system prompt, and leaves no more than a
/// quarter behind of what came before the last answer. Others begin a conversation of
/// their own, and take nothing's place.
pub(super) fn same_conversation(
    tokens: usize,
    held: usize,
    places: impl Iterator<Item = (usize, Landmark)>,
) -> bool {
    let (mut root, mut last) = (0, None);
    for (at, landmark) in places {
        match landmark {
            Landmark::Root => root = at,
            Landmark::Turn => last = Some(at),
            Landmark::Way => {}
        }
    }
    let last = last.unwrap_or(held);
    tokens > root && 4 * last.saturating_sub(tokens) <= last
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

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The session that holds as much of the beginning of `ids` as any here, more than
    /// none.
    pub fn best(&self, engine: &Engine, ids: &[u32]) -> Option<Best> {
        let all = self.entries.iter().enumerate();
        let all = all.map(|(at, e)| Best {
            tokens: usable(&e.named.session, engine, ids),
            at,
        });
        all.max_by_key(|best| (best.tokens, std::cmp::Reverse(best.at)))
            .filter(|best| worth_copying(best.tokens, &self.entries[best.at].named.session))
    }

    /// That session, as far as it is of use. It is a copy, as other prompts may begin like
    /// it as well; without memory for one it is the session itself.
    pub fn take(&mut self, Best { tokens, at }: Best) -> Result<Named, EngineError> {
        let used = self.tick();
        let entry = &mut self.entries[at];
        entry.used = used;
        let session = &entry.named.session;
        // What is to stay belongs to no conversation.
        let same = !entry.named.stays && same_conversation(tokens, session.len(), session.marks());
        let mut named = match session.fork() {
            Ok(session) => Named {
                name: entry.named.name.clone(),
                turns: entry.named.turns,
                from: Some(entry.number),
                ..Named::new(session)
            },
            Err(_) => self.entries.remove(at).named,
        };
        match same {
            true => named.turns += 1,
            false => (named.name, named.turns, named.from) = (None, 0, None),
        }
        named.stays = false;
        named.session.rewind(tokens, &mut Hooks::default())?;
        Ok(named)
    }

    /// A session whose request has ended.
    pub fn add(&mut self, named: Named) {
        let tokens = named.session.tokens();
        if tokens.len() < LEAST {
            return;
        }
        // What it continues from is found in it, or was left behind.
        let same = |session: &Session| session.engine().is_same_as(named.session.engine());
        self.entries.retain(|e| {
            let session = &e.named.session;
            let within = tokens.starts_with(session.tokens()) && same(session);
            let left = named.from == Some(e.number);
            !(within || left) || (e.named.stays && !named.stays)
        });
        let number = self.tick();
        self.entries.push(Entry {
            named,
            number,
            used: number,
        });
        while self.too_many() {
            if !self.evict() {
                break;
            }
        }
    }

    fn too_many(&mut self) -> bool {
        // What is to stay is not counted, but must leave room for what comes and goes.
        let staying = self.entries.iter().filter(|e| e.named.stays);
        let most = self.most_bytes / STAYING_SHARE;
        if staying.map(Entry::bytes).sum::<u64>() > most
            && let Some(oldest) = self.entries.iter_mut().find(|e| e.named.stays)
        {
            oldest.named.stays = false;
        }
        let passing = self.entries.iter().filter(|e| !e.named.stays).count();
        let bytes: u64 = self.entries.iter().map(Entry::bytes).sum();
        passing > self.most || bytes > self.most_bytes
    }

    /// Drops the least valuable session; false if there is none.
    pub fn evict(&mut self) -> bool {
        let all = self.entries.iter().enumerate();
        let least = all.min_by_key(|(_, e)| e.worth()).map(|(at, _)| at);
        least.map(|at| self.entries.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_goes_on_past_its_system_prompt_and_near_its_last_turn() {
        use Landmark::{Root, Turn, Way};
        let same = |tokens, places: &[(usize, Landmark)]| {
            same_conversation(tokens, 1000, places.iter().copied())
        };
        // Up to a quarter may be left behind: of all of it,
        assert!(same(750, &[]) && !same(749, &[]));
        assert!(same(750, &[(800, Way)]) && !same(749, &[(800, Way)]));
        // of what came before the last answer.
        let turns = [(300, Turn), (800, Turn)];
        assert!(same(600, &turns) && !same(599, &turns));
        assert!(same(900, &turns));
        // What has the system prompt in common, and no more, is another one.
        let begun = [(100, Root), (120, Turn)];
        assert!(same(101, &begun) && !same(100, &begun));
    }
}
