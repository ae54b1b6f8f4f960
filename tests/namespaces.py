"""A host with a firewall and its peers, as two network namespaces of one veth: who gets through to what.

Run as `unshare --net --mount python -m tests.namespaces`; reads {rules, host, peers, ports} as JSON, prints
{"open": {peer: ports that it reaches}, "older": whether a connection from before the rules goes on when the peer speaks first}.
"""

import json
import subprocess
import sys
from pathlib import Path
from socket import create_connection, create_server

# In the peers' namespace: a listener that speaks when it is told to, then the ports that each address reaches.
PEERS = """
import asyncio, json, socket, sys
peers, host, ports = json.loads(sys.argv[1])
listener = socket.create_server((peers[0], 5000))
print("listening", flush=True)
connection, _ = listener.accept()
sys.stdin.readline()
connection.sendall(b"still here")

async def reaches(peer, port):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port, local_addr=(peer, 0)), 2)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True

async def everything():
    pairs = [(peer, port) for peer in peers for port in ports]
    passed = await asyncio.gather(*(reaches(*pair) for pair in pairs))
    return {peer: [pair[1] for pair, yes in zip(pairs, passed) if yes and pair[0] == peer] for peer in peers}

print(json.dumps(asyncio.run(everything())))
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    given = json.load(sys.stdin)
    host, peers, ports = given["host"], given["peers"], given["ports"]
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    run("ip", "netns", "add", "peers")
    run("ip", "link", "add", "host0", "type", "veth", "peer", "name", "peers0", "netns", "peers")
    inside = ("ip", "netns", "exec", "peers")
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{host}/24", "dev", "host0")
    run("ip", "link", "set", "host0", "up")
    for peer in peers:
        run(*inside, "ip", "address", "add", f"{peer}/24", "dev", "peers0")
    run(*inside, "ip", "link", "set", "peers0", "up")
    for peer in peers:
        run("ip", "route", "replace", f"{peer}/32", "dev", "host0")
        run(*inside, "ip", "route", "replace", f"{host}/32", "dev", "peers0")

    listeners = [create_server((host, port)) for port in ports]
    command = [*inside, sys.executable, "-c", PEERS, json.dumps([peers, host, ports])]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "listening\n"
    older = create_connection((peers[0], 5000), timeout=10)
    rules = Path("/run/rules.nft")
    rules.write_text(given["rules"])
    for _ in range(2):  # the second time as a reload does
        run("nft", "--file", str(rules))
    other.stdin.write("\n")
    other.stdin.close()
    try:
        heard = older.recv(100) == b"still here"
    except TimeoutError:
        heard = False
    print(json.dumps({"open": json.loads(other.stdout.read()), "older": heard}))
    for listener in listeners:
        listener.close()


if __name__ == "__main__":
    main()
