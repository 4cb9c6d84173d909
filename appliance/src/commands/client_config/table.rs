//! The clients, and the templates of their configuration files.
//!
//! `@URL@` is the service's root, `@MODEL@`, `@CTX@`, `@OUTPUT@` and `@KEY@` are what
//! they say.

/// A published client.
pub struct Client {
    /// As on the command line.
    pub name: &'static str,
    /// As its authors write it.
    pub title: &'static str,
    /// The version that was run against the service without a network, if one was.
    pub tried: Option<&'static str>,
    /// The variable that takes a Unix socket's path, if there is one.
    pub socket: Option<&'static str>,
    pub parts: &'static [Part],
}

/// One piece of a configuration.
pub struct Part {
    pub content: Content,
    /// Something to know about it, or nothing.
    pub note: &'static str,
}

/// What kind of piece it is.
pub enum Content {
    /// Lines `NAME=VALUE` for the environment.
    Env(&'static str),
    /// Path and text of a file.
    File(&'static str, &'static str),
    /// Commands.
    Run(&'static str),
}

const fn env(text: &'static str) -> Part {
    Part {
        content: Content::Env(text),
        note: "",
    }
}

const fn file(path: &'static str, text: &'static str, note: &'static str) -> Part {
    Part {
        content: Content::File(path, text),
        note,
    }
}

const fn start(text: &'static str, note: &'static str) -> Part {
    Part {
        content: Content::Run(text),
        note,
    }
}

/// Existing settings are not ours to replace.
const MERGE: &str = "merge with an existing file";

/// All of them.
pub const CLIENTS: &[Client] = &[
    Client {
        name: "claude-code",
        title: "Claude Code",
        tried: Some("2.1.332"),
        socket: Some("ANTHROPIC_UNIX_SOCKET"),
        parts: &[
            env(include_str!("files/claude-code.env")),
            start(
                "claude --permission-mode default\n",
                "its auto mode needs a classifier that this service does not have",
            ),
        ],
    },
    Client {
        name: "codex",
        title: "Codex CLI",
        tried: Some("0.171.0"),
        socket: None,
        parts: &[
            file(
                "~/.codex/config.toml",
                include_str!("files/codex.toml"),
                MERGE,
            ),
            file(
                "~/.codex/v4-models.json",
                v4_server::CODEX_MODELS,
                "what Codex knows about its own models: instructions, context, reasoning levels",
            ),
            start("codex\n", ""),
        ],
    },
    Client {
        name: "opencode",
        title: "opencode",
        tried: Some("1.18.33"),
        socket: None,
        parts: &[
            env(include_str!("files/opencode.env")),
            file(
                "~/.config/opencode/opencode.json",
                include_str!("files/opencode.json"),
                MERGE,
            ),
            start("opencode\n", ""),
        ],
    },
    Client {
        name: "qwen-code",
        title: "Qwen Code",
        tried: Some("0.24.4"),
        socket: None,
        parts: &[
            env(include_str!("files/qwen-code.env")),
            file(
                "~/.qwen/settings.json",
                include_str!("files/qwen-code.json"),
                MERGE,
            ),
            start("qwen\n", ""),
        ],
    },
    Client {
        name: "cline",
        title: "Cline CLI",
        tried: Some("3.0.65"),
        socket: None,
        parts: &[
            env(include_str!("files/cline.env")),
            file(
                "~/.cline/data/settings/global-settings.json",
                include_str!("files/cline.json"),
                MERGE,
            ),
            start(
                include_str!("files/cline.sh"),
                "run the first line only once",
            ),
        ],
    },
    Client {
        name: "continue",
        title: "Continue",
        tried: Some("CLI 1.5.47"),
        socket: None,
        parts: &[
            env(include_str!("files/continue.env")),
            file(
                "~/.continue/config.yaml",
                include_str!("files/continue.yaml"),
                "also used by editors; the second model completes code as you type",
            ),
            start("cn --config ~/.continue/config.yaml\n", ""),
        ],
    },
    Client {
        name: "pi",
        title: "pi",
        tried: Some("1.6.0"),
        socket: None,
        parts: &[
            env(include_str!("files/pi.env")),
            file(
                "~/.pi/agent/models.json",
                include_str!("files/pi-models.json"),
                MERGE,
            ),
            file(
                "~/.pi/agent/settings.json",
                include_str!("files/pi-settings.json"),
                MERGE,
            ),
            start("pi\n", "needs fd and rg"),
        ],
    },
    Client {
        name: "aider",
        title: "aider",
        tried: Some("0.86.2"),
        socket: None,
        parts: &[
            env(include_str!("files/aider.env")),
            file(
                "~/.aider.conf.yml",
                include_str!("files/aider.conf.yml"),
                MERGE,
            ),
            file(
                "~/.aider.model.metadata.json",
                include_str!("files/aider.metadata.json"),
                MERGE,
            ),
            start("aider\n", ""),
        ],
    },
    Client {
        name: "llm",
        title: "llm",
        tried: Some("0.36"),
        socket: None,
        parts: &[
            file(
                "~/.config/io.datasette.llm/extra-openai-models.yaml",
                include_str!("files/llm.yaml"),
                MERGE,
            ),
            start(include_str!("files/llm.sh"), "run the first line only once"),
        ],
    },
    Client {
        name: "instructor",
        title: "instructor",
        tried: Some("1.17.0"),
        socket: None,
        parts: &[file("v4.py", include_str!("files/instructor.py"), "")],
    },
    Client {
        name: "pydantic-ai",
        title: "Pydantic AI",
        tried: Some("2.68.0"),
        socket: None,
        parts: &[file("v4.py", include_str!("files/pydantic_ai.py"), "")],
    },
    Client {
        name: "openai-agents",
        title: "OpenAI Agents SDK",
        tried: Some("0.24.0"),
        socket: None,
        parts: &[
            env(include_str!("files/openai-agents.env")),
            file("v4.py", include_str!("files/openai_agents.py"), ""),
        ],
    },
    Client {
        name: "smolagents",
        title: "smolagents",
        tried: Some("1.26.0"),
        socket: None,
        parts: &[file("v4.py", include_str!("files/smolagents.py"), "")],
    },
    Client {
        name: "langchain",
        title: "LangChain (langchain-openai)",
        tried: Some("1.7.4"),
        socket: None,
        parts: &[
            env(include_str!("files/langchain.env")),
            file("v4.py", include_str!("files/langchain.py"), ""),
        ],
    },
    Client {
        name: "ai-sdk",
        title: "AI SDK",
        tried: Some("7.0.173"),
        socket: None,
        parts: &[file("v4.mjs", include_str!("files/ai-sdk.mjs"), "")],
    },
    Client {
        name: "zed",
        title: "Zed",
        tried: None,
        socket: None,
        parts: &[
            env(include_str!("files/zed.env")),
            file(
                "~/.config/zed/settings.json",
                include_str!("files/zed.json"),
                MERGE,
            ),
        ],
    },
    Client {
        name: "llama-vim",
        title: "llama.vim",
        tried: None,
        socket: None,
        parts: &[file("~/.vimrc", include_str!("files/llama.vim"), MERGE)],
    },
    Client {
        name: "llama-vscode",
        title: "llama.vscode",
        tried: None,
        socket: None,
        parts: &[file(
            "~/.config/Code/User/settings.json",
            include_str!("files/llama-vscode.json"),
            MERGE,
        )],
    },
    Client {
        name: "minuet",
        title: "minuet-ai.nvim",
        tried: None,
        socket: None,
        parts: &[file(
            "~/.config/nvim/after/plugin/minuet.lua",
            include_str!("files/minuet.lua"),
            "",
        )],
    },
];
