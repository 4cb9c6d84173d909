from common import MORE, NOTES, PATIENCE, SECOND, TASK, Bug, check, run_command
from langchain_core.tools import tool
from v4 import model

if PATIENCE:
    model = model.model_copy(update={"request_timeout": PATIENCE, "max_retries": 0})
    model.client = model.async_client = None
    model = type(model)(
        model=model.model_name, base_url=model.openai_api_base,
        api_key=model.openai_api_key, timeout=PATIENCE, max_retries=0,
    )
run_command = tool(run_command)
bound = model.bind_tools([run_command])


def turn(messages):
    answer = bound.invoke(messages)
    messages.append(answer)
    for call in answer.tool_calls:
        messages.append(run_command.invoke(call))
    if answer.tool_calls:
        messages.append(bound.invoke(messages))
    print("answer:", messages[-1].content)


messages = [("system", NOTES), ("user", TASK)]
turn(messages)
if SECOND:
    messages.append(("user", MORE))
    turn(messages)
else:
    check(model.with_structured_output(Bug).invoke("Name a bug."))
    check(model.with_structured_output(Bug, method="function_calling").invoke("Name a bug."))
