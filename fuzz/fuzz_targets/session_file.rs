//! Any bytes as a session file, and as the steps of one whose header is good: no panic,
//! no more memory than the file has bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use v4_runtime::storage::{Fingerprint, Landmark, SessionKey, SessionLog};

const MODEL: Fingerprint = Fingerprint([7; 32]);

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.session");
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    let key = (kind & 2 > 0).then(|| SessionKey::new([1; 32]));
    let mut file = Vec::new();
    if kind & 1 > 0 {
        let mut log = SessionLog::open(&path, MODEL, key.as_ref()).expect("a new one");
        log.append(&[1, 2, 3], vec![4; 50], vec![5; 70], Landmark::Turn)
            .expect("a step");
        drop(log);
        file = std::fs::read(&path).expect("ours");
    }
    // What is given is laid over it.
    for (to, byte) in file.iter_mut().zip(bytes) {
        *to ^= byte;
    }
    file.extend(bytes.iter().skip(file.len()));
    std::fs::write(&path, &file).expect("written");
    for model in [Some(MODEL), None] {
        let Ok(log) = SessionLog::open_read(&path, model, key.as_ref()) else {
            continue;
        };
        for step in 0..log.steps().len() {
            let _ = (log.rows(step), log.state(step));
        }
    }
});
