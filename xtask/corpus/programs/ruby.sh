#!/bin/bash
# what: ruby: threads, fork, IO.popen, fibers, signals, sockets, Timeout, GC under pressure
# image: toolchain
# weight: light
# files: r.rb
cat > r.rb <<'RB'
require 'digest'; require 'json'; require 'socket'; require 'timeout'; require 'tempfile'; require 'open3'; require 'set'
q = Queue.new; ts = 6.times.map { |i| Thread.new { 100.times { |j| q << i * j } } }; ts.each(&:join); puts q.size
puts 8.times.map { |i| r, w = IO.pipe; pid = fork { r.close; w << Digest::SHA256.hexdigest(i.to_s); w.close; exit!(i) }; w.close; s = r.read; Process.wait pid; [s[0, 8], $?.exitstatus] }.inspect
begin; Timeout.timeout(0.2) { sleep 5 }; rescue Timeout::Error => e; puts e.class; end
trap('USR1') { puts 'usr1' }; Process.kill('USR1', $$); sleep 0.1
puts IO.popen(%w[sort -r], 'r+') { |p| p.puts %w[a c b]; p.close_write; p.read.split.inspect }
o, e, s = Open3.capture3('cat; echo err >&2; exit 3', stdin_data: 'input'); puts [o, e, s.exitstatus].inspect
f = Fiber.new { 5.times { |i| Fiber.yield i * i }; :done }; puts 6.times.map { f.resume }.inspect
UNIXServer.open('/tmp/rb.sock') { |srv| t = Thread.new { c = srv.accept; c.puts c.gets.upcase; c.close }; UNIXSocket.open('/tmp/rb.sock') { |c| c.puts 'hello'; puts c.gets }; t.join }
a = (1..200_000).map { |i| "s#{i}" }; GC.start; puts Digest::SHA256.hexdigest(a.sort.join); h = a.group_by { |x| x.size }; puts JSON.generate(h.transform_values(&:size)); puts [3, 1, 2].to_set.sort.inspect
Tempfile.create('x') { |t| t.write 'x' * 100_000; t.flush; puts File.size(t.path), File.stat(t.path).mode.to_s(8) }; puts `echo sub; exit 5`, $?.exitstatus; exec('sh', '-c', 'exit 8')
RB
ruby r.rb
