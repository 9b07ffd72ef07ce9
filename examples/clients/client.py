"""A client of tarn in Python, on python3-msgpack. Written from docs/PROTOCOL.md.

    python3 client.py ADDRESS SECRET_FILE       both as serve.lua prints them
"""
import socket
import sys

import msgpack


class TarnError(Exception):
    """What a process answered instead of a result. kind: see "Errors" in docs/PROTOCOL.md."""

    def __init__(self, error):
        if isinstance(error, str):  # only a refused secret is one
            error = dict(zip(("kind", "message"), error.split(": ", 1)))
        super().__init__(f"{error['kind']}: {error['message']}")
        self.kind = error["kind"]


class Tarn:
    """A connection to a process: Tarn(address, secret).request(method, *params)."""

    def __init__(self, address, secret):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Keys of maps may be numbers, and bytes that are no UTF-8 come as bin: they become bytes.
        self.answers = msgpack.Unpacker(strict_map_key=False, max_buffer_size=2**30)
        self.msgid = 0
        self.request("auth.secret", secret)

    def request(self, method, *params):
        self.msgid = (self.msgid + 1) % 2**32
        self.socket.sendall(msgpack.packb([0, self.msgid, method, params]))
        while True:
            for _, msgid, error, result in self.answers:
                if msgid == self.msgid:  # else: of a request that was given up
                    if error is not None:
                        raise TarnError(error)
                    return result
            received = self.socket.recv(1 << 20)
            if not received:
                raise ConnectionError("the process has closed the connection")
            self.answers.feed(received)


def main():
    address, secret_file = sys.argv[1:]
    with open(secret_file, encoding="ascii") as file:
        tarn = Tarn(address, file.read().strip())
    key = tarn.request("pool.set", {"name": "Ada", "list": [1, -129, 2.5, None], "bytes": b"\xff\x00"})
    print("stored", tarn.request("pool.get", key))
    print("a function of Lua's:", tarn.request("call", "string.rep", ["ab", 3]))
    print("code:", tarn.request("eval", "local a, b = ... return a + b", [2, 3]))
    print("primes up to 100000, counted by the workers:", tarn.request("call", "demo.primes", [100000]))
    tarn.request("pool.delete", key)
    try:
        tarn.request("pool.get", key)
    except TarnError as error:
        print("deleted:", error.kind)
    large = bytes(range(256)) * 2**18  # 64 MiB
    key = tarn.request("pool.set", large)
    print("64 MiB came back unchanged:", tarn.request("pool.get", key) == large)


if __name__ == "__main__":
    main()
