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

/// Runs a tool; `None` if it is not installed: then the test says that it is skipped.
fn tool(command: &mut Command) -> Option<Output> {
    let name = command.get_program().to_str().unwrap();
    v4_fixtures::tool(name).then(|| command.output().unwrap())
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
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let made = || MADE.get_or_init(|| build(&scratch().join("dist")));
    v4_fixtures::tool("dpkg-deb").then(|| made().as_path())
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
        "usr/share/doc/v4-run/docs/air-gap.md",
        "usr/share/doc/v4-run/docs/clients.md",
        "usr/share/man/man1/v4-run-client-config.1.gz",
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

/// A bundle of the tiny model with a package, its list of sums signed with minisign.
struct Bundle {
    dir: tempfile::TempDir,
    folder: PathBuf,
    /// The signer's public key.
    key: String,
}

impl Bundle {
    /// `None` where tools are missing.
    fn new(signed: bool) -> Option<Self> {
        let package = package()?;
        tool(Command::new("minisign").arg("-v"))?;
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::copy(tiny("tiny-v4", "native", &[]), path("m")).unwrap();
        for pair in ["k", "other"] {
            let _ = run("v4-convert", ["keygen", &path(pair), "--no-password"]).ok();
        }
        let _ = run("v4-convert", ["sign", &path("m"), "--key", &path("k.key")]).ok();
        let folder = dir.path().join("stick");
        let mut make = Command::new(packaging("build-bundle"));
        make.arg("--deb").arg(package).arg("--out").arg(&folder);
        make.args(["--model", &path("m"), "--key", &path("k.pub")]);
        if signed {
            make.args(["--sign", &path("k.key")]);
        }
        let made = make.output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
        let public = fs::read_to_string(path("k.pub")).unwrap();
        let key = public.lines().nth(1).unwrap().to_owned();
        Some(Self { dir, folder, key })
    }

    fn other_key(&self) -> String {
        let public = fs::read_to_string(self.dir.path().join("other.pub")).unwrap();
        public.lines().nth(1).unwrap().to_owned()
    }

    /// Runs its own installer. What would change the system is a stand-in that leaves a
    /// trace, and nothing is to get that far.
    fn install(&self, args: &[&str]) -> (bool, String) {
        let tools = self.dir.path().join("tools");
        fs::create_dir_all(&tools).unwrap();
        let trace = self.dir.path().join("trace");
        let dpkg = format!("#!/bin/sh\ntouch {}\nexit 1\n", trace.display());
        fs::write(tools.join("dpkg"), dpkg).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(tools.join("dpkg"), executable).unwrap();
        let models = self.dir.path().join("models");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        let output = Command::new(self.folder.join("install"))
            .args(args)
            .arg("--models")
            .arg(&models)
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(!trace.exists(), "{args:?}: {}", text(&output));
        assert!(!models.exists(), "{args:?}: {}", text(&output));
        (output.status.success(), text(&output))
    }

    #[track_caller]
    fn refused(&self, key: &str, says: &str) {
        for check in [&["--check"][..], &[]] {
            let (ok, said) = self.install(&[&["--key", key], check].concat());
            assert!(!ok, "{said}");
            // Without --check it also has to be root.
            assert!(said.contains(says) || said.contains("as root"), "{said}");
        }
    }

    fn sum_again(&self) {
        let files = [
            "install",
            "v4-run.deb",
            "signer.pub",
            "model.gguf.manifest",
            "model.gguf.hashes",
        ];
        let mut sums = Command::new("sha256sum");
        let sums = sums.args(files).current_dir(&self.folder).output().unwrap();
        assert!(sums.status.success());
        fs::write(self.folder.join("SHA256SUMS"), sums.stdout).unwrap();
    }

    fn sign_again(&self, key: &str) {
        let mut sign = Command::new("minisign");
        sign.args(["-S", "-m", "SHA256SUMS", "-s"]);
        let key = self.dir.path().join(key);
        let signed = sign.arg(key).current_dir(&self.folder).output().unwrap();
        assert!(signed.status.success(), "{}", text(&signed));
    }
}

#[test]
fn a_bundle_that_its_signer_made_is_taken() {
    let Some(bundle) = Bundle::new(true) else {
        return;
    };
    let (ok, said) = bundle.install(&["--key", &bundle.key, "--check"]);
    assert!(ok, "{said}");
    assert!(said.contains("SHA256SUMS is signed with the key"), "{said}");
    assert!(!said.contains("Note"), "{said}");
    bundle.refused(&bundle.other_key(), "is not the key given");
}

#[test]
fn a_bundle_that_was_altered_is_refused_before_anything_is_copied() {
    let Some(bundle) = Bundle::new(true) else {
        return;
    };
    let within = |name: &str| bundle.folder.join(name);
    let key = &bundle.key;
    for name in [
        "v4-run.deb",
        "model.gguf.hashes",
        "SHA256SUMS",
        "model.gguf",
    ] {
        let good = fs::read(within(name)).unwrap();
        let mut bad = good.clone();
        let at = bad.len() / 2;
        bad[at] ^= 1;
        fs::write(within(name), bad).unwrap();
        let says = match name {
            "model.gguf" => "the model was altered",
            _ => "a file differs from SHA256SUMS",
        };
        bundle.refused(key, says);
        fs::write(within(name), good).unwrap();
    }
    // Somebody who makes the sums anew, and signs them with a key of their own.
    let (sums, signature) = (
        fs::read(within("SHA256SUMS")).unwrap(),
        fs::read(within("SHA256SUMS.minisig")).unwrap(),
    );
    let package = fs::read(within("v4-run.deb")).unwrap();
    let mut bad = package.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(within("v4-run.deb"), bad).unwrap();
    bundle.sum_again();
    bundle.refused(key, "SHA256SUMS is not signed with the key");
    bundle.sign_again("other.key");
    bundle.refused(key, "SHA256SUMS is not signed with the key");
    // And their key in place of the signer's, in the hope that nobody compares.
    fs::copy(bundle.dir.path().join("other.pub"), within("signer.pub")).unwrap();
    bundle.sum_again();
    bundle.sign_again("other.key");
    bundle.refused(key, "signer.pub is not the key given");
    // Even then the model is not theirs.
    fs::write(within("v4-run.deb"), &package).unwrap();
    bundle.sum_again();
    bundle.sign_again("other.key");
    let says = "the model was altered, or was signed by somebody else";
    bundle.refused(&bundle.other_key(), says);
    // Or no signature at all.
    let public = bundle.dir.path().join("k.pub");
    fs::copy(public, within("signer.pub")).unwrap();
    fs::remove_file(within("SHA256SUMS.minisig")).unwrap();
    bundle.sum_again();
    let (ok, said) = bundle.install(&["--key", key]);
    assert!(!ok, "{said}");
    let root = said.contains("not checked by a signature (there is no SHA256SUMS.minisig)");
    assert!(root || said.contains("as root"), "{said}");
    let (ok, said) = bundle.install(&["--key", key, "--check", "--sum", "0123"]);
    assert!(!ok && said.contains("not the one given"), "{said}");
    // As it was, it is taken.
    fs::write(within("SHA256SUMS"), sums).unwrap();
    fs::write(within("SHA256SUMS.minisig"), signature).unwrap();
    let (ok, said) = bundle.install(&["--key", key, "--check"]);
    assert!(ok, "{said}");
}

#[test]
fn a_package_without_a_signature_takes_its_sum() {
    let Some(bundle) = Bundle::new(false) else {
        return;
    };
    let sums = fs::read_to_string(bundle.folder.join("SHA256SUMS")).unwrap();
    let line = sums.lines().find(|l| l.ends_with("v4-run.deb")).unwrap();
    let sum = line.split(' ').next().unwrap();
    let (ok, said) = bundle.install(&["--key", &bundle.key, "--check"]);
    assert!(
        ok && said.contains(&format!("Its checksum is {sum}")),
        "{said}"
    );
    let (ok, said) = bundle.install(&["--key", &bundle.key, "--check", "--sum", sum]);
    assert!(ok && !said.contains("Note"), "{said}");
}

#[test]
fn the_source_with_its_crates_builds_the_same_bytes_in_any_folder() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let vendored = Command::new(packaging("vendor"))
        .args(["--folder", "--no-tests", "--out"])
        .arg(dir.path())
        .output()
        .unwrap();
    if !vendored.status.success() {
        let said = text(&vendored);
        // Crates for other systems may never have been fetched here.
        let absent = said.contains("failed to download") || said.contains("not a Git repository");
        assert!(absent, "{said}");
        println!("{said}");
        v4_fixtures::skip("vendored crates");
        return;
    }
    let first = PathBuf::from(String::from_utf8(vendored.stdout).unwrap().trim());
    let second = dir.path().join("elsewhere/and/deeper");
    fs::create_dir_all(second.parent().unwrap()).unwrap();
    let build = |root: &Path, name: &str| {
        let out = dir.path().join(name);
        let built = Command::new(root.join("packaging/build-offline"))
            .args(["--package", "v4-quant", "--out"])
            .arg(&out)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", text(&built));
        fs::read(out.join("libv4_quant.rlib")).unwrap()
    };
    let one = build(&first, "one");
    fs::rename(&first, &second).unwrap();
    assert!(one == build(&second, "two"), "the folder is in the bytes");
    let needle = dir.path().to_str().unwrap().as_bytes();
    assert!(!one.windows(needle.len()).any(|bytes| bytes == needle));
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
        v4_fixtures::skip("clean Debian");
        return;
    }
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("-- passed"));
}
