llm keys set openai --value @KEY@
llm -m v4 "…"
