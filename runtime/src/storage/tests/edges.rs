//! Files at the edges of the format: what is refused is refused for its own reason, and
//! what fails leaves everything as it was.

use super::super::layout::{COMMITS, HEADER, SUM, sum};
use super::*;

/// A file with two steps, and its bytes.
fn two_steps(dir: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = dir.join("two.session");
    let mut log = open(&path).unwrap();
    append(&mut log, 0);
    append(&mut log, 1);
    drop(log);
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn landmarks_and_missing_states_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for key in [None, Some(SessionKey::new([5; 32]))] {
        let path = dir.path().join(format!("{}.session", key.is_some()));
        let open = || SessionLog::open(&path, MODEL, key.as_ref()).unwrap();
        let mut log = open();
        assert_eq!(log.is_sealed(), key.is_some());
        assert_eq!(log.bytes(), 4096);
        for (i, landmark) in [Landmark::Turn, Landmark::Way, Landmark::Root]
            .into_iter()
            .enumerate()
        {
            let state = vec![1; if i == 1 { 0 } else { 20 }];
            log.append(&[1, 2], vec![3; 10], state, landmark).unwrap();
        }
        let before = log.steps().to_vec();
        assert_eq!(log.bytes(), fs::metadata(&path).unwrap().len());
        drop(log);
        let log = open();
        assert_eq!(log.steps(), before);
        let landmarks: Vec<_> = log.steps().iter().map(StepInfo::landmark).collect();
        assert_eq!(landmarks, [Landmark::Turn, Landmark::Way, Landmark::Root]);
        // Without its state a step is one to pass, not one to end at.
        let has: Vec<_> = log.steps().iter().map(StepInfo::has_state).collect();
        assert_eq!(has, [true, false, true]);
        assert_eq!(
            [1, 2, 4, 5, 6, 9].map(|tokens| log.restorable(tokens)),
            [None, Some(0), Some(0), Some(0), Some(2), Some(2)]
        );
        assert_eq!(log.in_common(&[1, 2, 1, 2, 9]), 2);
        assert_eq!(log.in_common(&[9]), 0);
    }
}

#[test]
fn a_header_is_refused_for_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, good) = two_steps(dir.path());
    let refused = |change: &dyn Fn(&mut [u8]), summed: bool| {
        let mut bytes = good.clone();
        change(&mut bytes);
        if summed {
            let sum = sum(&[0; SUM], &[&bytes[..HEADER - SUM]]);
            bytes[HEADER - SUM..HEADER].copy_from_slice(&sum);
        }
        fs::write(&path, bytes).unwrap();
        open(&path).unwrap_err()
    };
    let error = refused(&|bytes| bytes[20] ^= 1, false);
    let header = matches!(
        error,
        SessionError::Corrupt {
            offset: 0,
            what: "the header",
            valid: 0,
            ..
        }
    );
    assert!(header, "{error}");
    match refused(&|bytes| bytes[20] ^= 1, true) {
        SessionError::OtherModel {
            found, expected, ..
        } => {
            assert_eq!(expected, MODEL);
            assert_eq!(format!("{found:?}"), "0707070706070707");
        }
        other => panic!("{other}"),
    }
    let error = refused(&|bytes| bytes[12] = 4, true).to_string();
    assert!(error.contains("features"), "{error}");
    let error = refused(&|bytes| bytes[0] = 0, true).to_string();
    assert!(error.contains("not a session file"), "{error}");
    // One of the two commits is enough, as a crash can leave the other half written.
    let broken = |both: bool| {
        let mut bytes = good.clone();
        for at in &COMMITS[..if both { 2 } else { 1 }] {
            bytes[*at as usize] ^= 1;
        }
        fs::write(&path, bytes).unwrap();
        open(&path)
    };
    assert!(broken(false).is_ok());
    let error = broken(true).unwrap_err().to_string();
    assert!(error.contains("both commits"), "{error}");
}

#[test]
fn what_is_not_begun_is_empty_to_readers_and_begun_by_writers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.session");
    let read = || SessionLog::open_read(&path, None, None);
    assert!(matches!(read(), Err(SessionError::Io { .. })));
    for start in [&b""[..], b"V4SE", &[0; 4095]] {
        fs::write(&path, start).unwrap();
        let log = read().unwrap();
        assert!(log.tokens().is_empty() && log.steps().is_empty());
        drop(log);
        assert_eq!(fs::read(&path).unwrap(), start);
        check(&open(&path).unwrap(), 0);
        assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
    }
    let readers = (read().unwrap(), read().unwrap());
    assert!(matches!(open(&path), Err(SessionError::Busy { .. })));
    drop(readers);
    let nowhere = dir.path().join("none/a.session");
    assert!(matches!(open(&nowhere), Err(SessionError::Io { .. })));
}

#[test]
fn what_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, good) = two_steps(dir.path());
    // Opened to be read: each write fails.
    let mut log = SessionLog::open_read(&path, Some(MODEL), None).unwrap();
    let (tokens, rows, state) = step(2);
    let error = log.append(&tokens, rows, state, Landmark::Way).unwrap_err();
    assert!(matches!(error, SessionError::Io { .. }), "{error}");
    check(&log, 2);
    let error = log.keep(1).unwrap_err();
    assert!(matches!(error, SessionError::Io { .. }), "{error}");
    check(&log, 2);
    assert_eq!(fs::read(&path).unwrap(), good);
    // There is no more to be forgotten than there is.
    for all in [2, 3] {
        log.keep(all).unwrap();
        check(&log, 2);
    }
    match log.misfit(1) {
        SessionError::Corrupt { offset, valid, .. } => {
            assert_eq!(
                (offset, valid),
                (log.steps()[1].offset, log.steps()[1].from)
            );
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_store_says_what_cannot_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file, None).unwrap_err();
    assert!(matches!(error, SessionError::Io { .. }), "{error}");
    let store = Store::open(&dir.path().join("s"), None).unwrap();
    assert!(store.path(&"x".repeat(100)).is_ok());
    assert!(Store::is_staying(&Store::staying("x")) && !Store::is_staying("x"));
    // A folder and a link of a session's name are none.
    fs::create_dir(store.folder().join("folder.session")).unwrap();
    std::os::unix::fs::symlink(&file, store.folder().join("link.session")).unwrap();
    assert!(store.list().unwrap().is_empty());
    fs::remove_dir_all(store.folder()).unwrap();
    for error in [
        store.list().map(drop).unwrap_err(),
        store.find(MODEL, &[1], 1).map(drop).unwrap_err(),
        store.evict(0, None).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, SessionError::Io { .. }), "{error}");
    }
}

#[test]
fn keys_are_not_shown() {
    let key = SessionKey::new([9; 32]);
    assert_eq!(format!("{key:?}"), "SessionKey");
    assert_eq!(format!("{:?}", key.of_file(&[0; 16])), "Seal");
}
