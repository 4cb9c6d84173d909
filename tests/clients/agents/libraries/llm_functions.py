import subprocess


def run_command(command: str) -> str:
    "Runs a command in the shell and returns what it prints."
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    return done.stdout
