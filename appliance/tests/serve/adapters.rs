//! Requests choose among adapters.

use std::path::Path;
use std::thread;

use serde_json::{Value, json};
use v4_files::gguf::GgufFile;
use v4_tests::adapter::Written;

use super::{Server, TEXT, cached, chat, common, content, http, model};

/// Adapters that change what the tiny model says.
fn write(folder: &Path, name: &str, seed: u64) -> String {
    let modules = [
        ("layers.0.attn.wq_a", "blk.0.attn_q_a.weight"),
        (
            "layers.1.ffn.shared_experts.w1",
            "blk.1.ffn_gate_shexp.weight",
        ),
        ("model.layers.1.self_attn.kv_proj", "blk.1.attn_kv.weight"),
        ("lm_head", "output.weight"),
    ];
    let file = GgufFile::open(model()).unwrap();
    let sized = modules.map(|(module, tensor)| {
        let dims = &file.tensor(tensor).unwrap().dims;
        (module.to_owned(), dims[0] as usize, dims[1] as usize)
    });
    let path = folder.join(name);
    Written::noise(4, 16.0, &sized, seed).write(&path);
    path.to_str().unwrap().to_owned()
}

fn ask(model: &str, text: &str) -> Value {
    chat(text, json!({"model": model, "temperature": 0}))
}

#[test]
fn each_request_has_the_adapters_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let one = write(folder.path(), "sql", 1);
    let two = write(folder.path(), "other", 2);
    let named = format!("house.style={two}");
    let more = [
        "--name",
        "plain",
        "--parallel",
        "4",
        "--lora",
        &one,
        "--lora",
        &named,
    ];
    let server = Server::start(&more);

    let models = http::get(&server.socket, "/v1/models").ok();
    let listed: Vec<_> = models["data"].as_array().unwrap().iter().collect();
    let names: Vec<_> = listed.iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["plain", "sql", "house.style"]);
    assert_eq!(listed[1]["parent"], "plain");
    let both = http::get(&server.socket, "/v1/models/sql+house.style").ok();
    assert_eq!(both["id"], "sql+house.style");

    // What the program itself says with them.
    let alone = |args: &[&str]| {
        let all = ["-p", TEXT, "--temp", "0", "-n", "24", "--quiet"];
        let all = [&[model().to_str().unwrap()], &all[..], args].concat();
        let said = common::run(folder.path(), all);
        assert!(
            said.status.success(),
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        String::from_utf8(said.stdout).unwrap()
    };
    let wanted = [
        ("plain", alone(&[])),
        ("sql", alone(&["--lora", &one])),
        ("house.style", alone(&["--lora", &two])),
        ("sql+house.style", alone(&["--lora", &one, "--lora", &two])),
        ("house.style+sql", alone(&["--lora", &one, "--lora", &two])),
    ];
    for i in 0..3 {
        for j in 0..i {
            assert_ne!(wanted[i].1, wanted[j].1, "adapters change what is said");
        }
    }
    // All at the same time, and again from what was read by then.
    for round in 0..2 {
        thread::scope(|scope| {
            for (model, text) in &wanted {
                let server = &server;
                scope.spawn(move || {
                    let said = server.chat(&ask(model, TEXT));
                    assert_eq!(content(&said).trim_end(), text.trim_end(), "{model}");
                    assert_eq!(said["model"], *model);
                    let known = cached(&said) > 0;
                    // The last two are one model: one may know what the other read.
                    assert!(
                        known == (round > 0) || model.contains('+'),
                        "{model}, {round}"
                    );
                });
            }
        });
    }
    let completion = json!({"model": "sql", "prompt": "fn main", "temperature": 0, "seed": 1});
    let plain = json!({"model": "plain", "prompt": "fn main", "temperature": 0, "seed": 1});
    let [sql, plain] = [completion, plain].map(|b| server.post("/v1/completions", &b).ok());
    assert_ne!(sql["choices"][0]["text"], plain["choices"][0]["text"]);

    // A name that stands for nothing is no other model.
    for name in ["sqll", "sql+", "sql+plain", "gpt-4o"] {
        let answer = server.post("/v1/chat/completions", &ask(name, "Hello"));
        assert_eq!(answer.status, 404, "{name}: {}", answer.body);
        assert!(answer.body.contains("house.style"), "{}", answer.body);
    }

    // What was read with an adapter outlives the service, for that adapter.
    let folder = server.kill();
    let server = Server::start_in(folder, &more);
    for (model, text) in &wanted[..3] {
        let said = server.chat(&ask(model, TEXT));
        assert_eq!(content(&said).trim_end(), text.trim_end(), "{model}");
        assert!(cached(&said) > 50, "{model}: {}", said["usage"]);
    }
}

#[test]
fn what_cannot_be_had_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let one = write(folder.path(), "sql", 1);
    let as_model = format!("tiny={one}");
    for (args, why) in [
        (&["--lora", &*one, "--lora", &*one][..], "two adapters"),
        (
            &["--lora", "/nowhere/at/all"],
            "/nowhere/at/all/adapter_config.json",
        ),
        (&["--lora", "a b=/x"], "not a valid adapter name"),
        (&["--lora", &*as_model], "own name"),
    ] {
        let socket = format!("unix:{}", folder.path().join("s").display());
        let all = [
            "serve",
            model().to_str().unwrap(),
            "--allow-unsigned",
            "--listen",
            &socket,
        ];
        let ended = common::run(folder.path(), [&all[..], args].concat());
        assert!(!ended.status.success());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn where_models_must_be_signed_adapters_must_be_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let copy = path("tiny.gguf");
    std::fs::copy(model(), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    let adapter = write(folder.path(), "sql", 1);
    let convert = |args: &[&str]| {
        let mut command = std::process::Command::new(v4_tests::program::bin("v4-convert"));
        let output = command
            .current_dir(folder.path())
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    for name in ["release", "other"] {
        assert!(convert(&["keygen", name, "--no-password"]).0);
    }
    assert!(convert(&["sign", copy, "--key", "release.key"]).0);
    let run = |more: &[&str]| {
        let all = [copy, "-p", "x", "-n", "1", "--quiet", "--lora", &adapter];
        let said = common::run(folder.path(), [&all[..], more].concat());
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.success(), errors)
    };
    let signed = ["--signer", "release.pub"];
    assert!(run(&[]).0, "nothing is asked");
    let (taken, said) = run(&signed);
    assert!(
        !taken && said.contains("adapter.manifest") && said.contains("not signed"),
        "{said}"
    );
    assert!(convert(&["sign", &adapter, "--key", "other.key"]).0);
    let (taken, said) = run(&signed);
    assert!(
        !taken && said.contains("any of the 1 trusted keys"),
        "{said}"
    );
    assert!(convert(&["sign", &adapter, "--key", "release.key"]).0);
    let (taken, said) = run(&signed);
    assert!(taken, "{said}");
    assert!(convert(&["verify", &adapter, "--signer", "release.pub"]).0);
    assert!(!convert(&["verify", &adapter, "--signer", "other.pub"]).0);

    // One bit of either file.
    for name in v4_runtime::Adapter::FILES {
        let file = Path::new(&adapter).join(name);
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        // A digit of alpha, or a bit of a number.
        match name.ends_with("json") {
            true => {
                let text = String::from_utf8(bad).unwrap();
                assert!(text.contains("16"), "{text}");
                bad = text.replace("16", "17").into_bytes();
            }
            false => *bad.last_mut().unwrap() ^= 1,
        }
        std::fs::write(&file, bad).unwrap();
        let (taken, said) = run(&signed);
        assert!(!taken && said.contains("altered"), "{name}: {said}");
        assert!(!convert(&["verify", &adapter, "--signer", "release.pub"]).0);
        std::fs::write(&file, good).unwrap();
    }
    assert!(run(&signed).0);
}
