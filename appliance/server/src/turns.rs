//! Turns with calls of tools, as the model wrote them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use v4_chat::Written;

/// Ids of all turns together.
const MOST_IDS: usize = 4 << 20;

/// The latest turns, by the ids of their calls.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_call: HashMap<String, Arc<Written>>,
    order: VecDeque<String>,
    ids: usize,
}

impl Turns {
    fn known(&self) -> MutexGuard<'_, Known> {
        // What is in it is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn with a call of this id.
    pub fn get(&self, call: &str) -> Option<Arc<Written>> {
        self.known().by_call.get(call).cloned()
    }

    /// Remembers a turn by its calls.
    pub fn put(&self, calls: Vec<String>, turn: Written) {
        let turn = Arc::new(turn);
        let mut known = self.known();
        for call in calls {
            known.ids += turn.len();
            known.order.push_back(call.clone());
            known.by_call.insert(call, Arc::clone(&turn));
        }
        while known.ids > MOST_IDS {
            let Some(oldest) = known.order.pop_front() else {
                break;
            };
            if let Some(turn) = known.by_call.remove(&oldest) {
                known.ids -= turn.len();
            }
        }
    }
}
