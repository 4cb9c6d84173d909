//! `plan` and `doctor`.

use serde_json::Value;

use super::{checkpoint, failure, ok, run, scratch, with_model};

fn parsed(output: &std::process::Output) -> Value {
    serde_json::from_str(ok(output)).unwrap()
}

fn plan(more: &[&str]) -> Value {
    let args = [
        &["plan", "MODEL", "--no-probe", "--json", "--ctx", "64"],
        more,
    ]
    .concat();
    parsed(&run(scratch().path(), with_model(&args)))
}

#[test]
fn groups_of_bytes_add_up_and_streaming_begins_where_memory_ends() {
    let all = plan(&["--memory", "8G"]);
    let memory = &all["memory_bytes"];
    let parts = memory.as_object().unwrap().iter();
    let parts = parts.filter(|(name, _)| *name != "total");
    let sum: u64 = parts.map(|(_, bytes)| bytes.as_u64().unwrap()).sum();
    // No draft module; but the text drafts.
    assert_eq!(memory["draft"], 0);
    assert!(memory["ahead"].as_u64().unwrap() > 0);
    assert_eq!(memory["total"], sum);
    assert_eq!(all["experts"]["streamed"], false);
    assert_eq!(all["allowed_bytes"], 8u64 << 30);

    let some = plan(&["--memory", "8G", "--most-experts", "3"]);
    assert_eq!(some["experts"]["streamed"], true);
    assert_eq!(some["experts"]["slots"], 3);
    assert_eq!(some["disk_bytes"]["experts"], memory["experts"]);
    assert!(some["memory_bytes"]["total"].as_u64().unwrap() < sum + 3 * 4096 * 6);
}

#[test]
fn prompts_are_read_by_as_much_as_a_sixteenth_of_memory_allows() {
    let plan = |memory: u64, more: &[&str]| {
        let memory = memory.to_string();
        let args = ["plan", "MODEL", "--no-probe", "--json", "--ctx", "4096"];
        let args = [&args[..], &["--memory", &memory], more].concat();
        parsed(&run(scratch().path(), with_model(&args)))
    };
    let chunk = |plan: &Value| plan["chunk"].as_u64().unwrap();
    let buffers = |chunk: &str| {
        let plan = plan(8 << 30, &["--chunk", chunk]);
        assert_eq!(plan["chunk"].to_string(), chunk, "as it was asked for");
        plan["memory_bytes"]["scratch"].as_u64().unwrap()
    };
    let [most, half] = ["2048", "1024"].map(buffers);
    assert!(buffers("300") < half && half < most);
    for (memory, expected) in [
        (8 << 30, 2048),
        (16 * most, 2048),
        (16 * most - 1, 1024),
        (16 * half, 1024),
        (16 * half - 1, 512),
    ] {
        assert_eq!(chunk(&plan(memory, &[])), expected, "with {memory} bytes");
    }
}

#[test]
fn a_checkpoint_is_planned_as_the_file_that_it_will_be() {
    let checkpoint = checkpoint();
    let folder = checkpoint.to_str().unwrap();
    let of = |model: &str| {
        let args = [
            "plan",
            model,
            "--no-probe",
            "--json",
            "--ctx",
            "64",
            "--memory",
            "8G",
        ];
        let found = parsed(&run(scratch().path(), with_model(&args)));
        found["memory_bytes"].clone()
    };
    assert_eq!(of(folder), of("MODEL"));
    let args = ["plan", folder, "--recipe", "nonsense"];
    assert!(failure(&run(scratch().path(), args)).contains("nonsense"));
}

#[test]
fn what_cannot_fit_is_refused_with_what_would() {
    let dir = scratch();
    let with = |memory: &str| {
        let args = [
            "plan",
            "MODEL",
            "--no-probe",
            "--ctx",
            "64",
            "--memory",
            memory,
        ];
        run(dir.path(), with_model(&args))
    };
    let refused = with("1M");
    let message = failure(&refused);
    let (_, rest) = message.split_once("use --memory ").unwrap();
    let enough = rest.split_whitespace().next().unwrap();
    assert!(ok(&with(enough)).contains("weights of every token"));
}

#[test]
fn speed_is_predicted_from_a_routing_trace_of_this_model_only() {
    let dir = scratch();
    std::fs::write(dir.path().join("ids"), "1 2 3 4 5 6 7 8").unwrap();
    let trace = [
        "logits", "MODEL", "--ids", "ids", "--out", "trace", "--trace",
    ];
    ok(&run(dir.path(), with_model(&trace)));
    let plan = |routing: &str| {
        let args = [
            "plan",
            "MODEL",
            "--ctx",
            "64",
            "--most-experts",
            "4",
            "--json",
        ];
        run(
            dir.path(),
            with_model(&[&args[..], &["--routing", routing]].concat()),
        )
    };
    let predicted = parsed(&plan("trace"));
    if !predicted["forecast"].is_null() {
        let hits = predicted["forecast"]["hit_rate"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&hits));
        assert!(
            predicted["forecast"]["decode_tokens_per_second"]
                .as_f64()
                .unwrap()
                > 0.0
        );
        assert!(
            predicted["measured"]["disk"]["bytes_per_second"]
                .as_f64()
                .unwrap()
                > 0.0
        );
    }
    assert!(failure(&plan("ids")).contains("not a safetensors file"));
    assert!(failure(&plan("nowhere")).starts_with("nowhere: "));
}

#[test]
fn doctor_looks_at_a_model_or_a_folder() {
    let dir = scratch();
    for path in ["MODEL", "."] {
        let found = parsed(&run(dir.path(), with_model(&["doctor", path, "--json"])));
        let names: Vec<&str> = found["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| finding["name"].as_str().unwrap())
            .collect();
        for name in [
            "processor",
            "instructions",
            "memory",
            "direct reads",
            "io_uring",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
    }
    assert!(
        std::fs::read_dir(dir.path()).unwrap().next().is_none(),
        "nothing is left"
    );
    assert!(failure(&run(dir.path(), ["doctor", "nowhere"])).starts_with("nowhere: "));
}
