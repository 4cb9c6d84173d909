from smolagents import OpenAIModel

model = OpenAIModel(
    model_id="@MODEL@",
    api_base="@URL@/v1",
    api_key="@KEY@",
    client_kwargs={"timeout": 3600},
)
