//! Nothing contacts the network: checked by what is compiled in, what the linker kept, and
//! what the programs request from the system.

use std::process::{Command, Output};

use v4_tests::program::{bin, root, scratch, tiny};

/// What a program would call to reach another machine, or to be reached.
const REACH: &[&str] = &["socket", "connect", "bind", "listen", "accept", "accept4"];
/// What would ask for the address of a name.
const RESOLVE: &[&str] = &[
    "getaddrinfo",
    "gethostbyname",
    "gethostbyname_r",
    "res_init",
    "res_query",
];

fn tool(command: &mut Command) -> Option<Output> {
    let name = command.get_program().to_str().unwrap();
    v4_fixtures::tool(name).then(|| command.output().unwrap())
}

/// Functions of the system's libraries that a program has been linked to.
fn imports(program: &str) -> Option<Vec<String>> {
    let output = tool(
        Command::new("nm")
            .args(["--dynamic", "--undefined-only"])
            .arg(bin(program)),
    )?;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let names = names.filter_map(|name| name.split('@').next());
    Some(names.map(str::to_owned).collect())
}

#[test]
fn programs_have_no_way_to_another_machine() {
    let Some(engine) = imports("v4-convert") else {
        return;
    };
    assert!(engine.iter().any(|name| name == "mmap"), "{engine:?}");
    // Engine, converter and trust, without the server.
    let all = [REACH, RESOLVE].concat();
    let found: Vec<_> = engine
        .iter()
        .filter(|name| all.contains(&name.as_str()))
        .collect();
    assert!(found.is_empty(), "v4-convert: {found:?}");
    // The server listens, and tells systemd through a Unix socket; it resolves no name.
    let server = imports("v4-run").unwrap();
    assert!(server.iter().any(|name| name == "listen"));
    let found: Vec<_> = server
        .iter()
        .filter(|name| RESOLVE.contains(&name.as_str()))
        .collect();
    assert!(found.is_empty(), "v4-run: {found:?}");
}

#[test]
fn the_engine_is_built_from_no_crate_that_opens_sockets() {
    for member in ["v4-quant", "v4-runtime", "v4-trust", "v4-convert", "v4-ffi"] {
        let output = Command::new(env!("CARGO"))
            .current_dir(root())
            .args([
                "tree",
                "--offline",
                "--locked",
                "--edges",
                "normal",
                "--prefix",
                "none",
            ])
            .args(["--package", member])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(member), "{member}");
        for line in text.lines() {
            let name = line.split(' ').next().unwrap_or_default();
            // deepseek-recipe's streams bring tokio's timers and channels to the C
            // library; its sockets would bring mio and socket2.
            if (member, name) == ("v4-ffi", "tokio") {
                continue;
            }
            let banned = [
                "tokio", "mio", "socket2", "hyper", "axum", "async-io", "rustls", "h2",
            ];
            assert!(!banned.contains(&name), "{member} needs {name}");
        }
    }
}

/// A prompt's answer.
fn complete(command: &mut Command, model: &str) -> Option<Output> {
    let prompt = [
        "complete",
        model,
        "-p",
        "fn main() {",
        "-n",
        "8",
        "--temp",
        "0",
        "-q",
    ];
    tool(command.arg(bin("v4-run")).args(prompt))
}

#[test]
fn an_answer_takes_no_socket() {
    let model = tiny("tiny-v4", "native", &[]);
    let log = scratch().join("calls");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-e", "trace=%network", "-o"])
        .arg(&log);
    let Some(output) = complete(&mut strace, model.to_str().unwrap()) else {
        return;
    };
    if !output.status.success() {
        // Some sandboxes let nobody trace.
        println!("{}", String::from_utf8_lossy(&output.stderr));
        v4_fixtures::skip("ptrace");
        return;
    }
    assert!(!output.stdout.is_empty());
    let calls = std::fs::read_to_string(&log).unwrap();
    let reach = |line: &&str| REACH.iter().any(|name| line.contains(&format!("{name}(")));
    assert_eq!(calls.lines().find(reach), None);
}

#[test]
fn an_answer_is_the_same_where_there_is_no_network() {
    let model = tiny("tiny-v4", "native", &[]);
    let model = model.to_str().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--net"]);
    let Some(output) = complete(&mut unshare, model) else {
        return;
    };
    if !output.status.success() {
        println!("{}", String::from_utf8_lossy(&output.stderr));
        v4_fixtures::skip("network namespace");
        return;
    }
    let plain = complete(&mut Command::new("env"), model).unwrap();
    assert!(!plain.stdout.is_empty());
    assert_eq!(output.stdout, plain.stdout);
}
