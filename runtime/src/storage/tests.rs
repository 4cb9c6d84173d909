//! What was written can be read back, whatever happens to the file.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

mod edges;

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
    log.append(&tokens, rows, state, Landmark::Way).unwrap();
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
    SessionLog::open(path, MODEL, None)
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
    let other = SessionLog::open(&path, Fingerprint([8; 32]), None).unwrap_err();
    assert!(other.to_string().contains("another model"), "{other}");
    check(&open(&path).unwrap(), 1);
    for text in ["x", "a text that is no session, and longer than a magic"] {
        let path = dir.path().join("text");
        fs::write(&path, text).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("not a session file"), "{error}");
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
/// Of an older program, whose arithmetic may have had other bits.
#[test]
fn a_file_of_another_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    append(&mut open(&path).unwrap(), 0);
    let mut bytes = fs::read(&path).unwrap();
    for version in [0, 1, 2, 4, u32::MAX] {
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let error = open(&path).unwrap_err().to_string();
        let says = format!("session format {version}, but this program has format 3");
        assert!(error.contains(&says), "{error}");
        assert!(error.contains("a.session"), "{error}");
    }
}

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

/// Like [`append`], with states as large as a model's.
fn append_large(log: &mut SessionLog, i: u32) {
    let landmark = if i == 20 {
        Landmark::Root
    } else {
        Landmark::Way
    };
    log.append(&[i; 100], vec![1; 64], vec![1 + i as u8; 1 << 16], landmark)
        .unwrap();
}

#[test]
fn states_of_old_steps_are_given_up_and_their_room_with_them() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    for key in [None, Some(SessionKey::new([1; 32]))] {
        let path = dir.path().join(format!("{}.session", key.is_some()));
        let mut log = SessionLog::open(&path, MODEL, key.as_ref()).unwrap();
        for i in 0..200 {
            append_large(&mut log, i);
        }
        let states = |log: &SessionLog| -> Vec<usize> {
            (0..200).filter(|&i| log.steps()[i].has_state()).collect()
        };
        let kept = states(&log);
        if kept.len() == 200 {
            v4_fixtures::skip("sparse files");
            return;
        }
        assert_eq!(kept.len(), MOST_PLACES, "{kept:?}");
        assert!(
            kept.contains(&20) && kept.ends_with(&[198, 199]),
            "{kept:?}"
        );
        // Wherever one goes back to, the way from a state is short, seen from the end.
        for at in 1..200 {
            let before = kept.iter().rfind(|&&i| i < at).map_or(0, |i| i + 1);
            assert!(
                at - before <= (200 - at) * 3 / 2 || at - before <= 2,
                "{at}: {kept:?}"
            );
        }
        let blocks = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(blocks < 32 << 16, "{blocks}");
        drop(log);
        let mut log = SessionLog::open(&path, MODEL, key.as_ref()).unwrap();
        assert_eq!(states(&log), kept);
        for &i in &kept {
            assert_eq!(log.state(i).unwrap()[9], 1 + i as u8);
        }
        let gone = (0..200).find(|i| !kept.contains(i)).unwrap();
        assert!(log.state(gone).is_err());
        assert_eq!(log.rows(gone).unwrap(), [1; 64]);
        let back = log.restorable(100 * (gone + 1)).map_or(0, |step| step + 1);
        assert!(back <= gone);
        // Another way from there.
        log.keep(gone + 1).unwrap();
        append_large(&mut log, 7);
        drop(log);
        let log = SessionLog::open(&path, MODEL, key.as_ref()).unwrap();
        assert_eq!(log.steps().len(), gone + 2);
        assert_eq!(log.in_common(log.tokens()), log.tokens().len());
    }
}

#[test]
fn what_is_encrypted_shows_nothing_and_needs_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.session");
    let key = SessionKey::new([9; 32]);
    let open = |key: Option<&SessionKey>| SessionLog::open(&path, MODEL, key);
    for i in 0..4 {
        let mut log = open(Some(&key)).unwrap();
        check(&log, i);
        append(&mut log, i);
    }
    check(&open(Some(&key)).unwrap(), 4);
    let bytes = fs::read(&path).unwrap();
    let (tokens, rows, state) = step(3);
    let tokens: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    for secret in [tokens, rows, state] {
        assert!(secret.len() > 10 && !bytes.windows(secret.len()).any(|w| w == secret));
    }
    for (other, what) in [
        (None, "encrypted; give its key"),
        (Some(SessionKey::new([8; 32])), "another key"),
    ] {
        let error = open(other.as_ref()).unwrap_err();
        assert!(matches!(error, SessionError::Key { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let plain = dir.path().join("plain.session");
    drop(SessionLog::open(&plain, MODEL, None).unwrap());
    let error = SessionLog::open(&plain, MODEL, Some(&key)).unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
    // Somebody who computes sums anew still cannot change what is sealed: a part of
    // another place is refused as well.
    let mut log = open(Some(&key)).unwrap();
    log.keep(1).unwrap();
    drop(log);
    check(&open(Some(&key)).unwrap(), 1);
}

#[test]
fn a_store_lists_finds_and_evicts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("a/b"), None).unwrap();
    let write = |name: &str, ids: &[u32]| {
        let mut log = store.session(name, MODEL).unwrap();
        for part in ids.chunks(2) {
            log.append(part, vec![0; 100_000], vec![1; 10], Landmark::Way)
                .unwrap();
        }
        log.path().to_owned()
    };
    let one = write("one", &[1, 2, 3, 4]);
    let two = write("two", &[1, 2, 3, 5, 6, 7]);
    fs::write(store.folder().join("bad.session"), [1; 5000]).unwrap();
    fs::write(store.folder().join("other.json"), "{}").unwrap();
    let list = store.list().unwrap();
    let names: Vec<&str> = list.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["bad", "one", "two"]);
    assert!(list[0].tokens.is_err());
    assert_eq!(*list[2].tokens.as_ref().unwrap(), 6);
    assert!(list[2].bytes >= 300_000);

    let found = store.find(MODEL, &[1, 2, 3, 5, 6, 9], 1).unwrap().unwrap();
    assert_eq!((found.tokens, found.log.path()), (4, &*two));
    drop(found);
    assert!(store.find(MODEL, &[1, 2, 3, 5], 5).unwrap().is_none());
    assert!(store.find(MODEL, &[9], 1).unwrap().is_none());
    assert!(
        store
            .find(Fingerprint([8; 32]), &[1, 2], 1)
            .unwrap()
            .is_none()
    );
    // In use by somebody who writes.
    let held = store.session("two", MODEL).unwrap();
    let found = store.find(MODEL, &[1, 2, 3, 5], 1).unwrap().unwrap();
    assert_eq!((found.tokens, found.log.path()), (2, &*one));
    drop(found);
    assert!(store.remove("two").is_err());
    drop(held);

    // The one that was found last is the newest.
    let old = |path: &Path, days: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    };
    old(&one, 3);
    old(&two, 5);
    old(&store.folder().join("bad.session"), 1);
    drop(store.find(MODEL, &[1, 2, 3, 5], 1).unwrap());
    assert!(store.evict(1 << 30, None).unwrap().is_empty());
    assert_eq!(
        store.evict(350_000, None).unwrap(),
        std::slice::from_ref(&one)
    );
    assert!(store.evict(0, Some(&two)).unwrap().len() == 1 && two.exists());
    let stays = write(&Store::staying("x"), &[1, 2]);
    let used = write("used", &[1, 2]);
    old(&stays, 29);
    old(&used, 1);
    assert_eq!(store.evict(450_000, None).unwrap(), [used]);
    old(&stays, 31);
    assert_eq!(store.evict(350_000, None).unwrap(), [stays]);
    assert!(store.remove("two").unwrap() && !store.remove("two").unwrap());
    assert!(dir.path().join("a/b/other.json").exists());
    for bad in ["", ".", "..", ".x", "a b", "a/b", "a\n", &"x".repeat(101)] {
        assert!(store.path(bad).is_err(), "{bad:?}");
    }
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
