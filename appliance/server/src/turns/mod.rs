//! The model's turns as it wrote them, so that later prompts contain them unchanged.
//!
//! They are found by all that comes before them. With sessions on disk they are kept
//! next to these: what a session holds is useful only to prompts that spell its turns in
//! the same way.

mod log;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::TurnLog;
use v4_chat::{Place, Written};
use v4_runtime::storage::Fingerprint;
use v4_tokenizer::Tokenizer;

use crate::config::SessionFolder;
use crate::notify::Notifier;

/// Ids of all turns together.
const MOST_IDS: usize = 4 << 20;
/// What a turn costs in addition to its ids, counted in ids.
const OF_A_TURN: usize = 32;
/// Turns at one place: answers to the same prompt.
const MOST_AT_A_PLACE: usize = 4;

/// The turns that were used last.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    known: Mutex<Known>,
    log: Option<Mutex<TurnLog>>,
}

#[derive(Debug, Default)]
struct Known {
    by_place: HashMap<Place, Here>,
    /// By when they were used.
    order: BTreeMap<u64, Place>,
    clock: u64,
    ids: usize,
}

/// What was written at a place, the latest last.
#[derive(Debug, Default)]
struct Here {
    turns: Vec<Arc<Written>>,
    used: u64,
}

impl Here {
    fn cost(&self) -> usize {
        self.turns.iter().map(|turn| turn.len() + OF_A_TURN).sum()
    }
}

impl Known {
    fn touch(&mut self, place: Place) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(here) = self.by_place.get_mut(&place) {
            self.order.remove(&here.used);
            here.used = clock;
            self.order.insert(clock, place);
        }
    }

    /// Whether it was not known.
    fn put(&mut self, turn: Written) -> bool {
        let place = turn.place;
        let here = self.by_place.entry(place).or_default();
        self.ids -= here.cost();
        let at = here.turns.iter().position(|known| **known == turn);
        let turn = match at {
            Some(at) => here.turns.remove(at),
            None => Arc::new(turn),
        };
        here.turns.push(turn);
        if here.turns.len() > MOST_AT_A_PLACE {
            here.turns.remove(0);
        }
        self.ids += here.cost();
        self.touch(place);
        while self.ids > MOST_IDS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some(here) = self.by_place.remove(&oldest) {
                self.ids -= here.cost();
            }
        }
        at.is_none()
    }

    /// All turns, those first that were used longest ago.
    fn all(&self) -> impl Iterator<Item = &Written> {
        let places = self.order.values();
        let here = places.filter_map(|place| self.by_place.get(place));
        here.flat_map(|here| here.turns.iter().map(AsRef::as_ref))
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    /// With those that are stored next to the sessions. A file that cannot be
    /// used costs what was in it, and is logged.
    pub fn open(
        store: &SessionFolder,
        model: Fingerprint,
        tokenizer: &Tokenizer,
        notifier: &Notifier,
    ) -> Self {
        let mut known = Known::default();
        let each = |turn: Written| {
            if turn.is_sound(tokenizer) {
                known.put(turn);
            }
        };
        let log = match TurnLog::open(store, model, each) {
            Ok((log, damage)) => {
                if let Some(damage) = damage {
                    notifier.log(&format!(
                        "{}: {damage}; earlier answers may have to be read again once",
                        log.path().display()
                    ));
                }
                Some(Mutex::new(log))
            }
            Err(error) => {
                notifier.log(&format!("answers will not survive a restart: {error}"));
                None
            }
        };
        Self {
            known: Mutex::new(known),
            log,
        }
    }

    /// The turns that were written at a place, the latest last.
    pub fn at(&self, place: Place) -> Vec<Arc<Written>> {
        let mut known = held(&self.known);
        known.touch(place);
        let here = known.by_place.get(&place);
        here.map(|here| here.turns.clone()).unwrap_or_default()
    }

    /// Remembers a turn.
    ///
    /// # Errors
    /// If it cannot be written to the disk; it is remembered all the same.
    pub fn put(&self, turn: Written) -> std::io::Result<()> {
        let mut known = held(&self.known);
        if !known.put(turn.clone()) {
            return Ok(());
        }
        let Some(log) = &self.log else {
            return Ok(());
        };
        let mut log = held(log);
        log.append(&turn)?;
        match log.wants_rewriting() {
            true => log.rewrite(known.all()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(place: u8, rest: u32, len: usize) -> Written {
        Written {
            place: Place([place; 16]),
            reasoning: None,
            rest: vec![rest; len],
        }
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let turns = Turns::default();
        let large = MOST_IDS / 3;
        for place in 0..3 {
            turns.put(turn(place, 1, large - 100)).unwrap();
        }
        assert_eq!(turns.at(Place([0; 16])).len(), 1);
        turns.put(turn(3, 1, large - 100)).unwrap();
        let there = |place| !turns.at(Place([place; 16])).is_empty();
        assert!(there(0) && !there(1) && there(2) && there(3));
        assert!(held(&turns.known).ids <= MOST_IDS);
    }

    #[test]
    fn answers_to_one_prompt_stand_beside_each_other() {
        let turns = Turns::default();
        for rest in [1, 2, 3, 4, 5, 3] {
            turns.put(turn(7, rest, 2)).unwrap();
        }
        let there = turns.at(Place([7; 16]));
        let rests: Vec<_> = there.iter().map(|turn| turn.rest[0]).collect();
        assert_eq!(rests, [2, 4, 5, 3]);
        let known = held(&turns.known);
        assert_eq!(known.ids, 4 * (2 + OF_A_TURN));
        assert_eq!(known.order.len(), 1);
    }
}
