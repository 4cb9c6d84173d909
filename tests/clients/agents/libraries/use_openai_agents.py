from agents import Agent, Runner, function_tool
from common import MORE, NOTES, PATIENCE, SECOND, TASK, Bug, check, run_command
from v4 import client, model

if PATIENCE:
    client.timeout = PATIENCE
client.max_retries = 0
agent = Agent(name="reader", instructions=NOTES, model=model, tools=[function_tool(run_command)])
result = Runner.run_sync(agent, TASK)
print("answer:", result.final_output)
if SECOND:
    history = result.to_input_list() + [{"role": "user", "content": MORE}]
    print("answer:", Runner.run_sync(agent, history).final_output)
else:
    check(Runner.run_sync(Agent(name="finder", model=model, output_type=Bug), "Name a bug.").final_output)
