//! What an administrator installs: units, package, bundle.
//!
//! Tools that a machine lacks are said to be missing; `.ci/run` installs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use v4_tests::program::{bin, root, run, scratch, tiny};

/// The exit code of a script that says why it cannot run here.
const SKIPPED: i32 = 77;

fn packaging(name: &str) -> PathBuf {
    root().join("packaging").join(name)
}

/// Runs a tool; `None` if it is not installed, which is said.
fn tool(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {:?}: {error}", command.get_program());
            None
        }
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn build(out: &Path) -> PathBuf {
    let programs = bin("v4-run").parent().unwrap().to_owned();
    let built = Command::new(packaging("build-deb"))
        .args(["--offline", "--bin"])
        .arg(programs)
        .arg("--out")
        .arg(out)
        .env("SOURCE_DATE_EPOCH", "1790000000")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built));
    let path = String::from_utf8(built.stdout).unwrap();
    PathBuf::from(path.trim())
}

/// The package, made once; `None` without dpkg.
fn package() -> Option<&'static Path> {
    static MADE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        tool(Command::new("dpkg-deb").arg("--version"))?;
        Some(build(&scratch().join("dist")))
    };
    MADE.get_or_init(make).as_deref()
}

#[test]
fn the_service_is_confined() {
    let mut command = Command::new("systemd-analyze");
    // Exposure, times ten.
    command.args(["security", "--offline=true", "--threshold=15", "--no-pager"]);
    command.arg(packaging("systemd/v4-run.service"));
    let Some(output) = tool(&mut command) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("Overall exposure level"),
        "{}",
        text(&output)
    );
}

#[test]
fn the_units_are_sound() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    // Verified with the program where it was built.
    for name in ["v4-run.service", "v4-run.socket"] {
        let unit = fs::read_to_string(packaging("systemd").join(name)).unwrap();
        let unit = unit.replace("/usr/bin/v4-run", bin("v4-run").to_str().unwrap());
        fs::write(dir.path().join(name), unit).unwrap();
    }
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]);
        command.args(["v4-run.service", "v4-run.socket"].map(|name| dir.path().join(name)));
        tool(&mut command)
    };
    let Some(output) = verify() else {
        return;
    };
    assert!(
        output.status.success() && text(&output).is_empty(),
        "{}",
        text(&output)
    );
    let path = dir.path().join("v4-run.service");
    let unit = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        unit.replace("PrivateMounts=yes", "PrivateMounds=yes"),
    )
    .unwrap();
    let output = verify().unwrap();
    assert!(text(&output).contains("PrivateMounds"), "{}", text(&output));
}

#[test]
fn the_package_is_the_same_each_time() {
    let Some(first) = package() else {
        return;
    };
    let again = tempfile::tempdir_in(scratch()).unwrap();
    let second = build(again.path());
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap());
}

#[test]
fn the_package_has_what_belongs_into_it() {
    let Some(package) = package() else {
        return;
    };
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let unpacked = Command::new("dpkg-deb")
        .arg("--extract")
        .args([package, dir.path()])
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{}", text(&unpacked));
    for path in [
        "usr/bin/v4-run",
        "usr/bin/v4-convert",
        "usr/lib/systemd/system/v4-run.service",
        "usr/lib/systemd/system/v4-run.socket",
        "usr/share/man/man1/v4-run-serve.1.gz",
        "usr/share/man/man1/v4-convert-sign.1.gz",
        "usr/share/bash-completion/completions/v4-run",
        "usr/share/zsh/vendor-completions/_v4-convert",
        "usr/share/fish/vendor_completions.d/v4-run.fish",
        "usr/share/doc/v4-run/copyright",
        "usr/share/doc/v4-run/THIRD-PARTY.gz",
        "usr/share/doc/v4-run/air-gap.md",
        "etc/v4-run/v4-run.env",
    ] {
        assert!(dir.path().join(path).is_file(), "{path} is missing");
    }
    let sbom = fs::read(dir.path().join("usr/share/doc/v4-run/v4-run.cdx.json")).unwrap();
    let sbom: Value = serde_json::from_slice(&sbom).unwrap();
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    let components = sbom["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|c| c["name"] == name);
    for needed in ["tokenizers", "minisign-verify", "v4-quant"] {
        assert!(named(needed).is_some(), "{needed} is not listed");
    }
    for absent in ["reqwest", "ureq", "rustls", "proptest", "v4-tests"] {
        assert!(named(absent).is_none(), "{absent} is listed");
    }
    for component in components {
        assert!(
            component["licenses"][0]["expression"].is_string(),
            "{component}"
        );
        let ours = component["name"].as_str().unwrap().starts_with("v4-");
        // The stand-in for a registry crate is ours as well.
        let ours = ours || component["name"] == "hf-hub";
        assert_eq!(component["hashes"].is_array(), !ours, "{component}");
    }
}

#[test]
fn the_package_serves_in_a_clean_debian_and_leaves_no_trace() {
    let Some(package) = package() else {
        return;
    };
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let (model, key) = (dir.path().join("tiny.gguf"), dir.path().join("k"));
    fs::copy(tiny("tiny-v4", "native", &[]), &model).unwrap();
    let (model, key) = (model.to_str().unwrap(), key.to_str().unwrap());
    let _ = run("v4-convert", ["keygen", key, "--no-password"]).ok();
    let _ = run(
        "v4-convert",
        ["sign", model, "--key", &format!("{key}.key")],
    )
    .ok();
    let output = Command::new(packaging("test-in-container"))
        .arg("--deb")
        .arg(package)
        .args(["--model", model, "--key", &format!("{key}.pub")])
        .output()
        .unwrap();
    print!("{}", text(&output));
    if output.status.code() == Some(SKIPPED) {
        return;
    }
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("-- passed"));
}
