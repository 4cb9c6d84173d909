cline auth -p openai-compatible -k @KEY@ -m @MODEL@ -b @URL@/v1
cline -P openai-compatible -m @MODEL@ "…"
