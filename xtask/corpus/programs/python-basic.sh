#!/bin/bash
# what: python3: threads, processes, multiprocessing, asyncio, ctypes, sqlite3, subprocess, signals, mmap, tempfile
# image: demo
# weight: light
# files: data.db out
cat > run.py <<'PY'
import asyncio, ctypes, hashlib, json, mmap, multiprocessing, os, queue, select, shutil, signal, socket, sqlite3, subprocess, sys, tempfile, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

def square(n): return n * n

def threads():
    q, out, lock = queue.Queue(), [], threading.Lock()
    def work():
        while (item := q.get()) is not None:
            with lock: out.append(hashlib.sha256(str(item).encode()).hexdigest())
    ts = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in ts]; [q.put(i) for i in range(500)]; [q.put(None) for _ in ts]; [t.join() for t in ts]
    return hashlib.sha256("".join(sorted(out)).encode()).hexdigest()

async def client(port_path, n):
    r, w = await asyncio.open_unix_connection(port_path)
    w.write(b"%d\n" % n); await w.drain(); line = await r.readline(); w.close(); return int(line)

async def server():
    async def serve(r, w):
        w.write(b"%d\n" % (int(await r.readline()) * 2)); await w.drain(); w.close()
    s = await asyncio.start_unix_server(serve, "/tmp/sock")
    got = await asyncio.gather(*(client("/tmp/sock", n) for n in range(40)))
    p = await asyncio.create_subprocess_exec("sort", stdin=-1, stdout=-1)
    out, _ = await p.communicate(b"b\na\nc\n")
    await asyncio.sleep(0.05); s.close(); return sum(got), out, p.returncode

def database():
    d = sqlite3.connect("data.db"); d.execute("pragma journal_mode=wal").fetchone()
    d.execute("create table t(a integer primary key, b text)")
    d.executemany("insert into t values(?, ?)", ((i, "v%d" % i) for i in range(5000))); d.commit()
    r = d.execute("select count(*), sum(a), max(b) from t where b like '%7%'").fetchone(); d.execute("pragma journal_mode=delete").fetchone(); d.close(); return r

def signals():
    seen = []
    signal.signal(signal.SIGALRM, lambda s, f: seen.append(s)); signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    end = time.monotonic() + 0.3
    while len(seen) < 3 and time.monotonic() < end: time.sleep(1)
    signal.setitimer(signal.ITIMER_REAL, 0); r, w = os.pipe(); signal.set_wakeup_fd(-1)
    pid = os.fork()
    if pid == 0: os.close(r); os.write(w, b"child"); os._exit(9)
    os.close(w); text = os.read(r, 10); return len(seen) >= 3, text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def memory():
    with open("out", "w+b") as f:
        f.truncate(100000); m = mmap.mmap(f.fileno(), 0); m[5000:5005] = b"hello"; m.flush(); f.seek(5000); text = f.read(5); m.close()
    a = mmap.mmap(-1, 4096); pid = os.fork()
    if pid == 0: a[0:4] = b"kid!"; os._exit(0)
    os.waitpid(pid, 0); return text, a[0:4]

def native():
    libc = ctypes.CDLL(None, use_errno=True); cmp = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    arr = (ctypes.c_int * 6)(5, 3, 9, 1, 7, 2); libc.qsort(arr, 6, 4, cmp(lambda a, b: a[0] - b[0]))
    return list(arr), libc.open(b"/nowhere", 0), ctypes.get_errno()

if __name__ == "__main__":
    print("threads", threads()); print("asyncio", asyncio.run(server())); print("sqlite", database()); print("signals", signals()); print("mmap", memory()); print("ctypes", native())
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(3) as p: print(method, sum(p.map(square, range(1000), 50)))
    with ProcessPoolExecutor(2) as e, ThreadPoolExecutor(4) as t: print("executors", sum(e.map(square, range(100))), sum(t.map(square, range(100))))
    q = multiprocessing.Queue(); p = multiprocessing.Process(target=q.put, args=({"a": [1, 2]},)); p.start(); print("queue", q.get(), p.join(), p.exitcode)
    v = multiprocessing.Value("i", 0)
    def bump():
        for _ in range(500):
            with v.get_lock(): v.value += 1
    ps = [multiprocessing.Process(target=bump) for _ in range(4)]; [p.start() for p in ps]; [p.join() for p in ps]; print("value", v.value)
    a, b = socket.socketpair(); a.sendall(b"x" * 5000); print("socket", len(b.recv(10000)), select.select([b], [], [], 0.01))
    try: subprocess.run(["sleep", "10"], timeout=0.1)
    except subprocess.TimeoutExpired as e: print("timeout", round(e.timeout, 1))
    print("run", subprocess.run("echo err >&2; exit 3", shell=True, capture_output=True))
    with tempfile.TemporaryDirectory() as d: open(d + "/x", "w").write("x"); shutil.copytree(d, "/tmp/copy"); print(os.listdir("/tmp/copy"))
    print("cpus", os.cpu_count(), len(os.sched_getaffinity(0))); sys.exit(5)
PY
python3 run.py
