from common import MORE, NOTES, PATIENCE, SECOND, TASK, run_command
from smolagents import ToolCallingAgent, tool
from v4 import model

if PATIENCE:
    model.client.timeout = PATIENCE
model.client.max_retries = 0
agent = ToolCallingAgent(tools=[tool(run_command)], model=model, instructions=NOTES, max_steps=4)
print("answer:", agent.run(TASK))
if SECOND:
    print("answer:", agent.run(MORE, reset=False))
