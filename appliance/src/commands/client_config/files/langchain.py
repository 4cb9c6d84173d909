from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="@MODEL@",
    base_url="@URL@/v1",
    api_key="@KEY@",
    timeout=3600,
)
