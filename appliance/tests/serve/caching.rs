//! Conversations like those of agents: what is read again.

use serde_json::{Value, json};

use super::{Server, TEXT, cached, chat};

/// A protocol, as its clients keep a conversation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Chat,
    Messages,
    Responses,
}

/// What a request cost, in tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    prompt: u64,
    cached: u64,
    written: u64,
}

/// A turn, as it was left.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Items of the history after it.
    items: usize,
    /// Tokens of its prompt and answer.
    tokens: u64,
    /// Whether it called tools, whose results are the history's last items.
    called: bool,
}

/// A client with a conversation that grows.
struct Agent {
    kind: Kind,
    thinks: bool,
    history: Vec<Value>,
    turns: Vec<Turn>,
    read: u64,
    new: u64,
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

impl Agent {
    fn new(kind: Kind, thinks: bool) -> Self {
        Self {
            kind,
            thinks,
            history: Vec::new(),
            turns: Vec::new(),
            read: 0,
            new: 0,
        }
    }

    fn body(&self, call: bool) -> Value {
        let parameters = json!({"type": "object", "required": ["n"],
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}}});
        let system = TEXT.repeat(6);
        // The small model's noise has marks in it, which turns have not; reasoning ends
        // where its budget does.
        let bias = json!({"1": -100, "4073": -100, "4074": -100});
        let mut body = json!({"model": "m", "seed": self.turns.len(), "logit_bias": bias});
        let more = match self.kind {
            Kind::Chat => {
                let mut messages = vec![json!({"role": "system", "content": system})];
                messages.extend(self.history.clone());
                json!({
                    "messages": messages, "max_tokens": 24,
                    "tools": [{"type": "function",
                        "function": {"name": "sum", "parameters": parameters}}],
                    "tool_choice": if call { "required" } else { "auto" },
                    "thinking": {"type": if self.thinks { "enabled" } else { "disabled" }},
                    "thinking_budget": self.thinks.then_some(8),
                })
            }
            Kind::Messages => json!({
                "system": system, "messages": self.history, "max_tokens": 24,
                "tools": [{"name": "sum", "input_schema": parameters}],
                "tool_choice": {"type": if call { "any" } else { "auto" }},
                "thinking": match self.thinks {
                    true => json!({"type": "enabled", "budget_tokens": 8}),
                    false => json!({"type": "disabled"}),
                },
            }),
            Kind::Responses => json!({
                "instructions": system, "input": self.history, "max_output_tokens": 24,
                "tools": [{"type": "function", "name": "sum", "parameters": parameters}],
                "tool_choice": if call { "required" } else { "auto" },
                "reasoning": match self.thinks {
                    true => json!({"effort": "high", "max_tokens": 8}),
                    false => json!({"effort": "none"}),
                },
                "store": false,
            }),
        };
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        // A call has more to write than its text.
        if call {
            for name in ["max_tokens", "max_output_tokens"] {
                if body.get(name).is_some() {
                    body[name] = 200.into();
                }
            }
        }
        body
    }

    fn path(&self) -> &'static str {
        match self.kind {
            Kind::Chat => "/v1/chat/completions",
            Kind::Messages => "/v1/messages",
            Kind::Responses => "/v1/responses",
        }
    }

    /// What the user says.
    fn user(&mut self, text: &str) {
        self.history.push(match self.kind {
            Kind::Responses => json!({"role": "user", "content": [
                {"type": "input_text", "text": text}]}),
            _ => json!({"role": "user", "content": text}),
        });
    }

    /// Asks, and takes the answer into the conversation as clients do: written anew. Calls
    /// get results.
    fn ask(&mut self, server: &Server, call: bool) -> Cost {
        let said = server.post(self.path(), &self.body(call)).ok();
        let usage = &said["usage"];
        let cost = match self.kind {
            Kind::Chat => Cost {
                prompt: number(&usage["prompt_tokens"]),
                cached: cached(&said),
                written: number(&usage["completion_tokens"]),
            },
            Kind::Messages => {
                let cached = number(&usage["cache_read_input_tokens"]);
                let created = number(&usage["cache_creation_input_tokens"]);
                Cost {
                    prompt: number(&usage["input_tokens"]) + cached + created,
                    cached,
                    written: number(&usage["output_tokens"]),
                }
            }
            Kind::Responses => Cost {
                prompt: number(&usage["input_tokens"]),
                cached: number(&usage["input_tokens_details"]["cached_tokens"]),
                written: number(&usage["output_tokens"]),
            },
        };
        let known = self.turns.last().map_or(0, |turn| turn.tokens);
        self.read += cost.prompt - cost.cached;
        self.new += cost.prompt.saturating_sub(known);
        let called = self.take(&said) > 0;
        assert_eq!(called, call, "{said}");
        self.turns.push(Turn {
            items: self.history.len(),
            tokens: cost.prompt + cost.written,
            called,
        });
        cost
    }

    /// Returns how many calls there were.
    fn take(&mut self, said: &Value) -> usize {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        // As another JSON library writes it.
        let anew = |text: &Value| {
            let value: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            Value::from(value.to_string())
        };
        let mut results = Vec::new();
        match self.kind {
            Kind::Chat => {
                let mut message = said["choices"][0]["message"].clone();
                if let Some(text) = message["content"].as_str() {
                    message["content"] = text.trim().into();
                }
                let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
                for call in calls.into_iter().flatten() {
                    call["function"]["arguments"] = anew(&call["function"]["arguments"]);
                    results.push(json!({"role": "tool", "tool_call_id": call["id"],
                        "content": "It is 42, of 17 in all."}));
                }
                self.history.push(message);
            }
            Kind::Messages => {
                let content = list(&said["content"]);
                let calls = content.iter().filter(|part| part["type"] == "tool_use");
                let parts: Vec<_> = calls
                    .map(|call| {
                        json!({"type": "tool_result", "tool_use_id": call["id"],
                            "content": "It is 42, of 17 in all."})
                    })
                    .collect();
                self.history
                    .push(json!({"role": "assistant", "content": content}));
                if !parts.is_empty() {
                    results.push(json!({"role": "user", "content": parts}));
                }
            }
            Kind::Responses => {
                for mut item in list(&said["output"]) {
                    if item["type"] == "function_call" {
                        item["arguments"] = anew(&item["arguments"]);
                        results.push(json!({"type": "function_call_output",
                            "call_id": item["call_id"], "output": "It is 42, of 17 in all."}));
                    }
                    self.history.push(item);
                }
            }
        }
        let calls = results.len();
        self.history.extend(results);
        calls
    }

    /// Takes the last turns back.
    fn back(&mut self, turns: usize) {
        self.turns.truncate(self.turns.len() - turns);
        self.history.truncate(self.turns.last().unwrap().items);
    }
}

/// Sixty turns, a third of them calls, one of them taken back and said otherwise, with a
/// service that is killed and started again on the way.
fn sixty_turns(kind: Kind, thinks: bool) {
    let args = ["--ctx", "16384", "--parallel", "2"];
    let mut server = Server::start(&args);
    let mut agent = Agent::new(kind, thinks);
    let mut after_first = (0, 0);
    for turn in 0..60 {
        if !agent.turns.last().is_some_and(|turn| turn.called) {
            agent.user(&format!(
                "Question {turn}: what does line {} do, and why so?",
                7 * turn
            ));
        }
        let call = !thinks && turn % 3 == 1;
        let cost = agent.ask(&server, call);
        match turn {
            0 => {
                assert!(cost.prompt > 800, "{cost:?}");
                after_first = (agent.read, agent.new);
            }
            35 => {
                let folder = server.kill();
                server = Server::start_in(folder, &args);
            }
            45 => agent.back(2),
            _ => {}
        }
    }
    let (read, new) = (agent.read - after_first.0, agent.new - after_first.1);
    println!(
        "{kind:?}, thinks: {thinks}: {read} tokens read for {new} new ones after the first prompt"
    );
    assert!(new > 1000, "{new}");
    assert!(
        read * 10 < new * 12,
        "{kind:?}: {read} tokens read for {new} new ones"
    );
}

#[test]
fn sixty_turns_of_chat_completions_are_read_once() {
    sixty_turns(Kind::Chat, false);
}

#[test]
fn sixty_turns_of_messages_are_read_once() {
    sixty_turns(Kind::Messages, false);
}

#[test]
fn sixty_turns_of_responses_are_read_once() {
    sixty_turns(Kind::Responses, false);
}

#[test]
fn sixty_turns_with_reasoning_are_read_once() {
    for kind in [Kind::Chat, Kind::Messages, Kind::Responses] {
        sixty_turns(kind, true);
    }
}

/// Files of the sessions that a service keeps.
fn sessions(server: &Server) -> Vec<String> {
    let kept = server.folder.path().join("v4-run/served");
    let files = std::fs::read_dir(kept).unwrap();
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn first_requests_of_agents_are_read_beforehand() {
    let system = TEXT.repeat(5);
    let first = |text: &str, system: &str| {
        let mut body = chat(text, json!({"max_tokens": 1}));
        let messages = body["messages"].as_array_mut().unwrap();
        messages.insert(0, json!({"role": "system", "content": system}));
        body
    };
    let folder = tempfile::tempdir().unwrap();
    let warm = folder.path().join("warm.jsonl");
    let recorded = json!({"path": "/v1/chat/completions", "body": first("Hello", &system)});
    let other = json!({"path": "/v1/models", "body": {}});
    std::fs::write(&warm, format!("{other}\n{recorded}\n")).unwrap();
    let path = warm.to_str().unwrap();
    for (more, kept) in [
        (&["--no-sessions"][..], false),
        (&["--sessions-size", "2M"], true),
    ] {
        let args = [&["--warm", path], more].concat();
        let server = Server::start(&args);
        server.wait_for("v4_recorded_requests_left", 0.0);
        // Sessions of others come and go; this one stays, whatever there is room for.
        for i in 0..30 {
            server.chat(&chat(&format!("{i} {TEXT}"), json!({"max_tokens": 1})));
        }
        let ask = first("Something else", &system);
        let said = server.chat(&ask);
        let prompt = said["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(cached(&said) + 40 > prompt, "{}", said["usage"]);
        let plain = server.post("/v1/chat/completions", &chat("Hello", json!({})));
        assert_eq!(plain.status, 200);
        if kept {
            let warm = |name: &&String| name.starts_with("warm-");
            let names = sessions(&server);
            assert_eq!(names.iter().filter(warm).count(), 1);
            assert!(names.len() < 30, "{names:?}");
            let folder = server.kill();
            let server = Server::start_in(folder, &[]);
            assert!(cached(&server.chat(&ask)) + 40 > prompt);
            server.signal("-TERM");
            assert_eq!(server.ended().0, Some(0));
        } else {
            server.signal("-TERM");
            let (code, said) = server.ended();
            assert_eq!(code, Some(0), "{said}");
            assert!(
                said.contains("warm.jsonl:1: not read ahead: /v1/models"),
                "{said}"
            );
            assert!(said.contains("warm.jsonl:2: "), "{said}");
        }
    }
    std::fs::write(&warm, "{}\n{\n").unwrap();
    let model = super::model().to_str().unwrap();
    let args = [
        "serve",
        model,
        "--allow-unsigned",
        "--no-sessions",
        "--warm",
        path,
    ];
    let output = super::common::run(folder.path(), args);
    assert!(!output.status.success());
    let said = super::common::stderr(&output);
    assert!(
        said.contains("warm.jsonl:3: neither JSON nor JSON lines"),
        "{said}"
    );
}

#[test]
fn usage_says_what_was_known_in_each_protocols_words() {
    let server = Server::start(&["--no-sessions"]);
    let chat = chat(TEXT, json!({"max_tokens": 2}));
    let messages = json!({"model": "m", "max_tokens": 2, "thinking": {"type": "disabled"},
        "messages": [{"role": "user", "content": TEXT}]});
    let responses = json!({"model": "m", "max_output_tokens": 2, "input": TEXT,
        "reasoning": {"effort": "none"}});
    let prompt = number(&server.chat(&chat)["usage"]["prompt_tokens"]);
    // The last two tokens open the model's turn.
    let known = prompt - 2;
    let streamed = |mut body: Value| {
        body["stream"] = true.into();
        body
    };
    let of_chat = |usage: &Value| {
        assert_eq!(usage["prompt_tokens"], prompt);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], known);
        assert_eq!(usage["prompt_cache_hit_tokens"], known);
        assert_eq!(usage["prompt_cache_miss_tokens"], 2);
    };
    of_chat(&server.chat(&chat)["usage"]);
    let mut body = streamed(chat);
    body["stream_options"] = json!({"include_usage": true});
    let events = server.post("/v1/chat/completions", &body).events();
    of_chat(&events.last().unwrap().1["usage"]);

    let of_messages = |usage: &Value| {
        assert_eq!(usage["input_tokens"], 2);
        assert_eq!(usage["cache_read_input_tokens"], known);
        assert_eq!(usage["cache_creation_input_tokens"], 0);
    };
    of_messages(&server.post("/v1/messages", &messages).ok()["usage"]);
    let events = server.post("/v1/messages", &streamed(messages)).events();
    of_messages(&events[0].1["message"]["usage"]);

    let of_responses = |usage: &Value| {
        assert_eq!(usage["input_tokens"], prompt);
        assert_eq!(usage["input_tokens_details"]["cached_tokens"], known);
    };
    of_responses(&server.post("/v1/responses", &responses).ok()["usage"]);
    let events = server.post("/v1/responses", &streamed(responses)).events();
    of_responses(&events.last().unwrap().1["response"]["usage"]);
}

#[test]
fn what_comes_once_does_not_push_a_conversation_out() {
    let server = Server::start(&["--no-sessions", "--parallel", "1"]);
    let mut agent = Agent::new(Kind::Chat, false);
    for turn in 0..3 {
        agent.user(&format!("Question {turn}"));
        agent.ask(&server, false);
    }
    // As many as are kept, and more: titles, batches, other agents' first requests.
    for i in 0..20 {
        server.chat(&chat(&format!("{i} {TEXT}"), json!({"max_tokens": 1})));
    }
    agent.user("And now?");
    let cost = agent.ask(&server, false);
    assert!(cost.cached + 40 > cost.prompt, "{cost:?}");
    // An agent that shares the system prompt and tools begins there, next to it.
    let mut other = Agent::new(Kind::Chat, false);
    other.user("I am another.");
    let cost = other.ask(&server, false);
    assert!(cost.cached + 40 > cost.prompt, "{cost:?}");
    agent.user("And now?");
    let cost = agent.ask(&server, false);
    assert!(cost.cached + 40 > cost.prompt, "{cost:?}");
}
