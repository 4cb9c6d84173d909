// The AI SDK, called as the scripts in Python are (common.py).
import { execSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { createRequire } from "node:module";

const require = createRequire(process.cwd() + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { generateObject, stepCountIs, streamText, tool } = await load("ai");
const { z } = await load("zod");
const { model } = await import(pathToFileURL("v4.mjs").href);

const notes = "You answer questions about these notes.\n" + readFileSync("notes.py", "utf8");
const tools = {
  run_command: tool({
    description: "Runs a command in the shell and returns what it prints.",
    inputSchema: z.object({ command: z.string().describe("the command") }),
    execute: async ({ command }) => execSync(command, { encoding: "utf8" }),
  }),
};

async function turn(messages) {
  let failed;
  const result = streamText({
    model, instructions: notes, messages, tools, stopWhen: stepCountIs(3), maxRetries: 0,
    onError: ({ error }) => { failed = error; },
  });
  let text;
  try {
    text = await result.text;
  } catch (error) {
    throw failed ?? error;
  }
  if (failed) throw failed;
  console.log("answer:", text);
  messages.push(...(await result.response).messages);
}

try {
  const messages = [{ role: "user", content: process.env.TASK }];
  await turn(messages);
  if (process.argv[2] === "second") {
    messages.push({ role: "user", content: "And what else do they say?" });
    await turn(messages);
  } else {
    const schema = z.object({ severity: z.enum(["low", "high"]), line: z.literal([1, 2, 3]) });
    const { object } = await generateObject({ model, schema, prompt: "Name a bug.", maxRetries: 0 });
    console.log("structured:", JSON.stringify(schema.parse(object)));
  }
} catch (error) {
  console.log(error.responseBody ?? error.data ?? "", error);
  process.exit(1);
}
