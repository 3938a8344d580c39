#!/bin/bash
# what: python3 asyncio under load: 300 tasks over Unix sockets, subprocesses, signals, executors, timeouts, threads
# image: demo
# weight: light
cat > a.py <<'PY'
import asyncio, hashlib, os, signal, sys, time
async def serve(r, w):
    while line := await r.readline(): w.write(hashlib.sha256(line).hexdigest().encode() + b"\n"); await w.drain()
    w.close()
async def client(n):
    r, w = await asyncio.open_unix_connection("/tmp/a.sock"); out = b""
    for i in range(20): w.write(b"%d %d\n" % (n, i)); out += await r.readline()
    w.close(); return hashlib.sha256(out).hexdigest()
async def child(n):
    p = await asyncio.create_subprocess_shell("read x; echo $((x * 2)); exit %d" % (n % 5), stdin=-1, stdout=-1); o, _ = await p.communicate(b"%d\n" % n); return int(o), p.returncode
async def main():
    loop = asyncio.get_running_loop(); got = asyncio.Event(); loop.add_signal_handler(signal.SIGUSR1, got.set); s = await asyncio.start_unix_server(serve, "/tmp/a.sock", backlog=400)
    print(hashlib.sha256("".join(await asyncio.gather(*(client(n) for n in range(300)))).encode()).hexdigest())
    print(await asyncio.gather(*(child(n) for n in range(30)))); os.kill(os.getpid(), signal.SIGUSR1); await got.wait(); print("signal")
    try: await asyncio.wait_for(asyncio.sleep(10), 0.1)
    except asyncio.TimeoutError: print("timeout")
    q = asyncio.Queue(5)
    async def put():
        for i in range(1000): await q.put(i)
        await q.put(None)
    async def take():
        t = 0
        while (x := await q.get()) is not None: t += x
        return t
    print((await asyncio.gather(put(), take()))[1]); print(sum(await asyncio.gather(*(loop.run_in_executor(None, pow, i, 3, 97) for i in range(200)))))
    r, w = os.pipe(); rd = asyncio.StreamReader(); await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(rd), os.fdopen(r, "rb"))
    pid = os.fork()
    if pid == 0: [os.write(w, b"x" * 10000) for _ in range(30)]; os._exit(0)
    os.close(w); print(len(await rd.read())); os.waitpid(pid, 0); p = await asyncio.create_subprocess_exec("sleep", "100"); p.terminate(); print(await p.wait()); s.close()
asyncio.run(main()); sys.exit(3)
PY
python3 a.py
