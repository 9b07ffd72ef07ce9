# Python's pickle beside the serializers of bench/serializers.lua: python.py WHAT write|read, prints the milliseconds of one round (after one
# that does not count).
import gc
import pickle
import sys
import time

MAKE = {
    "strings": lambda: ["string %d" % i for i in range(1, 1000001)],
    "doubles": lambda: [i + 0.25 for i in range(1, 1000001)],
    "integers": lambda: [i % 1000 for i in range(1, 1000001)],
    "records": lambda: [
        {"id": i, "name": "name %d" % i, "x": i * 0.5, "ok": i % 2 == 0, "tag": "t%d" % (i % 100)} for i in range(1, 100001)
    ],
}


def main():
    value = MAKE[sys.argv[1]]()
    written = pickle.dumps(value, protocol=5)
    work = (lambda: pickle.dumps(value, protocol=5)) if sys.argv[2] == "write" else (lambda: pickle.loads(written))
    work()
    gc.collect()
    start = time.perf_counter()
    work()
    print((time.perf_counter() - start) * 1e3)


main()
