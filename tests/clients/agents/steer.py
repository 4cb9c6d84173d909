"""What the proxy adds to requests, so that a small model's noise does what a test needs.

The tests' tiny model never says anything that makes sense. A turn of text is brought to
its end by a bias on two tokens: the one that ends the reasoning and the one that ends the
answer. A call is forced by `tool_choice`, and held by the grammar to arguments that the
tool's schema is narrowed to, in every request alike: the prompt stays the same from
request to request, as without the proxy.
"""

import copy

# Tokens of tests/data/tiny-v4.
END_OF_ANSWER, END_OF_THINKING = 1, 4073
TEXT_BIAS = {str(END_OF_ANSWER): 9, str(END_OF_THINKING): 9}
# For a text that does not come to its end all the same.
MOST_TOKENS = 200

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

    def clear(self, tool=None, arguments=None, calls=0, service="main"):
        """From now on: the first `calls` requests that have the tool call it."""
        self.tool, self.arguments = tool, arguments
        self.calls, self.service = calls, service

    def __call__(self, exchange):
        if not generates(exchange):
            return "main" if self.service == "slow" else self.service
        body = copy.deepcopy(exchange.body)
        kind = protocol(exchange)
        body["seed"] = 1
        body["logit_bias"] = {**(body.get("logit_bias") or {}), **TEXT_BIAS}
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
        for name, holder, key in tool_parts(body):
            if name != self.tool or self.tool is None:
                continue
            narrow(holder, key, self.arguments)
            if self.calls > 0:
                self.calls -= 1
                exchange.plan = "call"
                force(body, kind, name)
        exchange.sent = body
        return self.service


def narrow(holder, key, arguments):
    properties = {name: {"type": "string", "enum": [value]} for name, value in arguments.items()}
    holder[key] = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def force(body, kind, name):
    del body["logit_bias"]
    if kind == "messages":
        body["tool_choice"] = {"type": "tool", "name": name}
        body["thinking"] = {"type": "disabled"}
    elif kind == "responses":
        body["tool_choice"] = {"type": "function", "name": name}
        body["reasoning"] = {"effort": "none"}
    else:
        body["tool_choice"] = {"type": "function", "function": {"name": name}}
        body["thinking"] = {"type": "disabled"}
        body.pop("reasoning_effort", None)
