from common import MORE, NOTES, PATIENCE, SECOND, TASK, Bug, check
from v4 import MODEL, client

if PATIENCE:
    client.client.timeout = PATIENCE
messages = [{"role": "system", "content": NOTES}, {"role": "user", "content": TASK}]
bug, whole = client.chat.completions.create_with_completion(
    model=MODEL, response_model=Bug, messages=messages, max_retries=0
)
check(bug)
if SECOND:
    call = whole.choices[0].message.tool_calls[0]
    messages += [
        whole.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "noted"},
        {"role": "user", "content": MORE},
    ]
    check(client.chat.completions.create(
        model=MODEL, response_model=Bug, messages=messages, max_retries=0
    ))
