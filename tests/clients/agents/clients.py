"""How each client is run: its commands, and which of its tools is called."""

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
    second: list | None = None
    later: list | None = None  # To go on once more; the first command if left out.
    endless: list | None = None  # The one of these that ends only when it is told to.
    repeats: str = ""  # The task of the second command, if that makes both turns.
    # Arguments that its tools are narrowed to; the first is called.
    tools: dict = dataclasses.field(default_factory=dict)
    # What is called in the second turn.
    calls: tuple = ()
    # What it says of a prompt that is too long; empty: that the request fails is enough.
    overflow: str = ""
    # Changes files (by name) and environment, for the check of a prompt that is too long.
    squeeze: object = None
    # The same, to turn its patience down.
    hurry: object = None
    seconds: float = 3.0  # The patience that is left then.
    stdin: bool = False  # The task comes on standard input, a line each turn.
    lines: int = 300  # Of the file that it is asked about.
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


# Of libraries that hand the service's own words on.
OVERFLOW = "context_length_exceeded|maximum context length|Context"


def library(name, package, config=None, **more):
    """A script beside this file, run with the package's Python."""
    more.setdefault("tools", {"run_command": {"command": COMMAND}})
    more.setdefault("overflow", OVERFLOW)
    script = f"libraries/use_{name.replace('-', '_')}.py"
    return Client(
        name,
        package,
        config=config,
        first=["@python", f"@here/{script}", "first"],
        second=["@python", f"@here/{script}", "second"],
        repeats="Tell me what the notes say.",
        **more,
    )


def swap(files, name, old, new):
    """Changes a file; that there is nothing to change must not pass for patience."""
    if files[name].count(old) != 1:
        raise LookupError(f"{name}: {old!r} is not there once: {files[name]}")
    files[name] = files[name].replace(old, new)


def codex_hurry(files, env):
    swap(files, "config.toml", "stream_idle_timeout_ms = 3600000", "stream_idle_timeout_ms = 3000")


def claude_hurry(files, env):
    # Until an answer begins; between its events it waits for 300 s, whatever is set.
    env["API_TIMEOUT_MS"] = "3000"
    env["CLAUDE_STREAM_FIRST_BYTE_TIMEOUT_MS"] = "3000"


def qwen_hurry(files, env):
    limit = '"streamIdleTimeoutMs": '
    swap(files, "settings.json", f"{limit}3600000", f"{limit}3000")


def opencode_hurry(files, env):
    limits = '"headerTimeout": 3000, "chunkTimeout": 3000'
    swap(files, "opencode.json", '"apiKey"', f'{limits}, "apiKey"')


def pi_hurry(files, env):
    limit = '"httpIdleTimeoutMs": '
    swap(files, "settings.json", f"{limit}3600000", f"{limit}3000")


def aider_hurry(files, env):
    swap(files, ".aider.conf.yml", "timeout: 3600", "timeout: 3")


def continue_hurry(files, env):
    # Of the time until an answer begins; the time between its pieces has no limit.
    limit = "requestOptions: {timeout: 3000}"
    swap(files, "config.yaml", "roles: [chat", f"{limit}\n    roles: [chat")


def pi_squeeze(files, env):
    # Else a session as short as this one has nothing that it would leave out.
    keep = '"compaction": {"keepRecentTokens": 20}'
    swap(files, "settings.json", '"defaultProvider"', f'{keep}, "defaultProvider"')


def patience(files, env):
    """Of the scripts in libraries/: they set their client's own limit."""
    env["PATIENCE"] = "3"


CLAUDE_OPTIONS = ["--allowedTools", "Bash", "--permission-mode", "default"]
CLAUDE_AGAIN = ["claude", "-c", "-p", "@", *CLAUDE_OPTIONS]
CODEX_OPTIONS = ["-s", "danger-full-access"]
CODEX_AGAIN = ["codex", "exec", *CODEX_OPTIONS, "resume", "--skip-git-repo-check", "--last", "@"]
CONTINUE_OPTIONS = ["--config", "@home/.continue/config.yaml", "--auto"]
CONTINUE_AGAIN = ["cn", *CONTINUE_OPTIONS, "--resume", "-p", "@"]
# It goes on at a terminal only; script (of Debian's bsdutils) makes one.
CLINE_AGAIN = [
    "script", "-qfec",
    "id=$(cline history --json | grep -o '\"sessionId\":\"[^\"]*' | head -1 | cut -d'\"' -f4)\n"
    'exec cline -P openai-compatible -m v4-flash --id "$id" "$TASK"',
    "/dev/null",
]

AGENTS = [
    Client(
        "claude-code",
        "claude-code",
        first=["claude", "-p", "@", *CLAUDE_OPTIONS],
        second=CLAUDE_AGAIN,
        later=CLAUDE_AGAIN,
        tools={"Bash": {"command": COMMAND, "description": "Run it"}},
        overflow="Prompt is too long|[Cc]ontext",
        hurry=claude_hurry,
    ),
    Client(
        "codex",
        "codex",
        first=["codex", "exec", "--skip-git-repo-check", *CODEX_OPTIONS, "@"],
        second=CODEX_AGAIN,
        later=CODEX_AGAIN,
        tools={"exec_command": {"cmd": COMMAND}},
        overflow="context window",
        hurry=codex_hurry,
    ),
    Client(
        "opencode",
        "opencode",
        first=["opencode", "run", "@"],
        second=["opencode", "run", "-c", "@"],
        later=["opencode", "run", "-c", "@"],
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
        later=["qwen", "-y", "-c", "-p", "@"],
        tools={"run_shell_command": {"command": COMMAND, "description": "Run it", "is_background": False}},
        overflow="context",
        hurry=qwen_hurry,
    ),
    Client(
        "cline",
        "cline",
        first=["cline", "-P", "openai-compatible", "-m", "v4-flash", "@"],
        second=CLINE_AGAIN,
        endless=CLINE_AGAIN,
        tools={"run_commands": {"command": COMMAND}},
        overflow="context|too long",
    ),
    Client(
        "continue",
        "continue",
        first=["cn", *CONTINUE_OPTIONS, "-p", "@"],
        second=CONTINUE_AGAIN,
        later=CONTINUE_AGAIN,
        hurry=continue_hurry,
        tools={"Bash": {"command": COMMAND}},
        overflow="context",
    ),
    Client(
        "pi",
        "pi",
        first=["pi", "-p", "@"],
        second=["pi", "-c", "-p", "@"],
        later=["pi", "-c", "-p", "@"],
        squeeze=pi_squeeze,
        hurry=pi_hurry,
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
        hurry=aider_hurry,
        # Its own words behind the history come anew each turn: 370 tokens.
        lines=600,
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
        overflow=OVERFLOW,
    ),
    library("instructor", "instructor", tools={}, hurry=patience),
    library(
        "pydantic-ai",
        "libraries",
        overflow="ModelContextWindowExceededError",
        hurry=patience,
    ),
    library("openai-agents", "libraries", hurry=patience),
    library(
        "smolagents",
        "libraries",
        tools={"run_command": {"command": COMMAND}, "final_answer": {"answer": "done"}},
        calls=("final_answer", "final_answer"),
        hurry=patience,
    ),
    library("langchain", "libraries", overflow="ContextOverflowError", hurry=patience),
    Client(
        "ai-sdk",
        "js",
        first=["node", "@here/libraries/use_ai_sdk.mjs", "first"],
        second=["node", "@here/libraries/use_ai_sdk.mjs", "second"],
        repeats="Tell me what the notes say.",
        tools={"run_command": {"command": COMMAND}},
        overflow=OVERFLOW,
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
