"""Runs two turns with an agent that speaks the Agent Client Protocol on its standard streams.

    acp.py TASK COMMAND...

For clients whose sessions continue only at a terminal. It allows everything that it is asked.
"""

import json
import os
import subprocess
import sys


class Agent:
    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.number = 0

    def send(self, message):
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def ask(self, method, parameters):
        self.number += 1
        self.send({"id": self.number, "method": method, "params": parameters})
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                print("says:", line.rstrip())
                continue
            if "method" in message:
                self.asked(message)
            elif message.get("id") == self.number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']}")
                return message["result"]
        sys.exit(f"{method}: the agent has ended")

    def asked(self, message):
        parameters = message.get("params") or {}
        if message["method"] == "session/update":
            update = parameters.get("update") or {}
            if update.get("sessionUpdate") == "agent_message_chunk":
                print("text:", update["content"].get("text"))
        elif message["method"] == "session/request_permission":
            allowed = [o for o in parameters["options"] if o["kind"].startswith("allow")]
            outcome = {"outcome": "selected", "optionId": allowed[0]["optionId"]}
            self.send({"id": message["id"], "result": {"outcome": outcome}})
        elif "id" in message:
            self.send({"id": message["id"], "error": {"code": -32601, "message": "not here"}})


def main():
    task, command = sys.argv[1], sys.argv[2:]
    agent = Agent(command)
    agent.ask("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
    session = agent.ask("session/new", {"cwd": os.getcwd(), "mcpServers": []})["sessionId"]
    for text in ("Tell me what the notes say.", task):
        prompt = [{"type": "text", "text": text}]
        print("turn:", agent.ask("session/prompt", {"sessionId": session, "prompt": prompt}))
    agent.process.kill()


if __name__ == "__main__":
    main()
