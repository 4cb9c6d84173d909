import instructor
import openai

client = instructor.from_openai(
    openai.OpenAI(base_url="@URL@/v1", api_key="@KEY@", timeout=3600)
)
MODEL = "@MODEL@"
