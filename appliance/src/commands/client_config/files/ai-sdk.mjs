import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const v4 = createOpenAICompatible({
  name: "v4",
  baseURL: "@URL@/v1",
  apiKey: "@KEY@",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
export const model = v4("@MODEL@");
