//! What was written comes back, whatever happens to the file.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const MODEL: Fingerprint = Fingerprint([7; 32]);

/// A step of made-up content.
fn step(i: u32) -> (Vec<u32>, Vec<u8>, Vec<u8>) {
    let tokens = (0..i % 5 + 1).map(|t| i * 100 + t).collect();
    let rows = vec![i as u8; (i * 37 % 300) as usize];
    let state = vec![!(i as u8); (i * 91 % 500) as usize + 1];
    (tokens, rows, state)
}

fn append(log: &mut SessionLog, i: u32) {
    let (tokens, rows, state) = step(i);
    log.append(&tokens, &rows, &state).unwrap();
}

/// Checks that the log has the steps `0..n`.
fn check(log: &SessionLog, n: u32) {
    let tokens: Vec<u32> = (0..n).flat_map(|i| step(i).0).collect();
    assert_eq!(log.tokens(), tokens);
    assert_eq!(log.steps().len(), n as usize);
    for i in 0..n {
        let (_, rows, state) = step(i);
        assert_eq!(log.rows(i as usize).unwrap(), rows);
        assert_eq!(log.state(i as usize).unwrap(), state);
    }
}

fn open(path: &Path) -> Result<SessionLog, SessionError> {
    SessionLog::open(path, MODEL)
}

#[test]
fn steps_come_back_and_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    for n in 0..10 {
        let mut log = open(&path).unwrap();
        check(&log, n);
        append(&mut log, n);
        check(&log, n + 1);
    }
    let mut log = open(&path).unwrap();
    log.keep(4).unwrap();
    check(&log, 4);
    drop(log);
    let mut log = open(&path).unwrap();
    check(&log, 4);
    append(&mut log, 4);
    drop(log);
    check(&open(&path).unwrap(), 5);
    assert_eq!(open(&path).unwrap().steps_within(0), 0);
}

#[cfg(unix)]
#[test]
fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    drop(open(&path).unwrap());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn others_and_other_models_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let mut log = open(&path).unwrap();
    append(&mut log, 0);
    assert!(matches!(open(&path), Err(SessionError::Busy { .. })));
    drop(log);
    let other = SessionLog::open(&path, Fingerprint([8; 32])).unwrap_err();
    assert!(other.to_string().contains("another model"), "{other}");
    check(&open(&path).unwrap(), 1);
    for text in ["x", "a text that is no session, and longer than a magic"] {
        let path = dir.path().join("text");
        fs::write(&path, text).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("no session file"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "left as it was");
    }
    assert!(open(dir.path()).is_err());
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    fs::write(&path, bytes).unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("format 9"), "{error}");
}

/// A crash leaves what was synced, and anything of what was not: here the file as it
/// was before a step, with the first bytes of what the step wrote.
#[test]
fn a_crash_at_any_byte_of_a_step_leaves_the_steps_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let mut log = open(&path).unwrap();
    for i in 0..5 {
        append(&mut log, i);
    }
    let before = fs::read(&path).unwrap();
    append(&mut log, 5);
    drop(log);
    let after = fs::read(&path).unwrap();
    let crashed = dir.path().join("crashed");
    for cut in before.len()..=after.len() {
        for zeros in [0, 100] {
            let mut bytes = before.clone();
            bytes.extend(&after[before.len()..cut]);
            bytes.resize(bytes.len() + zeros, 0);
            fs::write(&crashed, &bytes).unwrap();
            let mut log = open(&crashed).unwrap();
            check(&log, 5);
            append(&mut log, 5);
            check(&log, 6);
        }
    }
    // The commit itself, written in part: all of the step is there by then.
    let commits = 512..1024 + 64;
    for cut in commits.clone() {
        let mut bytes = after.clone();
        bytes[cut..commits.end].copy_from_slice(&before[cut..commits.end]);
        fs::write(&crashed, &bytes).unwrap();
        let log = open(&crashed).unwrap();
        check(&log, log.steps().len() as u32);
        assert!(log.steps().len() >= 5);
    }
}

#[test]
fn a_file_that_was_cut_or_changed_is_an_error_with_what_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let mut log = open(&path).unwrap();
    for i in 0..4 {
        append(&mut log, i);
    }
    let sound = log.steps()[1].to;
    drop(log);
    let bytes = fs::read(&path).unwrap();
    let damaged = dir.path().join("damaged");
    fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    let error = open(&damaged).unwrap_err();
    assert!(matches!(error, SessionError::Corrupt { .. }), "{error}");
    let mut flipped = 0;
    for at in 4096..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        fs::write(&damaged, &bytes).unwrap();
        match open(&damaged) {
            Err(SessionError::Corrupt { valid, .. }) => {
                flipped += 1;
                assert!(valid <= 10_000);
            }
            Err(error) => panic!("byte {at}: {error}"),
            // Rows and states are looked at when they are needed.
            Ok(log) => {
                let all = (0..4).map(|i| (log.rows(i), log.state(i)));
                assert!(
                    all.into_iter().any(|(r, s)| r.is_err() || s.is_err()),
                    "byte {at} is not noticed"
                );
            }
        }
    }
    assert!(flipped > 0 && sound > 0);
}

#[test]
fn a_device_is_no_session_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let mut log = open(&path).unwrap();
    append(&mut log, 0);
    drop(log);
    let full = Path::new("/dev/full");
    if full.exists() {
        assert!(open(full).is_err());
    }
    check(&open(&path).unwrap(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_session(mut bytes in proptest::collection::vec(any::<u8>(), 4096..6000), magic in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.session");
        if magic {
            drop(open(&path).unwrap());
            let good = fs::read(&path).unwrap();
            bytes[..4096].copy_from_slice(&good);
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(log) = open(&path) {
            prop_assert!(log.tokens().is_empty());
        }
    }
}
