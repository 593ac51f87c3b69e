"""What an engine runs on a node: asks the probe, and sends its answer as short numbered lines.

    on_node.py REQUEST COMMAND...       REQUEST: a file, or - for standard input

Engines pass output on line by line, in small buffers and mixed with other output: a document of one long line would be
torn. So the answer (exit status, output and last messages of COMMAND) is compressed and travels as lines

    gpugate-answer NUMBER BASE64        76 columns of base64; only the last line is shorter
    gpugate-answer end COUNT SHA256     of the compressed bytes

Messages of COMMAND go on to standard error as they come. The exit status is 0 once the answer is out, whatever it says.

This file runs on nodes by itself (Python 3.9, standard library), as text given to the interpreter or as a file of an
image: it imports nothing of gpugate.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import zlib
from typing import IO

MOST_OUTPUT = 512 * 1024  # twice what a document may have; the rest is cut off, and the frame then tells
MOST_WORDS = 2000
MOST_LINE = 200
PIECE = 57  # bytes: 76 columns


def main(arguments: list[str]) -> int:
    request, command = arguments[0], arguments[1:]
    status, output, words = _ask(request, command)
    node = os.environ.get("SLURMD_NODENAME") or os.environ.get("NODE_NAME") or os.uname().nodename
    head = {"node": node, "status": status, "words": words[-MOST_WORDS:].decode("utf-8", "replace")}
    _send(zlib.compress(json.dumps(head).encode() + b"\n" + output))
    return 0


def _ask(request: str, command: list[str]) -> tuple[int, bytes, bytes]:
    """The command's exit status (as shells count), output and last messages."""
    try:
        source = os.dup(0) if request == "-" else os.open(request, os.O_RDONLY)
    except OSError as error:
        return 66, b"", f"there is no request for this node: {request}: {error.strerror}".encode()
    try:
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        return 127, b"", f"{command[0]}: {error.strerror}".encode()
    finally:
        os.close(source)
    if process.stdout is None or process.stderr is None:  # for the type checker: both are pipes
        return 70, b"", b"no pipes"
    words = bytearray()
    passing = threading.Thread(target=_pass_on, args=(process.stderr, words), daemon=True)
    passing.start()
    output = process.stdout.read(MOST_OUTPUT)
    process.stdout.close()
    status = process.wait()
    passing.join(5)  # what the command left running may hold the other end
    return (status if status >= 0 else 128 - status), output, bytes(words)


def _pass_on(stream: IO[bytes], words: bytearray) -> None:
    while line := stream.readline(MOST_LINE):
        words += line
        del words[:-MOST_WORDS]
        sys.stderr.buffer.write(line.rstrip(b"\n") + b"\n")
        sys.stderr.buffer.flush()


def _send(answer: bytes) -> None:
    count = 0
    for place in range(0, len(answer), PIECE):
        sys.stdout.write(f"gpugate-answer {count} {base64.b64encode(answer[place : place + PIECE]).decode()}\n")
        count += 1
    sys.stdout.write(f"gpugate-answer end {count} {hashlib.sha256(answer).hexdigest()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
