//! Grammars for tool calls, in the markup of the model's format.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use v4_chat::ModelVersion;

use super::schema::{self, Held, Rigor};
use super::wanted::{Calls, Part, Refusal, Wanted, WantedTool};
use values::{Forms, Text, forms, quoted};

mod values;

/// The markup of one version: what follows the mark in each tag.
struct Tags {
    block: &'static str,
    call: &'static str,
    parameter: &'static str,
    /// A call without parameters has an empty line.
    empty_line: bool,
}

const V4: Tags = Tags {
    block: "tool_calls",
    call: "invoke",
    parameter: "parameter",
    empty_line: false,
};

const V41: Tags = Tags {
    block: " calls",
    call: " invoke",
    parameter: " parameter",
    empty_line: true,
};

/// Parameters whose order is free: one bit each says which have come.
const MOST_FREE: usize = 60;

/// A name of a parameter that nobody has declared.
const NAME: &str = r#"/[^"\\\x00-\x20]{1,64}/"#;

/// An answer that is text, as a rule's right side in Lark's notation.
pub(super) enum Answer {
    /// Any text, also before calls.
    Any,
    /// Text of a form, in place of calls.
    Form(String),
}

/// A grammar in Lark's notation. `mark` is the id of the mark that each tag has. Tools
/// whose index is in `free` are not held to their schemas.
pub(super) fn grammar(
    wanted: &Wanted,
    answer: &Answer,
    version: ModelVersion,
    mark: u32,
    free: &HashSet<usize>,
) -> Result<String, Box<Refusal>> {
    let tags = match version {
        ModelVersion::V4 => &V4,
        ModelVersion::V41 => &V41,
    };
    let mut block = Block {
        tags,
        mark: format!("<[{mark}]>"),
        rules: String::new(),
        texts: HashMap::new(),
        values: HashMap::new(),
        nodes: 0,
    };
    block.start(wanted, answer);
    let held = |tool: &WantedTool| tool.strict || wanted.calls == Calls::Must;
    for (i, tool) in wanted.tools.iter().enumerate() {
        if tool.name.is_empty()
            || tool
                .name
                .contains(|c: char| c.is_control() || "\"\\".contains(c))
        {
            return Err(refuse(
                tool,
                "name",
                "#",
                "its name cannot be written in a call",
            ));
        }
        match held(tool) && !free.contains(&i) {
            true => block.held_call(i, tool)?,
            false => block.free_call(i, tool),
        }
    }
    Ok(block.rules)
}

fn refuse(tool: &WantedTool, keyword: &str, place: &str, why: impl Into<String>) -> Box<Refusal> {
    Box::new(Refusal {
        part: Part::Tool(tool.name.clone()),
        place: Some(place.to_owned()),
        keyword: Some(keyword.to_owned()),
        why: why.into(),
    })
}

/// The rules as they are written.
struct Block {
    tags: &'static Tags,
    mark: String,
    rules: String,
    /// Terminals of texts, and rules of values, by what they match.
    texts: HashMap<String, String>,
    values: HashMap<String, String>,
    /// Schemas in all tools that are held.
    nodes: usize,
}

/// The parameters of a tool.
struct Parameters {
    held: Held,
    named: Map<String, Value>,
    required: Vec<String>,
    /// The values of those that are not named.
    others: Option<Value>,
}

impl Block {
    /// Writing to a string cannot fail.
    fn line(&mut self, line: impl std::fmt::Display) {
        let _ = writeln!(self.rules, "{line}");
    }

    fn start(&mut self, wanted: &Wanted, answer: &Answer) {
        let mark = self.mark.clone();
        let open = format!(
            "{mark} {} calls",
            quoted(&format!("{}>\n", self.tags.block))
        );
        match (wanted.calls, answer) {
            (Calls::Must, _) if wanted.opened => self.line("start: calls"),
            (Calls::Must, _) => self.line(format!("start: OPEN {open}\nOPEN: /(\\n\\n)?</")),
            (_, Answer::Any) => {
                let any = "TEXT: /(?s:.*)/\nOPEN: /(?s:.*)</";
                self.line(format!("start: TEXT | OPEN {open}\n{any}"));
            }
            (_, Answer::Form(form)) => {
                let first = "OPEN: /(\\n\\n)?</";
                self.line(format!("start: answer | OPEN {open}\n{first}\n{form}"));
            }
        }
        let names: Vec<String> = (0..wanted.tools.len())
            .map(|i| format!("call_{i}"))
            .collect();
        let many = if wanted.parallel { "call+" } else { "call" };
        let end = quoted(&format!("{}>", self.tags.block));
        let names = names.join(" | ");
        self.line(format!("calls: {many} \"</\" {mark} {end}\ncall: {names}"));
        let close = quoted(&format!("{}>\n", self.tags.call));
        self.line(format!("close: \"</\" {mark} {close}"));
        if self.tags.empty_line {
            self.line(format!("nothing: \"\\n</\" {mark} {close}"));
        }
        self.line("VALUE: /(?s:.*)<\\//");
    }

    fn open(&self, tool: &WantedTool) -> String {
        let open = quoted(&format!("{} name=\"{}\">\n", self.tags.call, tool.name));
        format!("\"<\" {} {open}", self.mark)
    }

    /// A call with any parameters.
    fn free_call(&mut self, i: usize, tool: &WantedTool) {
        let open = self.open(tool);
        let any = self.others(
            &Forms {
                text: Some(Text::Any),
                json: Some(json!({"type": ["null", "boolean", "number", "array", "object"]})),
            },
            &Held::default(),
            &[],
        );
        let nothing = if self.tags.empty_line {
            " | nothing"
        } else {
            ""
        };
        self.line(format!("call_{i}: {open} ({any}* close{nothing})"));
    }

    /// A call with the parameters of its schema.
    fn held_call(&mut self, i: usize, tool: &WantedTool) -> Result<(), Box<Refusal>> {
        let all = parameters(tool)?;
        self.nodes += all.held.nodes;
        if self.nodes > schema::MOST_NODES {
            if tool.strict {
                let why = format!("the tools have more than {} schemas", schema::MOST_NODES);
                return Err(refuse(tool, "parameters", "#", why));
            }
            self.free_call(i, tool);
            return Ok(());
        }
        let open = self.open(tool);
        let mut sequence = Vec::new();
        // Those that must come have the lowest bits.
        let must = |name: &&String| all.required.contains(name);
        let (first, rest): (Vec<_>, Vec<_>) = all.named.keys().partition(must);
        let count = first.len();
        for name in first.into_iter().chain(rest) {
            let schema = &all.named[name];
            let place = format!("#/properties/{name}");
            let required = all.required.contains(name);
            match self.parameter(tool, name, schema, &all.held, &place)? {
                Some(rule) => sequence.push((rule, required)),
                None if required => {
                    return Err(refuse(tool, "required", &place, "it allows no value"));
                }
                None => {}
            }
        }
        let others = match &all.others {
            Some(others) => {
                let forms = self.forms(tool, others, &all.held, "#/additionalProperties")?;
                let taken: Vec<&String> = all.named.keys().collect();
                Some(self.others(&forms, &all.held, &taken))
            }
            None => None,
        };
        let nothing = self.tags.empty_line && count == 0;
        if sequence.len() > MOST_FREE {
            let rules: Vec<String> = sequence
                .into_iter()
                .map(|(rule, required)| format!("{rule}{}", if required { "" } else { "?" }))
                .collect();
            let others = others.map(|o| format!("{o}*")).unwrap_or_default();
            self.line(format!(
                "call_{i}: {open} {} {others} close",
                rules.join(" ")
            ));
            return Ok(());
        }
        if sequence.is_empty() {
            let others = others.map(|o| format!("{o}*")).unwrap_or_default();
            let nothing = if nothing { " | nothing" } else { "" };
            self.line(format!("call_{i}: {open} ({others} close{nothing})"));
            return Ok(());
        }
        self.line(format!("call_{i}: {open} args_{i}::0x0"));
        let done = match count {
            0 => String::new(),
            count => format!(" %if is_ones([0:{count}])"),
        };
        let mut cases = vec![format!("close{done}")];
        if nothing {
            cases.push("nothing".to_owned());
        }
        for (bit, (rule, _)) in sequence.iter().enumerate() {
            cases.push(format!(
                "{rule} args_{i}::set_bit({bit}) %if bit_clear({bit})"
            ));
        }
        cases.extend(others.map(|others| format!("{others} args_{i}::_")));
        self.line(format!("args_{i}::_ : {}", cases.join("\n    | ")));
        Ok(())
    }

    /// What a parameter may be, where its schema can be held.
    fn forms(
        &self,
        tool: &WantedTool,
        schema: &Value,
        held: &Held,
        place: &str,
    ) -> Result<Forms, Box<Refusal>> {
        match forms(held, schema) {
            Ok(forms) => Ok(forms),
            Err((keyword, why)) if tool.strict => Err(refuse(tool, keyword, place, why)),
            Err(_) => Ok(Forms {
                text: Some(Text::Any),
                json: None,
            }),
        }
    }

    /// The rule of a named parameter; `None` if no value is allowed.
    fn parameter(
        &mut self,
        tool: &WantedTool,
        name: &str,
        schema: &Value,
        held: &Held,
        place: &str,
    ) -> Result<Option<String>, Box<Refusal>> {
        let forms = self.forms(tool, schema, held, place)?;
        let tag = self.tags.parameter;
        let open = |string: bool| quoted(&format!("{tag} name=\"{name}\" string=\"{string}\">"));
        Ok(self.rule(&forms, held, open))
    }

    /// The rule of parameters with other names than these.
    fn others(&mut self, forms: &Forms, held: &Held, taken: &[&String]) -> String {
        let tag = self.tags.parameter;
        let taken: Vec<String> = taken.iter().map(|name| quoted(name)).collect();
        let name = match taken.is_empty() {
            true => NAME.to_owned(),
            false => format!("({NAME} & ~({}))", taken.join(" | ")),
        };
        let open = |string: bool| {
            let (before, after) = (format!("{tag} name=\""), format!("\" string=\"{string}\">"));
            format!("({} {name} {})", quoted(&before), quoted(&after))
        };
        let open = [open(true), open(false)].map(|open| self.terminal(open));
        self.rule(forms, held, |string| open[usize::from(!string)].clone())
            .unwrap_or_else(|| "close".to_owned())
    }

    /// A terminal of an expression.
    fn terminal(&mut self, like: String) -> String {
        if let Some(name) = self.texts.get(&like) {
            return name.clone();
        }
        let name = format!("T_{}", self.texts.len());
        self.line(format!("{name}: {like}"));
        self.texts.insert(like, name.clone());
        name
    }

    /// A parameter, its opening tag given; `None` if it has no form.
    fn rule(
        &mut self,
        forms: &Forms,
        held: &Held,
        open: impl Fn(bool) -> String,
    ) -> Option<String> {
        let mark = self.mark.clone();
        let close = quoted(&format!("{}>\n", self.tags.parameter));
        let text = forms.text.clone().map(|text| {
            let value = match text {
                Text::Any => "VALUE".to_owned(),
                Text::Like(like) => self.terminal(format!("{like} \"</\"")),
            };
            format!("\"<\" {mark} {} {value} {mark} {close}", open(true))
        });
        let json = forms.json.as_ref().map(|json| {
            let value = self.value(json, held);
            format!("\"<\" {mark} {} {value} \"</\" {mark} {close}", open(false))
        });
        let all: Vec<String> = text.into_iter().chain(json).collect();
        let rule = all.join(" | ");
        if rule.is_empty() {
            return None;
        }
        Some(self.named('p', rule))
    }

    /// A rule of a right side.
    fn named(&mut self, letter: char, right: String) -> String {
        if let Some(name) = self.values.get(&right) {
            return name.clone();
        }
        let name = format!("{letter}_{}", self.values.len());
        self.line(format!("{name}: {right}"));
        self.values.insert(right, name.clone());
        name
    }

    /// A value in JSON.
    fn value(&mut self, schema: &Value, held: &Held) -> String {
        let simple = match schema.as_object() {
            Some(all) if all.len() == 1 => match schema["type"].as_str() {
                Some("boolean") => Some("/true|false/"),
                Some("integer") => Some("/-?(?:0|[1-9][0-9]*)/"),
                Some("null") => Some("\"null\""),
                _ => None,
            },
            _ => None,
        };
        match simple {
            Some(simple) => self.terminal(simple.to_owned()),
            None => {
                let schema = held.grammar(schema);
                self.named('v', format!("%json {schema}"))
            }
        }
    }
}

/// Reads a tool's parameters.
fn parameters(tool: &WantedTool) -> Result<Parameters, Box<Refusal>> {
    let rigor = match tool.strict {
        true => Rigor::Strict,
        false => Rigor::Loose,
    };
    let part = Part::Tool(tool.name.clone());
    let held = schema::read(&tool.parameters, rigor, &part)?;
    let root = held.target(&held.root);
    let none = Map::new();
    let all = match root {
        Value::Object(all) => all,
        _ if !tool.strict => &none,
        Value::Bool(true) => &none,
        _ => {
            return Err(refuse(
                tool,
                "type",
                "#",
                "it allows no parameters; name them",
            ));
        }
    };
    let object = |t: &Value| {
        t == "object"
            || t.as_array()
                .is_some_and(|t| t.iter().any(|t| t == "object"))
    };
    if all.get("type").is_some_and(|t| !object(t)) && tool.strict {
        return Err(refuse(tool, "type", "#", "parameters must be an object"));
    }
    let whole = [
        "$ref",
        "allOf",
        "anyOf",
        "patternProperties",
        "minProperties",
        "maxProperties",
        "enum",
        "const",
    ];
    if let Some(keyword) = whole.iter().find(|k| all.contains_key(**k))
        && tool.strict
    {
        let why = "this cannot be enforced for all parameters together; apply it to each parameter";
        return Err(refuse(tool, keyword, "#", why));
    }
    let mut named = match all.get("properties") {
        Some(Value::Object(named)) => named.clone(),
        _ => Map::new(),
    };
    let mut required: Vec<String> = all
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let mut others = match all.get("additionalProperties") {
        Some(Value::Bool(false)) => None,
        Some(others) => Some(others.clone()),
        None if all.contains_key("properties") => None,
        None => Some(Value::Bool(true)),
    };
    for name in &required {
        if let Some(others) = &others {
            named.entry(name.as_str()).or_insert_with(|| others.clone());
        }
        if !named.contains_key(name) && tool.strict {
            return Err(refuse(
                tool,
                "required",
                "#",
                format!("there is no property {name:?}"),
            ));
        }
    }
    // The reader of calls takes a name for ended at a blank.
    let odd = |name: &String| {
        name.is_empty() || name.contains(|c: char| c.is_control() || " \"\\".contains(c))
    };
    if let Some(name) = named.keys().find(|name| odd(name)).cloned() {
        if tool.strict {
            let why = format!(
                "the name {name:?} cannot be written in a call; leave out spaces, quotes and \
                 backslashes"
            );
            return Err(refuse(tool, "properties", "#", why));
        }
        named.retain(|name, _| !odd(name));
    }
    if tool.strict || all.contains_key("properties") {
        required.retain(|name| named.contains_key(name));
    } else {
        others.get_or_insert(Value::Bool(true));
    }
    Ok(Parameters {
        named,
        required,
        others,
        held,
    })
}
