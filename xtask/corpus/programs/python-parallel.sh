#!/bin/bash
# what: python3 multiprocessing: pools by fork and spawn, shared memory, managers, semaphores, pipes, a killed worker
# image: demo
# weight: heavy
cat > m.py <<'PY'
import ctypes, hashlib, multiprocessing as mp, os, signal, sys, time
from multiprocessing import shared_memory, managers
from concurrent.futures import ProcessPoolExecutor, process
def work(n): return hashlib.sha256(b"%d" % n * 2000).hexdigest()
def fill(name, i, n): s = shared_memory.SharedMemory(name=name); s.buf[i * n:(i + 1) * n] = bytes([i + 65]) * n; s.close()
def suicide(_): os.kill(os.getpid(), signal.SIGKILL)
def stage(c, x):
    while (v := c.recv()) is not None: c.send(v * x)
def cond(c, v):
    with c: v.value += 1; c.notify_all()
if __name__ == "__main__":
    for m in ("fork", "spawn"):
        with mp.get_context(m).Pool(4) as p: print(m, hashlib.sha256("".join(p.map(work, range(2000), 25)).encode()).hexdigest(), sum(1 for _ in p.imap_unordered(work, range(100))))
    s = shared_memory.SharedMemory(create=True, size=40000); ps = [mp.Process(target=fill, args=(s.name, i, 10000)) for i in range(4)]; [p.start() for p in ps]; [p.join() for p in ps]; print(hashlib.sha256(bytes(s.buf[:40000])).hexdigest()); s.close(); s.unlink()
    with mp.Manager() as m:
        d, l = m.dict(), m.list(); q = [mp.Process(target=d.__setitem__, args=(i, i * i)) for i in range(10)]; [p.start() for p in q]; [p.join() for p in q]; print(sorted(d.items())); l.extend(range(5)); print(list(l))
    try:
        with ProcessPoolExecutor(2) as e: list(e.map(suicide, range(2)))
    except process.BrokenProcessPool: print("broken pool")
    a, b = mp.Pipe(); p = mp.Process(target=stage, args=(b, 3)); p.start(); print([a.send(i) or a.recv() for i in range(200)][-1]); a.send(None); p.join(); print(p.exitcode)
    c, v = mp.Condition(), mp.Value("i", 0); ps = [mp.Process(target=cond, args=(c, v)) for _ in range(6)]; [p.start() for p in ps]
    with c: c.wait_for(lambda: v.value == 6, 20)
    [p.join() for p in ps]; print(v.value); sem = mp.BoundedSemaphore(2); sem.acquire(); print(sem.acquire(timeout=1), sem.acquire(timeout=0.05)); bar = mp.Barrier(3); ps = [mp.Process(target=bar.wait) for _ in range(3)]; [p.start() for p in ps]; [p.join() for p in ps]; print([p.exitcode for p in ps]); p = mp.Process(target=time.sleep, args=(100,)); p.start(); p.terminate(); p.join(); print(p.exitcode); sys.exit(2)
PY
python3 m.py
