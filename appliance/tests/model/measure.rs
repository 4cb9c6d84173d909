//! Perplexity and speed.

use safetensors::SafeTensors;
use serde_json::Value;
use v4_tokenizer::Marks;

use super::logits::{floats, logits};
use super::{TEXT, VOCAB, failure, json, ok, run, scratch, stderr, tokenizer, with_model};

/// Perplexity against the logits it should come from.
#[test]
fn perplexity_is_the_mean_over_logits_from_the_first_token() {
    let dir = scratch();
    std::fs::write(dir.path().join("text"), TEXT).unwrap();
    let targets = tokenizer().encode(TEXT, Marks::Plain).unwrap();
    let mut inputs = vec![0];
    inputs.extend(&targets[..targets.len() - 1]);
    let file = logits(scratch().path(), &inputs, &[]);
    let file = SafeTensors::deserialize(&file).unwrap();
    let (_, rows) = floats(&file, "logits");
    let nll: Vec<f64> = rows
        .chunks_exact(VOCAB)
        .zip(&targets)
        .map(|(row, &target)| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .collect();
    let mean = |nll: &[f64]| nll.iter().sum::<f64>() / nll.len() as f64;

    let value = |more: &[&str]| -> Value {
        let args = ["perplexity", "MODEL", "text", "--json"];
        let output = run(dir.path(), with_model(&[&args[..], more].concat()));
        serde_json::from_str(ok(&output)).unwrap()
    };
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-6;
    for more in [&[][..], &["--chunk", "5"]] {
        let all = value(more);
        assert!(close(&all["nll"], mean(&nll)), "{all}");
        assert!((all["ppl"].as_f64().unwrap() / mean(&nll).exp() - 1.0).abs() < 1e-6);
        assert_eq!(all["tokens"], targets.len());
    }
    assert!(close(&value(&["--tokens", "9"])["nll"], mean(&nll[..9])));
    assert!(close(&value(&["--skip", "4"])["nll"], mean(&nll[4..])));
    // Windows begin anew, so only the first is part of the whole.
    let windows = value(&["--window", "11"]);
    assert_eq!(windows["tokens"], targets.len());
    assert!(!close(&windows["nll"], mean(&nll)));

    let text = run(
        dir.path(),
        with_model(&["perplexity", "MODEL", "text", "-q"]),
    );
    assert!(ok(&text).contains("ppl") && stderr(&text).is_empty());
    std::fs::write(dir.path().join("text"), "").unwrap();
    let empty = run(dir.path(), with_model(&["perplexity", "MODEL", "text"]));
    assert!(failure(&empty).starts_with("text: "));
}

#[test]
fn bench_reports_every_case() {
    let args = [
        "bench", "MODEL", "--prompt", "4,8", "--gen", "3", "--depth", "0,5", "--reps", "2",
        "--json",
    ];
    let value = json(&args);
    let tests = value["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 6);
    for test in tests {
        let rate = &test["tokens_per_second"];
        let [min, median, max] = ["min", "median", "max"].map(|k| rate[k].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{test}");
        assert_eq!(rate["runs"].as_array().unwrap().len(), 2);
    }
    assert!(value["weight_bytes_per_token"].as_u64().unwrap() > 0);
}

/// Bytes and operations are those of the model's tensors, and kinds of operations
/// add up to the whole.
#[test]
fn bench_counts_what_a_token_reads() {
    let args = [
        "bench", "MODEL", "--prompt", "8", "--gen", "3", "--depth", "9", "--reps", "1",
    ];
    let value = json(&[&args[..], &["--json", "--profile", "--threads", "1"]].concat());
    let ceilings = &value["ceilings"];
    for what in [
        "bytes_per_second",
        "int8_operations_per_second",
        "f32_operations_per_second",
    ] {
        assert!(ceilings[what].as_f64().unwrap() > 1e6, "{ceilings}");
    }
    let number = |value: &Value| value.as_f64().unwrap();
    for test in value["tests"].as_array().unwrap() {
        let share = number(&test["share_of_ceiling"]);
        assert!(share > 0.0 && share < 1.5, "{test}");
        let per_token = &test["per_token"];
        assert!(number(&per_token["kv_bytes"]) > 0.0);
        let profile = test["profile"].as_array().unwrap();
        for sum in ["weight_bytes", "kv_bytes", "operations"] {
            let parts: f64 = profile.iter().map(|part| number(&part[sum])).sum();
            assert!(
                (parts / number(&per_token[sum]) - 1.0).abs() < 1e-9,
                "{sum}"
            );
        }
        let busy: f64 = profile.iter().map(|part| number(&part["seconds"])).sum();
        let rate = number(&test["tokens_per_second"]["median"]);
        assert!(busy > 0.0 && busy <= 1.0 / rate, "{busy} of {}", 1.0 / rate);
    }
    // A decoded token reads each weight that it uses once.
    let decode = &value["tests"][1];
    assert_eq!(decode["test"], "decode");
    let file = number(&value["weight_bytes_per_token"]);
    let read = number(&decode["per_token"]["weight_bytes"]);
    // Vectors are not counted.
    assert!(read <= file && read > 0.9 * file, "{read} of {file}");

    let csv = run(
        scratch().path(),
        with_model(&[&args[..], &["--csv", "--no-probe", "--quiet"]].concat()),
    );
    let lines: Vec<Vec<&str>> = ok(&csv).lines().map(|l| l.split(',').collect()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    assert_eq!(lines[2][..3], ["decode", "3", "9"]);
    assert_eq!(lines[2][7].parse::<f64>().unwrap(), read);
}

/// A step of several clients reads what they share once.
#[test]
fn bench_decodes_for_several_clients() {
    let args = [
        "bench",
        "MODEL",
        "--prompt",
        "1",
        "--gen",
        "5",
        "--clients",
        "1,4",
        "--reps",
        "1",
    ];
    let value = json(&[&args[..], &["--json", "--no-probe"]].concat());
    let tests: Vec<_> = value["tests"].as_array().unwrap().iter().skip(1).collect();
    let of = |key: &str| {
        tests
            .iter()
            .map(|test| test[key].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("test"), ["decode"; 3]);
    assert_eq!(of("clients"), [1, 1, 4]);
    assert_eq!(of("tokens"), [5, 5, 20]);
    let weights = |test: &Value| test["per_token"]["weight_bytes"].as_f64().unwrap();
    assert_eq!(weights(tests[0]), weights(tests[1]));
    let share = weights(tests[2]) / weights(tests[0]);
    assert!((0.25..0.9).contains(&share), "{share}");

    for (more, code) in [
        ("--gen=0", 1),
        ("--engram", 1),
        ("--clients=0", 2),
        ("--clients=65", 2),
    ] {
        let args = with_model(&["bench", "MODEL", "--clients=2", more]);
        let output = run(scratch().path(), args);
        assert_eq!(output.status.code(), Some(code), "{more}");
        assert!(stderr(&output).contains("--clients"), "{more}");
    }
}

/// Rows, bytes, pages and waiting, by themselves and during the model's steps,
/// with numbers that agree with each other.
#[test]
fn bench_reports_what_engram_rows_take() {
    let args = [
        "bench", "V4.1", "--prompt", "40", "--gen", "6", "--reps", "2", "--json",
    ];
    let check = |tests: &Value| {
        for test in tests.as_array().unwrap() {
            let engram = &test["engram"];
            let number = |key: &str| engram[key].as_f64().unwrap();
            let tokens = 2.0 * test["tokens"].as_f64().unwrap();
            assert_eq!(number("tokens"), tokens, "{test}");
            // Two tables of 12 columns.
            assert_eq!(number("rows"), tokens * 24.0);
            assert!(number("distinct_rows") <= number("rows"));
            assert!(number("cached_rows") <= number("distinct_rows"));
            assert!(number("reads") > 0.0 && number("pages") >= number("reads"));
            assert_eq!(
                number("bytes_read_per_token") * tokens,
                number("bytes_read")
            );
            let rate = number("rows") / number("seconds");
            assert!((number("rows_per_second") / rate - 1.0).abs() < 1e-9);
            assert!((0.0..=1.0).contains(&number("waiting_share")));
            assert_eq!(number("retries"), 0.0);
        }
        tests.as_array().unwrap().len()
    };
    let plain = json(&args);
    assert_eq!(check(&plain["tests"]), 2);
    assert!(plain.get("engram").is_none());
    let all = json(&[&args[..], &["--engram", "--reads=threads", "--no-direct"]].concat());
    assert_eq!(check(&all["tests"]), 2);
    assert_eq!(check(&all["engram"]["tests"]), 2);
    assert_eq!(all["engram"]["reads"], "threads");
    assert_eq!(all["engram"]["direct"], false);
    let rows = json(&[&args[..], &["--engram=rows", "--in-flight=3"]].concat());
    assert!(rows.get("tests").is_none());
    assert_eq!(check(&rows["engram"]["tests"]), 2);
    for test in rows["engram"]["tests"].as_array().unwrap() {
        assert!(test["engram"]["mean_in_flight"].as_f64().unwrap() <= 3.0);
    }

    let dir = scratch();
    std::fs::write(dir.path().join("text"), TEXT).unwrap();
    let args = [
        "bench",
        "V4.1",
        "--engram=rows",
        "--text",
        "text",
        "--prompt=9",
    ];
    let output = run(dir.path(), with_model(&args));
    let lines = ok(&output);
    assert!(
        lines.contains("rows/s") && lines.contains("waiting"),
        "{lines}"
    );
}

#[test]
fn bench_of_rows_wants_a_model_with_tables() {
    for more in [&["MODEL"][..], &["V4.1", "--engram-tables=off"]] {
        let args = [&["bench", "--engram", "--gen=1", "--prompt=1"], more].concat();
        let output = run(scratch().path(), with_model(&args));
        assert!(failure(&output).contains("no Engram tables"), "{more:?}");
    }
}
