// Zod's schemas through openai's parse(): each is obeyed for every seed, or refused with
// 400 that names the keyword. See schemas.py.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.cwd() + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { default: OpenAI, BadRequestError } = await load("openai");
const { zodResponseFormat, zodTextFormat } = await load("openai/helpers/zod");
const { z } = await load("zod");

const address = z.object({ street: z.string(), zip: z.string().nullable() });
const cat = z.object({ kind: z.literal("cat"), lives: z.number().int().min(1).max(9) });
const dog = z.object({ kind: z.literal("dog"), breed: z.enum(["poodle", "terrier"]) });
const pet = z.discriminatedUnion("kind", [cat, dog]);
const base = z.object({ id: z.number().int().min(0).max(9999) });
const node = z.object({
  value: z.number().int().min(0).max(99),
  get children() {
    return z.array(node).max(2);
  },
});

const schemas = {
  Person: z.object({
    name: z.string(), age: z.number().int().nullable(), address: address.nullable(),
    former: z.array(address).max(2).nullable(),
  }),
  Event: z.object({
    day: z.iso.date(), at: z.iso.datetime(), begins: z.iso.time(), number: z.uuid(),
  }),
  Paint: z.object({
    colour: z.enum(["red", "green"]), kind: z.literal("paint"), coats: z.literal([1, 2, 3]),
    finish: z.union([z.literal("matt"), z.literal(7), z.null()]), wet: z.literal(true),
  }),
  Batch: z.object({
    sizes: z.array(z.number().int()).min(2).max(4), names: z.array(z.enum(["a", "b"])).max(3),
    pair: z.tuple([z.number().int(), z.enum(["x", "y"])]),
  }),
  Account: z.object({
    user: z.string().min(3).max(8), code: z.string().regex(/^[A-Z]{2}-[0-9]{3}$/),
    note: z.string().max(5), mail: z.email(),
  }),
  Pet: z.object({ animal: pet, others: z.array(pet).max(2) }),
  Node: node,
  Scores: z.object({
    points: z.record(z.string(), z.number().int()), nested: z.record(z.string(), z.array(z.boolean())),
  }),
  Price: z.object({
    amount: z.number().min(0).max(1000), share: z.number().gt(0).lt(1),
    count: z.number().int().positive().max(12), step: z.number().int().multipleOf(5).min(0).max(100),
  }),
  Derived: base.extend({
    parent: base.describe("what it was made of"), colour: z.enum(["red"]).describe("its colour"),
    both: z.intersection(base, z.object({ more: z.boolean() })),
  }),
  Mixed: z.object({
    value: z.union([z.number().int(), z.boolean(), z.null(), address]),
    matrix: z.array(z.array(z.literal([0, 1])).length(2)).min(1).max(2),
  }),
};

const client = new OpenAI({ apiKey: "none", baseURL: process.env.OPENAI_BASE_URL, maxRetries: 0 });
const bias = { 4: 3, 63: 4, 95: 4 };
const ask = "Give an example in JSON.";

async function chat(name, schema, seed) {
  const whole = await client.chat.completions.parse({
    model: "v4-flash", seed, max_tokens: 2000, logit_bias: bias,
    messages: [{ role: "user", content: ask }], thinking: { type: "disabled" },
    response_format: zodResponseFormat(schema, name),
  });
  return whole.choices[0].message.content;
}

async function responses(name, schema, seed) {
  const whole = await client.responses.parse({
    model: "v4-flash", input: ask, text: { format: zodTextFormat(schema, name) },
    reasoning: { effort: "none" }, max_output_tokens: 2000, seed, logit_bias: bias,
  });
  if (whole.status !== "completed") throw new Cut();
  return whole.output_text;
}

// Those that a refusal may name.
const keywords = new Set(`anyOf oneOf allOf $ref format pattern const enum items prefixItems additionalProperties
  propertyNames minItems maxItems minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf`.split(/\s+/));

class Cut extends Error {}

function words(value) {
  if (Array.isArray(value)) return value.flatMap(words);
  if (value && typeof value === "object")
    return [...Object.keys(value), ...Object.values(value).flatMap(words)];
  return typeof value === "string" ? [value] : [];
}

async function judge(name, schema, call, seeds) {
  let obeyed = 0, cut = 0;
  for (let seed = 0; seed < seeds; seed++) {
    let text;
    try {
      text = await call(name, schema, seed);
      schema.parse(JSON.parse(text));
    } catch (error) {
      if (error instanceof BadRequestError) {
        const sent = zodResponseFormat(schema, name).json_schema.schema;
        const named = words(sent).some((word) => keywords.has(word) && error.message.includes(word));
        return [named ? null : "refused without a keyword", `refused: ${error.message}`];
      }
      if (error instanceof Cut || /length limit/.test(error.message)) {
        cut++;
        continue;
      }
      // The helper itself knows no such schema: nothing was asked.
      if (/not supported|cannot be represented|Structured Outputs/.test(error.message) && text === undefined)
        return [null, `not sent: ${error.message.split("\n")[0]}`];
      return [`seed ${seed}: ${(text ?? "").slice(0, 300)}: ${error.message.slice(0, 500)}`, "disobeyed"];
    }
    obeyed++;
  }
  const wrong = obeyed > cut ? null : `only ${obeyed} of ${seeds} came to their end`;
  return [wrong, `obeyed for ${obeyed} seeds${cut ? `, ${cut} cut` : ""}`];
}

let failed = 0;
for (const [name, schema] of Object.entries(schemas)) {
  for (const call of [chat, responses]) {
    const [wrong, how] = await judge(name, schema, call, Number(process.env.SEEDS ?? 20));
    if (wrong !== null) failed++;
    console.log(`zod ${name} ${call.name}: ${how}${wrong === null ? "" : `: FAILED: ${wrong}`}`);
  }
}
process.exit(failed ? 1 : 0);
