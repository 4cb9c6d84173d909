"""What the proxy adds to requests, so that a small model's noise does what a test needs.

The tests' tiny model never says anything that makes sense. A bias on two tokens ends a turn
of text: the one that ends the reasoning and the one that ends the answer. `tool_choice`
requires a call, and the grammar restricts it to the arguments of a narrowed tool schema. This
is the same in every request, so the prompt stays the same from request to request, as without
the proxy.
"""

import copy
import functools
import json
import pathlib

# Tokens of tests/data/tiny-v4.
END_OF_ANSWER, END_OF_THINKING = "1", "4073"
# One more of each kind is unlikely once there was one.
PENALTIES = {"presence_penalty": 2, "frequency_penalty": 2}
# For a text that does not come to its end all the same.
MOST_TOKENS = 400

GENERATING = ("/chat/completions", "/responses", "/messages")


def generates(exchange):
    path = exchange.path.split("?")[0].rstrip("/")
    return exchange.method == "POST" and path.endswith(GENERATING) and exchange.body is not None


def protocol(exchange):
    path = exchange.path.split("?")[0].rstrip("/")
    return path.rsplit("/", 1)[1]


def tool_parts(body):
    """(name, holder of the schema, its key) of each function among the tools."""
    for tool in body.get("tools") or []:
        if isinstance(tool.get("function"), dict):
            yield tool["function"].get("name"), tool["function"], "parameters"
        elif "input_schema" in tool:
            yield tool.get("name"), tool, "input_schema"
        elif tool.get("type") == "function":
            yield tool.get("name"), tool, "parameters"


class Steer:
    """One client's script."""

    def __init__(self):
        self.clear()

    def clear(self, tools=None, calls=(), service="main"):
        """From now on: the tools (arguments by name) are narrowed, and the first requests
        that have them call them, in the order of `calls`."""
        self.tools, self.calls = tools or {}, list(calls)
        self.service = service

    def off(self):
        """From now on requests go as they are."""
        self.clear()
        self.service = None

    def __call__(self, exchange):
        if self.service is None:
            return "main"
        if not generates(exchange):
            return "main"
        body = copy.deepcopy(exchange.body)
        kind = protocol(exchange)
        body["seed"] = 1
        bias = {END_OF_ANSWER: 5}
        if thinks(body):
            bias[END_OF_THINKING] = 16
        body.update(PENALTIES, logit_bias=bias)
        limits = {
            "chat/completions": "max_tokens",
            "completions": "max_tokens",
            "responses": "max_output_tokens",
            "messages": "max_tokens",
        }
        limit = limits[kind]
        if kind == "completions" and body.get("max_completion_tokens"):
            limit = "max_completion_tokens"
        body[limit] = min(body.get(limit) or MOST_TOKENS, MOST_TOKENS)
        exchange.plan = "text"
        there = set()
        for name, holder, key in tool_parts(body):
            if name in self.tools:
                narrow(holder, key, self.tools[name])
                there.add(name)
        if self.calls and self.calls[0] in there:
            exchange.plan = "call"
            force(body, kind, self.calls.pop(0))
        elif wants_call(body):
            # The client forces one itself, and the grammar brings it to its end.
            exchange.plan = "own"
            unbias(body)
        elif wants_document(body):
            # The same, once the reasoning is over.
            exchange.plan = "own"
            unbias(body)
            if thinks(body):
                body["logit_bias"] = {END_OF_THINKING: 60}
        exchange.sent = body
        service = self.service
        if service == "small once":
            self.service, service = "main", "small"
        return service


def thinks(body):
    off = (body.get("thinking") or {}).get("type") == "disabled"
    effort = (body.get("reasoning") or {}).get("effort") or body.get("reasoning_effort")
    return not off and effort != "none"


def narrow(holder, key, arguments):
    properties = {name: {"enum": [value]} for name, value in arguments.items()}
    for schema in properties.values():
        kinds = {bool: "boolean", int: "integer", str: "string"}
        schema["type"] = kinds[type(schema["enum"][0])]
    holder[key] = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def wants_call(body):
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        choice = choice.get("type")
    return choice not in (None, "auto", "none")


def wants_document(body):
    text, output = body.get("text") or {}, body.get("output_config") or {}
    shape = body.get("response_format") or text.get("format") or output.get("format") or {}
    return shape.get("type", "text") != "text"


def unbias(body):
    for name in ("logit_bias", *PENALTIES):
        del body[name]


def force(body, kind, name):
    """Lets this tool alone be called. Naming it as the choice would do as well, but that
    takes the other tools out of a first prompt, which no model's own call does. The same is
    true of thinking, which is off for a forced call unless it is asked for."""
    thinking = thinks(body) and not wants_call(body)
    unbias(body)
    body["logit_bias"] = {END_OF_THINKING: 100} if thinking else {}
    if kind == "messages":
        # Here a choice is of one tool or of all: the bias has to find it.
        body["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
        body["logit_bias"].update(name_bias(name))
        return
    body["parallel_tool_calls"] = False
    if kind == "responses":
        tools = [{"type": "function", "name": name}]
        body["tool_choice"] = {"type": "allowed_tools", "mode": "required", "tools": tools}
        if thinking:
            body["reasoning"] = {"effort": "high", **(body.get("reasoning") or {})}
        return
    tools = [{"type": "function", "function": {"name": name}}]
    allowed = {"mode": "required", "tools": tools}
    body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
    if thinking:
        body["thinking"] = {"type": "enabled"}


@functools.cache
def vocabulary():
    text = (pathlib.Path(__file__).parents[2] / "data/tiny-v4/tokenizer.json").read_text()
    return json.loads(text)["model"]["vocab"]


def name_bias(name):
    """For the tokens that a name can be made of, the longer the more."""
    return {
        str(number): min(90, 25 * len(token))
        for token, number in vocabulary().items()
        if token in name
    }
