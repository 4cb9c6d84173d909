//! Cards: what the program says without CUDA, without a driver, and with a stand-in for one whose
//! card is the shim.

mod common;

use common::run;
#[cfg(not(feature = "cuda"))]
use common::{failure, ok};

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so_and_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["selftest", "--gpu"][..],
        &["selftest", "--gpu", "0", "--json"],
        &["complete", file!(), "--gpu", "0", "-p", "a"],
    ] {
        let output = run(dir.path(), args);
        let said = failure(&output);
        assert!(
            said.contains("without CUDA") && said.contains("--no-default-features"),
            "{said}"
        );
    }
    let output = run(dir.path(), ["doctor"]);
    let line = ok(&output).lines().find(|line| line.starts_with("  gpu "));
    let line = line.expect("a line about cards, without a mark");
    assert!(line.contains("without CUDA"), "{line}");
    let found = run(dir.path(), ["doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_str(ok(&found)).unwrap();
    assert_eq!(found["gpu"]["cards"].as_array().unwrap().len(), 0);
    assert!(
        found["gpu"]["error"]
            .as_str()
            .unwrap()
            .contains("without CUDA")
    );
}

#[test]
fn a_model_or_a_card_is_checked_and_not_both() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["selftest"][..],
        &["selftest", "m.gguf", "--gpu"],
        &["selftest", "--gpu", "0,1"],
        &["selftest", "--gpu", "first"],
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[cfg(feature = "cuda")]
mod with_cuda {
    use std::path::Path;
    use std::process::Output;
    use std::sync::OnceLock;

    use serde_json::Value;
    use v4_cuda_shim::stand_in;
    use v4_tests::program::tiny;

    use super::common::{failure, ok, run, stderr, stdout, v4_run};

    /// A folder with the stand-in for the driver's library.
    fn driver() -> &'static Path {
        static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
        let make = || {
            let folder = tempfile::tempdir().unwrap();
            stand_in::build(folder.path()).unwrap();
            folder
        };
        FOLDER.get_or_init(make).path()
    }

    /// Runs the program where that library is found, and its card is like that.
    fn with(settings: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = v4_run(driver(), args);
        command.env("LD_LIBRARY_PATH", driver());
        command.envs(settings.iter().copied());
        command.output().unwrap()
    }

    fn json(output: &Output) -> Value {
        serde_json::from_str(stdout(output)).unwrap_or_else(|error| {
            panic!("{error}: {}\n{}", stdout(output), stderr(output));
        })
    }

    #[test]
    fn a_machine_without_a_driver_says_what_to_install() {
        let dir = tempfile::tempdir().unwrap();
        let output = run(dir.path(), ["selftest", "--gpu"]);
        if stderr(&output).contains("libcuda.so.1 was not found") {
            assert!(failure(&output).contains("version 525 or newer"));
            let output = run(dir.path(), ["doctor"]);
            let line = ok(&output).lines().find(|line| line.starts_with("  gpu "));
            assert!(line.unwrap().contains("no NVIDIA driver"), "{line:?}");
        } else {
            // With one, this is another machine's test.
            assert!(v4_cuda::cuda::Cuda::new().is_ok());
        }
    }

    #[test]
    fn a_driver_that_does_not_do_says_why() {
        for (setting, value, words) in [
            ("STAND_IN_INIT", "100", "finds no card"),
            (
                "STAND_IN_INIT",
                "803",
                "kernel module are of different versions",
            ),
            ("STAND_IN_INIT", "999", "nvidia-modprobe"),
            (
                "STAND_IN_VERSION",
                "11080",
                "supports CUDA 11.8 only: install version 525",
            ),
        ] {
            let output = with(&[(setting, value)], &["selftest", "--gpu"]);
            let said = failure(&output);
            assert!(said.contains(words), "{said}");
            // Not an error of the doctor's, and one line.
            let output = with(&[(setting, value)], &["doctor"]);
            let lines: Vec<_> = ok(&output).lines().filter(|l| l.contains("gpu")).collect();
            assert!(lines.len() == 1 && lines[0].contains(words), "{lines:?}");
        }
        let output = with(&[], &["selftest", "--gpu", "7"]);
        let said = failure(&output);
        assert!(
            said.contains("no card 7: this machine has one, number 0"),
            "{said}"
        );
    }

    #[test]
    fn a_library_that_is_too_old_says_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("old.c");
        std::fs::write(&source, "int cuInit(unsigned flags) { return flags; }").unwrap();
        stand_in::build_from(&source, folder.path()).unwrap();
        let mut command = v4_run(folder.path(), ["selftest", "--gpu"]);
        let output = command
            .env("LD_LIBRARY_PATH", folder.path())
            .output()
            .unwrap();
        let said = failure(&output);
        assert!(
            said.contains("has no cuCtxSetCurrent: install version 525"),
            "{said}"
        );
    }

    #[test]
    fn every_kernel_of_a_card_is_checked() {
        let output = with(&[], &["selftest", "--gpu", "--quick", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let notes = stderr(&output);
        assert!(
            notes.contains("card 0: Stand-in 4090, compute capability 8.9"),
            "{notes}"
        );
        assert!(
            notes.contains("ok    fragments of mma and ldmatrix"),
            "{notes}"
        );
        assert!(
            notes.contains("every kernel gave the CPU's bits"),
            "{notes}"
        );
        let found = json(&output);
        assert_eq!(
            (&found["failed"], &found["quick"]),
            (&0.into(), &true.into())
        );
        let card = &found["cards"][0];
        assert_eq!(card["complete"], true);
        let kernels = v4_cuda::kernels::KNOWN.len();
        assert_eq!(card["kernels_right"].as_array().unwrap().len(), kernels);
        let checks = card["checks"].as_array().unwrap();
        assert!(checks.len() > 50 && checks.iter().all(|check| check["error"].is_null()));
    }

    #[test]
    fn a_kernel_that_computes_something_else_is_an_error_that_names_it() {
        let settings = [("STAND_IN_ALTERS", "mmv_i8_mxfp4_8")];
        let output = with(&settings, &["selftest", "--gpu", "0", "--quick", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        let notes = stderr(&output);
        assert!(
            notes.contains("WRONG products of MXFP4: mmv_i8_mxfp4_8: "),
            "{notes}"
        );
        assert!(notes.contains("run models without this card"), "{notes}");
        let found = json(&output);
        assert!(found["failed"].as_u64().unwrap() >= 1);
        let checks = found["cards"][0]["checks"].as_array().unwrap();
        let first = checks
            .iter()
            .find(|check| !check["error"].is_null())
            .unwrap();
        let difference = &first["difference"];
        assert_eq!(difference["kernels"][0], "mmv_i8_mxfp4_8");
        assert!(difference["card"].as_str().unwrap().starts_with("0x"));
        assert_ne!(difference["card"], difference["cpu"]);
    }

    #[test]
    fn every_check_finds_a_card_that_computes_nothing() {
        let settings = [("STAND_IN_IDLE", "1")];
        let output = with(&settings, &["selftest", "--gpu", "--quick", "--json", "-q"]);
        assert_eq!(output.status.code(), Some(1));
        let found = json(&output);
        let checks = found["cards"][0]["checks"].as_array().unwrap();
        let passed: Vec<_> = checks
            .iter()
            .filter(|check| check["error"].is_null())
            .collect();
        assert!(passed.is_empty(), "{passed:?}");
        assert_eq!(found["failed"], checks.len());
    }

    /// Through the options, the driver's library and the service's engine: what the tests of
    /// `v4-runtime` compare in full.
    #[test]
    fn models_run_on_a_card_and_give_the_same_bits() {
        for (checkpoint, ids) in [("tiny-v4", 30), ("tiny-v41", 20)] {
            let model = tiny(checkpoint, "native", &[]);
            let dir = tempfile::tempdir().unwrap();
            let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let tokens: Vec<_> = (1..=ids).map(|i| (i * 37 % 199).to_string()).collect();
            std::fs::write(file("ids"), tokens.join(" ")).unwrap();
            let logits = |out: &str, more: &[&str]| {
                let (ids, out) = (file("ids"), file(out));
                let args = [
                    "logits",
                    model.to_str().unwrap(),
                    "--ids",
                    &ids,
                    "--out",
                    &out,
                ];
                ok(&with(&[], &[&args, more].concat()));
                std::fs::read(out).unwrap()
            };
            let expected = logits("cpu", &[]);
            assert!(
                logits("card", &["--gpu", "0", "--chunk", "12"]) == expected,
                "{checkpoint}"
            );
        }
        let model = tiny("tiny-v4", "native", &[]);
        let complete = |more: &[&str]| {
            let args = [
                "complete",
                model.to_str().unwrap(),
                "-p",
                "fn main() {",
                "-n",
                "12",
            ];
            let output = with(&[], &[&args, more].concat());
            ok(&output).to_owned()
        };
        let sampled = ["--temp", "1", "--seed", "3"];
        assert_eq!(
            complete(&[&sampled[..], &["--gpu", "0"]].concat()),
            complete(&sampled)
        );
    }

    #[test]
    fn what_a_card_cannot_do_is_refused_by_name() {
        let model = tiny("tiny-v4", "native", &[]);
        let model = model.to_str().unwrap();
        let refused = |settings: &[(&str, &str)], args: &[&str], words: &str| {
            let output = with(settings, args);
            let said = failure(&output);
            assert!(said.contains(words), "{said}");
        };
        let complete = ["complete", model, "-p", "a", "-n", "2", "--gpu"];
        refused(&[], &[&complete[..], &["3"]].concat(), "no card 3");
        refused(
            &[("STAND_IN_INIT", "100")],
            &[&complete[..], &["0"]].concat(),
            "finds no card",
        );
        let streamed = [&complete[..], &["0", "--most-experts", "6"]].concat();
        refused(&[], &streamed, "run the model without a card");
        refused(
            &[],
            &["plan", model, "--gpu", "0"],
            "--gpu: plans are of the CPU",
        );
        refused(
            &[],
            &["bench", model, "--gpu", "0"],
            "--gpu: bench measures the CPU",
        );
    }

    #[test]
    fn the_doctor_measures_cards() {
        let settings = [("STAND_IN_PINNED", "209715200")];
        let output = with(&settings, &["doctor"]);
        let text = ok(&output);
        for line in [
            "gpu 0            Stand-in 4090, compute capability 8.9, at 0000:41:00.0, driver for CUDA 12.8",
            "gpu 0 memory     ",
            "gpu 0 kernels    for 8.9, all of them load",
            "! gpu 0 pinned     ",
            "gpu 0 PCIe       ",
            "gpu 0 copy       ",
            "gpu 0 latency    ",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("more was refused"), "{text}");
        let found = json(&with(&settings, &["doctor", "--json"]));
        let card = &found["gpu"]["cards"][0];
        assert_eq!(card["name"], "Stand-in 4090");
        assert_eq!(card["pinned"]["refused"], true);
        let bytes = card["pinned"]["bytes"].as_u64().unwrap();
        assert!(((180 << 20)..=209_715_200).contains(&bytes), "{bytes}");
        for rate in ["to_card", "from_card", "within"] {
            assert!(card["rates"][rate].as_f64().unwrap() > 1e6, "{card}");
        }
        for latency in ["launch", "wait", "flag", "graph"] {
            assert!(
                card["latencies_us"][latency].as_f64().unwrap() > 0.0,
                "{card}"
            );
        }
    }
}
