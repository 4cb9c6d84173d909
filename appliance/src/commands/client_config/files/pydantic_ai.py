from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

client = AsyncOpenAI(base_url="@URL@/v1", api_key="@KEY@", timeout=3600)
model = OpenAIChatModel("@MODEL@", provider=OpenAIProvider(openai_client=client))
agent = Agent(model)
