"""How each client is run: what its commands are, and which tool of it is called."""

import dataclasses
import sys

import install

# The command that a tool runs; its result is seen nowhere else.
COMMAND, RESULT = "echo tool-$((6*7))-ran", "tool-42-ran"


@dataclasses.dataclass
class Client:
    """A client of versions.toml, or several uses of one."""

    name: str
    package: str  # As in versions.toml.
    config: str | None = None  # As `client-config` calls it, if not the same; "": none.
    first: list = dataclasses.field(default_factory=list)  # "@" is replaced by the task.
    second: list | None = None  # None: it goes on at a terminal only.
    # Arguments that its tools are narrowed to; the first is called.
    tools: dict = dataclasses.field(default_factory=dict)
    # What is called in the second turn.
    calls: tuple = ()
    # What it says of a prompt that is too long; empty: that the request fails is enough.
    overflow: str = ""
    # Turns its patience down: for the files, the environment, the command.
    hurry: object = None
    seconds: float = 3.0  # The patience that is left then.
    stdin: bool = False  # The task comes on standard input, a line each turn.
    limit: float = 100.0  # Seconds that one run of it may take.
    # Functions of the judge, in this order.
    checks: tuple = ("first", "tool", "second", "overflow", "patience")

    @property
    def heavy(self):
        kind = "npm" if self.package in install.TABLE["npm"] else "pypi"
        return install.TABLE[kind][self.package]["group"] == "heavy"

    def configuration(self):
        """What `client-config` calls it; None where the script needs the address alone."""
        return self.name if self.config is None else self.config or None


def library(name, package, config=None, **more):
    """A script beside this file, run with the package's Python."""
    more.setdefault("tools", {"run_command": {"command": COMMAND}})
    script = f"libraries/use_{name.replace('-', '_')}.py"
    return Client(
        name,
        package,
        config=config,
        first=["@python", f"@here/{script}", "first"],
        second=["@python", f"@here/{script}", "second"],
        overflow="context_length_exceeded",
        **more,
    )


def codex_hurry(files, env, command):
    files["config.toml"] = files["config.toml"].replace("= 3600000", "= 3000")


def claude_hurry(files, env, command):
    env["API_TIMEOUT_MS"] = "600000"
    env["CLAUDE_ENABLE_STREAM_WATCHDOG"] = "1"
    env["CLAUDE_STREAM_IDLE_TIMEOUT_MS"] = "3000"


def qwen_hurry(files, env, command):
    files["settings.json"] = files["settings.json"].replace(
        '"streamIdleTimeoutMs": 3600000', '"streamIdleTimeoutMs": 3000'
    )


def opencode_hurry(files, env, command):
    files["opencode.json"] = files["opencode.json"].replace(
        '"apiKey"', '"headerTimeout": 3000, "chunkTimeout": 3000, "apiKey"'
    )


def patience(files, env, command):
    """Of the scripts in libraries/: they set their client's own limit."""
    env["PATIENCE"] = "3"


AGENTS = [
    Client(
        "claude-code",
        "claude-code",
        first=["claude", "-p", "@", "--allowedTools", "Bash", "--permission-mode", "default"],
        second=["claude", "-c", "-p", "@", "--allowedTools", "Bash", "--permission-mode", "default"],
        tools={"Bash": {"command": COMMAND, "description": "Run it"}},
        overflow="Prompt is too long|[Cc]ontext",
        hurry=claude_hurry,
    ),
    Client(
        "codex",
        "codex",
        first=["codex", "exec", "--skip-git-repo-check", "-s", "danger-full-access", "@"],
        second=["codex", "exec", "-s", "danger-full-access", "resume", "--skip-git-repo-check", "--last", "@"],
        tools={"exec_command": {"cmd": COMMAND}},
        overflow="context window",
        hurry=codex_hurry,
    ),
    Client(
        "opencode",
        "opencode",
        first=["opencode", "run", "@"],
        second=["opencode", "run", "-c", "@"],
        tools={"bash": {"command": COMMAND, "description": "Run it"}},
        overflow="[Cc]ontext|too long|overflow",
        hurry=opencode_hurry,
    ),
    Client(
        "qwen-code",
        "qwen-code",
        first=["qwen", "-y", "-p", "@"],
        # `-c` would leave out what the first message said of the date.
        second=["python3", "@here/acp.py", "@", "qwen", "-y", "--acp"],
        tools={"run_shell_command": {"command": COMMAND, "description": "Run it", "is_background": False}},
        overflow="context",
        hurry=qwen_hurry,
    ),
    Client(
        "cline",
        "cline",
        first=["cline", "-P", "openai-compatible", "-m", "v4-flash", "@"],
        second=["python3", "@here/acp.py", "@", "cline", "--acp"],
        tools={"run_commands": {"command": COMMAND}},
        overflow="context|too long",
    ),
    Client(
        "continue",
        "continue",
        first=["cn", "--config", "@home/.continue/config.yaml", "--auto", "-p", "@"],
        second=["cn", "--config", "@home/.continue/config.yaml", "--auto", "--resume", "-p", "@"],
        tools={"Bash": {"command": COMMAND}},
        overflow="context",
    ),
    Client(
        "pi",
        "pi",
        first=["pi", "-p", "@"],
        second=["pi", "-c", "-p", "@"],
        tools={"bash": {"command": COMMAND}},
        overflow="context",
    ),
    Client(
        "aider",
        "aider",
        first=["aider", "--yes-always", "--no-git", "--no-pretty", "--no-fancy-input", "--read", "notes.py"],
        second=["aider", "--yes-always", "--no-git", "--no-pretty", "--no-fancy-input",
                "--restore-chat-history", "--read", "notes.py"],
        overflow="context|token limit",
        stdin=True,
    ),
]

LLM = ["llm", "-m", "v4", "--functions", "@here/libraries/llm_functions.py"]

LIBRARIES = [
    Client(
        "llm",
        "libraries",
        first=[*LLM, "-f", "notes.py", "@"],
        second=[*LLM, "-c", "@"],
        tools={"run_command": {"command": COMMAND}},
        overflow="context_length_exceeded",
    ),
    library("instructor", "instructor", tools={}, hurry=patience),
    library("pydantic-ai", "libraries", hurry=patience),
    library("openai-agents", "libraries", hurry=patience),
    library(
        "smolagents",
        "libraries",
        tools={"run_command": {"command": COMMAND}, "final_answer": {"answer": "done"}},
        calls=("final_answer", "final_answer"),
        hurry=patience,
    ),
    library("langchain", "libraries", hurry=patience),
    Client(
        "ai-sdk",
        "js",
        first=["node", "@here/libraries/use_ai_sdk.mjs", "first"],
        second=["node", "@here/libraries/use_ai_sdk.mjs", "second"],
        tools={"run_command": {"command": COMMAND}},
        overflow="context_length_exceeded",
    ),
]

SCHEMAS = [
    Client(
        "pydantic-parse",
        "openai",
        config="",
        first=["@python", "@here/libraries/schemas.py"],
        checks=("schemas",),
        limit=400,
    ),
    Client(
        "zod-parse",
        "js",
        config="",
        first=["node", "@here/libraries/schemas.mjs"],
        checks=("schemas",),
        limit=400,
    ),
]

ALL = [*LIBRARIES, *SCHEMAS, *AGENTS]


def chosen(quick, names):
    unknown = set(names) - {client.name for client in ALL}
    if unknown:
        sys.exit(f"no such client: {', '.join(sorted(unknown))}")
    return [
        client
        for client in ALL
        if (client.name in names if names else not (quick and client.heavy))
    ]
