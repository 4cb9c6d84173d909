"""Runs the published clients of OpenAI and Anthropic against a running service.

    clients.py http://127.0.0.1:8080          over TCP
    clients.py unix:/run/user/1000/v4-run.sock   over its Unix socket

Each check fails with what it expected. The tests' tiny model says nothing that makes
sense, so only the form of answers is checked.
"""

import json
import sys
import time

import anthropic
import httpx2
import openai

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["ann", "bob"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
}
ASK = [{"role": "user", "content": "Say something in json."}]
# Without reasoning, so that few tokens are enough.
PLAIN = {"thinking": {"type": "disabled"}, "seed": 1}


def connect(where):
    transport = None
    if where.startswith("unix:"):
        transport = httpx2.HTTPTransport(uds=where.removeprefix("unix:"))
        where = "http://localhost"
    return where, lambda: httpx2.Client(transport=transport, timeout=60)


def check_document(text):
    value = json.loads(text)
    assert value["name"] in ("ann", "bob") and 0 <= value["age"] <= 150, value


def models(client):
    names = [model.id for model in client.models.list()]
    assert len(names) == 1, names
    assert client.models.retrieve(names[0]).id == names[0]
    return names[0]


def chat(client, model):
    whole = client.chat.completions.create(
        model=model, messages=ASK, max_completion_tokens=16, extra_body=PLAIN
    )
    assert whole.choices[0].message.content and whole.usage.completion_tokens == 16
    stream = client.chat.completions.create(
        model=model,
        messages=ASK,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=PLAIN,
    )
    text, usage = "", None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content, (text, whole)
    assert usage.completion_tokens == 16 and usage.prompt_tokens_details.cached_tokens > 0


def chat_reasoning(client, model):
    whole = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=8, reasoning_effort="low", seed=1
    )
    assert whole.choices[0].message.model_extra["reasoning_content"]


def chat_logprobs(client, model):
    whole = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=4, logprobs=True, top_logprobs=3, extra_body=PLAIN
    )
    tokens = whole.choices[0].logprobs.content
    assert len(tokens) == 4 and all(len(t.top_logprobs) == 3 for t in tokens)


def chat_schema(client, model):
    whole = client.chat.completions.create(
        model=model,
        messages=ASK,
        max_tokens=400,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
        },
        extra_body=PLAIN,
    )
    check_document(whole.choices[0].message.content)
    whole = client.chat.completions.create(
        model=model,
        messages=ASK,
        max_tokens=200,
        response_format={"type": "json_object"},
        extra_body=PLAIN,
    )
    assert whole.choices[0].message.content.lstrip().startswith("{")


def chat_tools(client, model):
    tool = {"type": "function", "function": {"name": "weather", "parameters": TOOL}}
    whole = client.chat.completions.create(
        model=model,
        messages=ASK,
        tools=[tool],
        tool_choice="required",
        max_tokens=200,
        extra_body=PLAIN,
    )
    calls = whole.choices[0].message.tool_calls
    assert calls and all(call.function.name == "weather" for call in calls), whole
    assert all("city" in json.loads(call.function.arguments) for call in calls), whole
    # And back.
    messages = ASK + [whole.choices[0].message.model_dump(exclude_none=True)]
    for call in calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    again = client.chat.completions.create(
        model=model, messages=messages, tools=[tool], max_tokens=8, extra_body=PLAIN
    )
    assert again.usage.prompt_tokens_details.cached_tokens > 0, again.usage


def chat_cancel(client, model, metrics):
    stream = client.chat.completions.create(
        model=model,
        messages=ASK,
        max_tokens=1500,
        stream=True,
        logit_bias={"1": -100},
        extra_body=PLAIN,
    )
    next(iter(stream))
    stream.close()
    for _ in range(200):
        if "v4_requests_running 0" in metrics():
            return
        time.sleep(0.05)
    raise AssertionError("a request runs though nobody listens")


def chat_errors(client, model):
    for wrong, error in [
        ({"n": 2}, openai.BadRequestError),
        ({"max_tokens": 0}, openai.BadRequestError),
        ({"temperature": 9}, openai.BadRequestError),
    ]:
        try:
            client.chat.completions.create(model=model, messages=ASK, **wrong)
        except error as found:
            assert found.body["message"], found
        else:
            raise AssertionError(f"{wrong} was accepted")
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("there is no such model")


def completions(client, model):
    whole = client.completions.create(
        model=model, prompt="fn main() {", max_tokens=8, temperature=0, logprobs=2
    )
    assert whole.choices[0].text and len(whole.choices[0].logprobs.tokens) == 8
    stream = client.completions.create(
        model=model, prompt="fn main() {", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    filled = client.completions.create(
        model=model, prompt="fn add(", suffix=") -> i32 {", max_tokens=8, temperature=0
    )
    assert filled.choices[0].text


def responses(client, model):
    plain = {"reasoning": {"effort": "none"}, "extra_body": {"seed": 1}}
    whole = client.responses.create(model=model, input="Hello", max_output_tokens=16, **plain)
    assert whole.output_text and whole.usage.output_tokens == 16
    text, done = "", None
    with client.responses.stream(
        model=model, input="Hello", max_output_tokens=16, **plain
    ) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type in ("response.completed", "response.incomplete"):
                done = event.response
    assert text == whole.output_text and done.usage.output_tokens == 16
    format = {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}
    whole = client.responses.create(
        model=model, input="json", max_output_tokens=400, text={"format": format}, **plain
    )
    check_document(whole.output_text)


def messages(client, model):
    plain = {"model": model, "messages": ASK, "thinking": {"type": "disabled"}}
    extra = {"extra_body": {"seed": 1}}
    whole = client.messages.create(max_tokens=16, **plain, **extra)
    assert whole.content[0].text and whole.stop_reason == "max_tokens"
    with client.messages.stream(max_tokens=16, **plain, **extra) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == whole.content[0].text and last.usage.output_tokens == 16
    assert last.usage.cache_read_input_tokens > 0, last.usage
    count = client.messages.count_tokens(**plain)
    usage = whole.usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    thinking = client.messages.create(
        model=model,
        messages=ASK,
        max_tokens=1040,
        thinking={"type": "enabled", "budget_tokens": 1024},
        stop_sequences=["zzzz"],
        **extra,
    )
    assert thinking.content[0].type == "thinking"


def messages_tools(client, model):
    tool = {"name": "weather", "description": "Weather of a city", "input_schema": TOOL}
    history = ASK + [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "X"}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "rain"}],
        },
    ]
    whole = client.messages.create(
        model=model,
        messages=history,
        tools=[tool],
        max_tokens=8,
        thinking={"type": "disabled"},
    )
    assert whole.usage.output_tokens <= 8


def messages_errors(client, model):
    try:
        client.messages.create(
            model=model, messages=ASK, max_tokens=8, extra_body={"temperature": 9}
        )
    except anthropic.BadRequestError as found:
        assert found.body["error"]["type"] == "invalid_request_error", found.body
    else:
        raise AssertionError("a temperature of 9 was accepted")


def main():
    base, http = connect(sys.argv[1])
    key = sys.argv[2] if len(sys.argv) > 2 else "none"
    ours = openai.OpenAI(base_url=f"{base}/v1", api_key=key, http_client=http(), max_retries=0)
    theirs = anthropic.Anthropic(base_url=base, api_key=key, http_client=http(), max_retries=0)
    plain = http()
    metrics = lambda: plain.get(f"{base}/metrics", headers={"x-api-key": key}).text
    assert plain.get(f"{base}/health").json() == {"status": "ok"}
    model = models(ours)
    checks = [
        (chat, ours), (chat_reasoning, ours), (chat_logprobs, ours), (chat_schema, ours),
        (chat_tools, ours), (chat_errors, ours), (completions, ours), (responses, ours),
        (messages, theirs), (messages_tools, theirs), (messages_errors, theirs),
    ]
    for check, client in checks:
        check(client, model)
        print(f"{check.__name__}: ok")
    chat_cancel(ours, model, metrics)
    print("chat_cancel: ok")


main()
