#!/usr/bin/env python3
"""Replays recorded requests of published clients against a server and checks the answers.

    recordings.py [--tiny] URL [FOLDER] [NAME...]

URL is the server's root (http://127.0.0.1:8080). FOLDER defaults to tests/data/clients. A
recording is a JSON file:

    client, version, title, why   who sent it and what it is about
    method, path, headers, body   the request
    today                         what v4-run 0.1.0 (accee45) answered
    expect                        what must hold, see judge(); {"any_of": [...]} for alternatives
    fill                          {"max_tokens": "context"}: the field becomes the server's
                                  context, so that prompt and answer cannot fit together;
                                  {"messages": "context"}: the last text becomes longer than that
    steps                         instead of body: a sequence of requests; "$answer" in a later one
                                  is replaced by the assistant's message from the previous answer,
                                  and "$references" by item_reference items for it

--tiny: the model is the tests' tiny one (vocabulary of 4096), whose noise would think forever:
requests that require a call get a bias on </think>.
"""
import copy, glob, http.client, json, os, re, sys, time, urllib.parse

class Answer:
    """Status, JSON body, or a stream's events with the seconds at which each came."""
    def __init__(self): self.status = 0; self.json = None; self.text = ""; self.events = []; self.start = time.time()

def fetch(root, method, path, headers, body, enough=None, limit=240):
    u = urllib.parse.urlparse(root); c = http.client.HTTPConnection(u.hostname, u.port, timeout=limit)
    data = json.dumps(body, ensure_ascii=False).encode() if body is not None else None
    a = Answer()
    c.request(method, path, data, {"content-type": "application/json", **(headers or {})})
    r = c.getresponse(); a.status = r.status
    if "event-stream" not in (r.getheader("content-type") or ""):
        a.text = r.read().decode("utf8", "replace")
        try: a.json = json.loads(a.text)
        except ValueError: pass
        return a
    kind = None
    while True:
        line = r.readline()
        if not line: break
        line = line.decode("utf8", "replace").rstrip("\r\n"); a.text += line + "\n"
        if line.startswith("event:"): kind = line[6:].strip()
        elif line.startswith("data:"):
            d = line[5:].strip()
            try: j = json.loads(d)
            except ValueError: j = d
            t = (j.get("type") if isinstance(j, dict) else None) or kind
            a.events.append((time.time() - a.start, t, j)); kind = None
            if enough and enough(a): break
        if time.time() - a.start > limit: break
    c.close(); return a

def at(value, path):
    for p in path.split("."):
        if isinstance(value, list): value = value[int(p)] if p.lstrip("-").isdigit() and -len(value) <= int(p) < len(value) else None
        elif isinstance(value, dict): value = value.get(p)
        else: return None
    return value

def generated(event):
    """Whether an event of a stream has something that the model wrote."""
    _, t, j = event
    if not isinstance(j, dict): return False
    if t == "content_block_delta" or (t or "").endswith(".delta"): return True
    d = at(j, "choices.0.delta") or {}
    return bool(d.get("content") or d.get("reasoning_content") or d.get("tool_calls") or at(j, "choices.0.text") or at(j, "choices.0.finish_reason"))

def usage(a):
    found = None
    for j in [a.json] + [j for _, _, j in a.events]:
        for p in ("usage", "response.usage", "message.usage"):
            u = at(j, p) if isinstance(j, dict) else None
            if u: found = {**(found or {}), **u}
    return found or {}

def cached(u): return at(u, "prompt_tokens_details.cached_tokens") or at(u, "input_tokens_details.cached_tokens") or u.get("cache_read_input_tokens") or 0
def read(u): return u.get("prompt_tokens") or (u.get("input_tokens", 0) + u.get("cache_read_input_tokens", 0))

def first_call(a):
    """Name of the first call of a tool, and whether there is text before it."""
    if a.json is not None:
        m = at(a.json, "choices.0.message")
        if m is not None: return at(m, "tool_calls.0.function.name")
        for o in a.json.get("output") or a.json.get("content") or []:
            if o.get("type") in ("function_call", "tool_use", "custom_tool_call"): return o.get("name")
            if o.get("type") in ("text", "message"): return None
        return None
    for _, t, j in a.events:
        if not isinstance(j, dict): continue
        if t == "content_block_start" and at(j, "content_block.type") == "tool_use": return at(j, "content_block.name")
        if t == "content_block_start" and at(j, "content_block.type") == "text": return None
        if t == "response.output_item.added" and at(j, "item.type") in ("function_call", "custom_tool_call"): return at(j, "item.name")
        d = at(j, "choices.0.delta") or {}
        if d.get("content"): return None
        if d.get("tool_calls"): return at(d, "tool_calls.0.function.name")
    return None

def said(a):
    """Text outside of reasoning and calls."""
    if a.json is not None:
        t = at(a.json, "choices.0.message.content")
        if t is None: t = "".join(o.get("text") or "".join(c.get("text") or "" for c in o.get("content") or [] if o.get("type") == "message") for o in a.json.get("output") or a.json.get("content") or [] if isinstance(o, dict))
        return t or ""
    return "".join((at(j, "choices.0.delta.content") or (at(j, "delta.text") if t == "content_block_delta" else None) or (j.get("delta") if t == "response.output_text.delta" else None) or "") for _, t, j in a.events if isinstance(j, dict))

def calls(a):
    m = at(a.json, "choices.0.message.tool_calls")
    if m is not None: return len(m)
    return sum(o.get("type") in ("function_call", "tool_use") for o in (a.json or {}).get("output") or (a.json or {}).get("content") or [])

def judge(e, a, extra):
    """None if all holds, or what does not."""
    if "any_of" in e:
        bad = [judge(x, a, extra) for x in e["any_of"]]
        return None if None in bad else " / ".join(bad)
    if "status" in e and a.status not in (e["status"] if isinstance(e["status"], list) else [e["status"]]):
        return "status %d: %s" % (a.status, a.text[:160].replace("\n", " "))
    if "message" in e and not re.search(e["message"], str(at(a.json, "error.message") or at(a.json, "message") or "")): return "message is not like %s: %s" % (e["message"], a.text[:160])
    if "code" in e and at(a.json, "error.code") != e["code"]: return "error.code is %r, not %r" % (at(a.json, "error.code"), e["code"])
    if "call" in e:
        n = first_call(a)
        cut = "length" in a.text[-3000:] or '"incomplete"' in a.text or '"max_tokens"' in a.text[-3000:]
        if not n and cut and not said(a): n = e["call"]
        if not n or (e["call"] is not True and n != e["call"]): return "no call of %s first, but %s" % ("a tool" if e["call"] is True else e["call"], repr(said(a)[:40]) if not n else n)
    if "calls_at_most" in e and calls(a) > e["calls_at_most"]: return "%d calls" % calls(a)
    if "begins" in e and not any(generated(x) for x in a.events): return "nothing was written: %s" % a.text[-160:]
    for p, v in (e.get("json") or {}).items():
        got = at(a.json, p)
        if v == "string" and isinstance(got, str): continue
        if got != v: return "%s is %r, not %r" % (p, got, v)
    if e.get("prompt_has_answer") and extra("answer") not in (at(a.json, "prompt") or ""): return "the prompt lacks the answer %r" % extra("answer")[:40]
    if "prompt_has" in e and e["prompt_has"] not in (at(a.json, "prompt") or ""): return "the prompt lacks %r" % e["prompt_has"]
    if "tokens_as" in e:
        other = extra(e["tokens_as"])
        if read(usage(a)) != read(usage(other)): return "%d tokens of prompt, %d in the other form" % (read(usage(a)), read(usage(other)))
    if "reasoning_within" in e:
        u = usage(a); r = at(u, "completion_tokens_details.reasoning_tokens") or at(u, "output_tokens_details.reasoning_tokens") or 0; o = u.get("completion_tokens", u.get("output_tokens", 0))
        if r > o: return "%d tokens of reasoning in an answer of %d" % (r, o)
    if "cached_from" in e:
        u = usage(a); least = read(usage(extra(e["cached_from"]))) - e.get("less", 16)
        if cached(u) < least: return "%d tokens were known of the %d that were read before" % (cached(u), least)
    if "gap" in e:
        t = [0.0] + [x for x, _, _ in a.events]; g = max([b - c for b, c in zip(t[1:], t)] or [a and time.time() - a.start])
        if g > e["gap"]: return "%.1f seconds without an event" % g
    return None

TINY = False

def fill(rec, context):
    body = copy.deepcopy(rec.get("body"))
    if TINY and body and "call" in rec["expect"]: body["logit_bias"] = {"4073": 12, **body.get("logit_bias", {})}
    for k, v in (rec.get("fill") or {}).items():
        if v == "context" and k in ("max_tokens", "max_output_tokens", "max_completion_tokens"): body[k] = max(body.get(k) or 0, context)
        if v == "context" and k in ("messages", "input"):
            last = body[k][-1]["content"]
            if isinstance(last, list): last[-1]["text"] += " and so on" * context
            else: body[k][-1]["content"] = last + " and so on" * context
    return body

def message(a, path):
    """The assistant's turn as a client sends it back."""
    if path.endswith("/chat/completions"):
        m = at(a.json, "choices.0.message")
        if m is not None: return [m]
        text = "".join((at(j, "choices.0.delta.content") or "") for _, _, j in a.events if isinstance(j, dict))
        why = "".join((at(j, "choices.0.delta.reasoning_content") or "") for _, _, j in a.events if isinstance(j, dict))
        return [{"role": "assistant", "content": text, "reasoning_content": why}]
    if "/responses" in path: return (a.json or {}).get("output") or [at(j, "item") for _, t, j in a.events if t == "response.output_item.done"]
    return [{"role": "assistant", "content": (a.json or {}).get("content")}]

def run(root, rec, context):
    h = rec.get("headers"); m = rec.get("method", "POST")
    def extra(body, path=None): return fetch(root, m, path or rec["path"], h, body)
    if "steps" in rec:
        answers = []
        for s in rec["steps"]:
            body = copy.deepcopy(s["body"])
            for k in ("messages", "input"):
                if isinstance(body.get(k), list): body[k] = [y for x in body[k] for y in (message(answers[-1], rec["path"]) if x == "$answer" else [{"type": "item_reference", "id": i["id"]} for i in answers[-1].json["output"]] if x == "$references" else [x])]
            answers.append(fetch(root, m, s.get("path") or rec["path"], h, body))
            if answers[-1].status != 200 and s is not rec["steps"][-1]: return "step %d: status %d: %s" % (len(answers), answers[-1].status, answers[-1].text[:160])
        e = dict(rec["expect"]); least = read(usage(answers[0])) - e.pop("less", 16)
        if "cached_prompt" in e and cached(usage(answers[-1])) < least: return "%d tokens were known of %d that were read before" % (cached(usage(answers[-1])), least)
        answer = lambda x: said(answers[-2]) if x == "answer" else extra(x)
        return judge({k: v for k, v in e.items() if k != "cached_prompt"}, answers[-1], answer)
    stop = (lambda a: generated(a.events[-1])) if rec.get("stop_at_first") else None
    return judge(rec["expect"], fetch(root, m, rec["path"], h, fill(rec, context), stop), extra)

def main():
    global TINY
    if "--tiny" in sys.argv: sys.argv.remove("--tiny"); TINY = True
    root = sys.argv[1].rstrip("/"); here = os.path.dirname(os.path.abspath(__file__)); folder = os.path.join(here, "..", "data", "clients"); names = []
    for x in sys.argv[2:]:
        if os.path.isdir(x): folder = x
        else: names.append(x)
    models = fetch(root, "GET", "/v1/models", {}, None).json
    context = at(models, "data.0.max_model_len") or at(models, "data.0.meta.n_ctx") or 32768
    passed = failed = 0
    for f in sorted(glob.glob(os.path.join(folder, "*.json"))):
        rec = json.load(open(f)); name = os.path.basename(f)[:-5]
        if names and not any(n in name for n in names): continue
        try: bad = run(root, rec, context)
        except Exception as e: bad = "%s: %s" % (type(e).__name__, e)
        print(("ok    " if not bad else "FAIL  ") + name + (": " + bad if bad else "")); passed += not bad; failed += bool(bad)
    print("%d passed, %d failed" % (passed, failed)); sys.exit(failed > 0)
main()
