//! What systemd is told, and what it passes to the service.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Server, http, model};

#[test]
fn systemd_hears_of_progress_readiness_life_and_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let notify = folder.path().join("notify");
    let server = Server::command(folder, &["--no-sessions", "--drain", "1"], |command| {
        command
            .env("NOTIFY_SOCKET", notify)
            .env("WATCHDOG_USEC", "400000");
    });
    let began = Instant::now();
    let mut said = String::new();
    let mut hear = |wanted: &[&str]| {
        while !wanted.iter().all(|w| said.contains(w)) {
            assert!(began.elapsed() < Duration::from_secs(60), "{said}");
            let mut message = [0; 1000];
            let n = manager.recv(&mut message).unwrap();
            said.push_str(std::str::from_utf8(&message[..n]).unwrap());
        }
    };
    hear(&[
        "STATUS=opening ",
        "READY=1",
        "STATUS=serving tiny",
        "WATCHDOG=1",
    ]);
    server.signal("-TERM");
    hear(&["STOPPING=1"]);
    assert_eq!(server.ended().0, Some(0));
}

#[test]
fn a_socket_that_systemd_hands_over_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("activated");
    let listener = UnixListener::bind(&path).unwrap();
    // The shell gives the socket its place and the process its number, and becomes
    // the service.
    let run = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", run, "sh", env!("CARGO_BIN_EXE_v4-run"), "serve"])
        .arg(model())
        .args(["--allow-unsigned", "--no-sessions", "--ctx", "512"])
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answer = http::get(&path, "/health");
    assert_eq!(answer.status, 200);
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(path.exists(), "the socket is systemd's");
}
