//! The declarations of `v4.h`, parsed from its text.

/// A header's declarations, in its order.
#[derive(Debug, Default)]
pub struct Header {
    /// Names of structs with their fields' names.
    pub structs: Vec<(String, Vec<String>)>,
    /// Enumerators and the version's macros.
    pub constants: Vec<String>,
    /// Prototypes and types of callbacks, on one line each.
    pub declarations: Vec<String>,
    /// Names of functions.
    pub functions: Vec<String>,
}

impl Header {
    /// Reads the declarations between the `extern "C"` braces.
    pub fn parse(text: &str) -> Self {
        let mut header = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("#define")
                && let (Some(name), Some(_)) = (words.next(), words.next())
            {
                header.constants.push(name.to_owned());
            }
        }
        let code: String = without_comments(text)
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("extern \"C\""))
            .collect::<Vec<_>>()
            .join("\n");
        for item in items(&code) {
            header.take(&item);
        }
        header
    }

    fn take(&mut self, item: &str) {
        if let Some(rest) = item.strip_prefix("typedef struct ")
            && let Some((name, body)) = rest.split_once('{')
        {
            let fields = body.split('}').next().unwrap().split(';');
            let name_of = |field: &str| {
                let name = field.rsplit([' ', '*']).next().unwrap();
                name.to_owned()
            };
            let fields = fields.map(str::trim).filter(|f| !f.is_empty());
            let fields = fields.map(name_of).collect();
            self.structs.push((name.trim().to_owned(), fields));
        } else if let Some(body) = item.strip_prefix("enum {") {
            let names = body.split('}').next().unwrap().split(',');
            let names = names.map(|n| n.split('=').next().unwrap().trim());
            self.constants
                .extend(names.filter(|n| !n.is_empty()).map(str::to_owned));
        } else {
            if !item.starts_with("typedef") {
                let before = item.split('(').next().unwrap();
                let name = before.rsplit([' ', '*']).next().unwrap();
                self.functions.push(name.to_owned());
            }
            self.declarations.push(item.to_owned());
        }
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        out += before;
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    out + rest
}

/// Declarations, each on one line: they end with a semicolon outside of braces.
fn items(code: &str) -> Vec<String> {
    let (mut all, mut item, mut depth) = (Vec::new(), String::new(), 0);
    for c in code.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => continue, // of extern "C"
            '}' => depth -= 1,
            _ => {}
        }
        if c == ';' && depth == 0 {
            let words: Vec<&str> = item.split_whitespace().collect();
            all.push(words.join(" "));
            item.clear();
        } else {
            item.push(c);
        }
    }
    assert!(item.trim().is_empty(), "the header ends inside of {item:?}");
    all
}

#[test]
fn declarations_are_read() {
    let header = Header::parse(
        "#define V4_X 1\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n/* a; */ typedef int v4_t;\n\
         enum {\n V4_A = 1, /* b */\n V4_B = 2\n};\ntypedef struct v4_s {\n uint32_t size;\n \
         const char *name;\n} v4_s;\nconst char *v4_f(int a,\n    int b);\n#ifdef __cplusplus\n}\n#endif\n",
    );
    assert_eq!(header.constants, ["V4_X", "V4_A", "V4_B"]);
    assert_eq!(
        header.structs,
        [("v4_s".into(), vec!["size".into(), "name".into()])]
    );
    assert_eq!(header.functions, ["v4_f"]);
    assert_eq!(
        header.declarations,
        ["typedef int v4_t", "const char *v4_f(int a, int b)"]
    );
}
