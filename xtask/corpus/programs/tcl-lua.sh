#!/bin/bash
# what: tclsh (event loop, pipes, channels) and lua (coroutines, popen, string work)
# image: toolchain
# weight: light
cat > t.tcl <<'T'
set f [open "|sort -n" r+]; puts $f "10\n9\n1"; close $f write; puts [read $f]; close $f
proc fib n { expr {$n < 2 ? $n : [fib [expr {$n-1}]] + [fib [expr {$n-2}]]} }; puts [fib 18]
set n 0; proc tick {} { global n done; if {[incr n] >= 5} { set done 1 } else { after 10 tick } }; after 10 tick; vwait done; puts "ticks $n"
set p [open "|cat" r+]; fconfigure $p -blocking 0 -buffering line; fileevent $p readable { if {[gets $p l] >= 0} { puts "got $l"; set done 2 } }; puts $p hello; vwait done; catch {close $p}
puts [catch {exec sh -c "exit 3"} m o] ; puts [dict get $o -errorcode | 0 9] 
T
sed -i '$d' t.tcl; echo 'puts [catch {exec sh -c "echo x; exit 3"} m]; puts $m; foreach i [lsort -integer -decreasing {3 1 2}] { puts $i }; puts [string length [string repeat ab 50000]]; exit 4' >> t.tcl; tclsh t.tcl; echo "status $?"
cat > l.lua <<'L'
local co = coroutine.wrap(function() for i = 1, 5 do coroutine.yield(i * i) end end); local t = {}; for _ = 1, 5 do t[#t + 1] = co() end; print(table.concat(t, ","))
local p = io.popen("sort -r", "w"); p:write("a\nb\n"); print(p:close()); local q = io.popen("echo hi; exit 7"); print(q:read("a"), select(3, q:close()))
local s = 0; for i = 1, 3e6 do s = (s * 31 + i) % 1000003 end; print(s); local f = io.open("f", "w"); for i = 1, 10000 do f:write(i, "\n") end; f:close(); local n = 0; for l in io.lines("f") do n = n + tonumber(l) end; print(n, os.execute("kill -9 $$")); print(pcall(error, "x"), os.getenv("HOME"), os.rename("f", "g"), os.remove("none")); local g = {}; for i = 1, 2e5 do g[i] = {tostring(i)} end; collectgarbage(); print(#g); os.exit(6)
L
lua5.4 l.lua; echo "status $?"
