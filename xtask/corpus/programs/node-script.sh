#!/bin/bash
# what: node: child processes, worker threads, streams, zlib, crypto, timers, Unix sockets, file watching, promises
# image: languages
# weight: heavy
# files: out
cat > n.js <<'JS'
const { spawn, execFile, fork, spawnSync } = require('child_process'), { Worker, isMainThread, parentPort, workerData } = require('worker_threads'), crypto = require('crypto'), fs = require('fs'), zlib = require('zlib'), net = require('net'), util = require('util'), { pipeline } = require('stream/promises');
const sha = (x) => crypto.createHash('sha256').update(x).digest('hex');
if (!isMainThread) { let t = 0; for (let i = 0; i < 2e6; i++) t = (t * 31 + i + workerData) % 1000003; Atomics.add(new Int32Array(require('worker_threads').workerData.shared ?? new SharedArrayBuffer(4)), 0, 1); parentPort.postMessage(t); return; }
if (process.argv[2] === 'child') { process.on('message', (m) => { process.send({ doubled: m.n * 2 }); process.disconnect(); }); return; }
(async () => {
  const kids = await Promise.all([...Array(20).keys()].map((i) => new Promise((ok) => { const p = spawn('sh', ['-c', `cat; exit ${i}`]); let o = ''; p.stdout.on('data', (d) => (o += d)); p.on('close', (c, s) => ok([o, c, s])); p.stdin.end('in' + i); }))); console.log(JSON.stringify(kids));
  const ws = await Promise.all([1, 2, 3, 4, 5, 6].map((n) => new Promise((ok, no) => { const w = new Worker(__filename, { workerData: n }); w.on('message', ok); w.on('error', no); }))); console.log(ws.join());
  console.log(await new Promise((ok) => { const p = fork(__filename, ['child']); p.on('message', (m) => ok(m)); p.send({ n: 21 }); }));
  fs.mkdirSync('out'); fs.writeFileSync('out/a', 'line\n'.repeat(100000)); await pipeline(fs.createReadStream('out/a'), zlib.createGzip(), zlib.createGunzip(), fs.createWriteStream('out/b')); console.log(sha(fs.readFileSync('out/b')));
  console.log(await new Promise((ok) => { const s = net.createServer((c) => c.pipe(c)).listen('/tmp/n.sock', () => { const c = net.connect('/tmp/n.sock'); let o = ''; c.on('data', (d) => { o += d; if (o.length >= 300000) c.end(); }); c.on('close', () => { s.close(); ok(sha(o)); }); c.write('y'.repeat(300000)); }); }));
  console.log(sha(await util.promisify(crypto.scrypt)('pw', 'salt', 32)), (await util.promisify(crypto.pbkdf2)('p', 's', 5000, 16, 'sha1')).toString('hex'));
  const seen = new Promise((ok) => { const w = fs.watch('out', (e, f) => { w.close(); ok([e, f]); }); }); setTimeout(() => fs.writeFileSync('out/watched', 'x'), 50); console.log(await seen);
  const names = await Promise.all([...Array(200).keys()].map(async (i) => { await fs.promises.writeFile('out/f' + i, String(i)); return (await fs.promises.stat('out/f' + i)).size; })); console.log(names.reduce((a, b) => a + b));
  const k = spawn('sleep', ['100']); k.kill('SIGTERM'); console.log(await new Promise((ok) => k.on('exit', (c, s) => ok([c, s])))); console.log(spawnSync('nothing').error.code, spawnSync('sh', ['-c', 'kill -9 $$']).signal);
  process.on('SIGUSR2', () => { console.log('usr2'); }); process.kill(process.pid, 'SIGUSR2'); await new Promise((r) => setTimeout(r, 100)); let a = []; for (let i = 0; i < 3e5; i++) a.push({ i, s: 'k' + i }); console.log(sha(JSON.stringify(a.filter((x) => x.i % 3 == 0)))); console.log(require('os').cpus().length, require('os').availableParallelism?.() ?? ''); process.exitCode = 5;
})();
JS
node n.js
