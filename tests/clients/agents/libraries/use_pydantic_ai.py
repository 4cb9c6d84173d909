from common import MORE, NOTES, PATIENCE, SECOND, TASK, Bug, check, run_command
from pydantic_ai import Agent
from v4 import client, model

if PATIENCE:
    client.timeout = PATIENCE
agent = Agent(model, system_prompt=NOTES, tools=[run_command], retries=0)
result = agent.run_sync(TASK)
print("answer:", result.output)
if SECOND:
    result = agent.run_sync(MORE, message_history=result.all_messages())
    print("answer:", result.output)
else:
    check(Agent(model, output_type=Bug, retries=0).run_sync("Name a bug.").output)
