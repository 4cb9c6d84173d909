//! Sessions on disk, which outlive the service.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use v4_runtime::storage::{SessionError, Store};
use v4_runtime::{Engine, EngineError, Session};

use super::idle::{Named, same_conversation};
use crate::config::SessionFolder;
use crate::stamp::new_id;

/// Fewer tokens are faster to compute again than to look for.
const LEAST: usize = 32;

/// A store of sessions, each written as it grows.
#[derive(Debug)]
pub(super) struct DiskSessions {
    store: Store,
    limit: u64,
    /// Names of sessions that running requests write to.
    in_use: HashSet<String>,
}

impl DiskSessions {
    pub fn open(config: &SessionFolder) -> Result<Self, SessionError> {
        Ok(Self {
            store: Store::open(&config.folder, config.key.clone())?,
            limit: config.max_bytes,
            in_use: HashSet::new(),
        })
    }

    /// A stored session that holds more of the beginning of `ids` than `known` tokens.
    pub fn find(
        &self,
        engine: &Arc<Engine>,
        ids: &[u32],
        known: usize,
        context: usize,
        chunk: usize,
    ) -> Result<Option<Named>, EngineError> {
        let ids = &ids[..ids.len().saturating_sub(1)];
        if ids.len() < known + LEAST {
            return Ok(None);
        }
        let Some(found) = self.store.find(engine.fingerprint(), ids, known + LEAST)? else {
            return Ok(None);
        };
        let session = Session::restore(engine, context, chunk, &found.log, found.tokens)?;
        let steps = found.log.steps().iter();
        let places = steps.map(|step| (step.to as usize, step.landmark()));
        let same = same_conversation(found.tokens, found.log.tokens().len(), places);
        let name = name(found.log.path()).filter(|name| same && !Store::is_staying(name));
        Ok(Some(Named {
            turns: u64::from(name.is_some()),
            name,
            ..Named::new(session)
        }))
    }

    /// A name to write a request's session under: its own, unless another request writes
    /// there, or a new one.
    pub fn claim(&mut self, own: Option<String>) -> String {
        let name = match own {
            Some(own) if !self.in_use.contains(&own) => own,
            _ => new_id("s"),
        };
        self.in_use.insert(name.clone());
        name
    }

    /// That name, if no other request writes there.
    pub fn claim_as(&mut self, name: &str) -> Option<String> {
        let free = self.in_use.insert(name.to_owned());
        free.then(|| name.to_owned())
    }

    /// The request that wrote there has ended.
    pub fn release(&mut self, name: &str) {
        self.in_use.remove(name);
    }

    /// Writes what the file of that name lacks.
    pub fn save(&self, session: &Session, name: &str) -> Result<(), EngineError> {
        if session.len() < LEAST {
            return Ok(());
        }
        // Open no longer than it takes: other requests read it.
        let mut log = self.store.session(name, session.engine().fingerprint())?;
        session.save(&mut log)?;
        self.store.evict(self.limit, Some(log.path()))?;
        Ok(())
    }
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_stem()?.to_str()?.to_owned())
}
