from agents import Agent, OpenAIResponsesModel
from openai import AsyncOpenAI

client = AsyncOpenAI(base_url="@URL@/v1", api_key="@KEY@", timeout=3600)
model = OpenAIResponsesModel(model="@MODEL@", openai_client=client)
agent = Agent(name="assistant", model=model)
