#!/bin/bash
# what: Go: goroutines and channels, a busy loop with preemption on and off, os/exec, signals, a nil dereference
# image: languages
# weight: heavy
# memory: 2G
export GOPROXY=off GOCACHE=/tmp/gocache GOPATH=/tmp/gopath GOFLAGS=-mod=mod CGO_ENABLED=0 GO111MODULE=off
cat > g.go <<'G'
package main

import ("crypto/sha256"; "fmt"; "net"; "os"; "os/exec"; "os/signal"; "runtime"; "sync"; "sync/atomic"; "syscall"; "time")

func busy(stop *int32) (n uint64) { for atomic.LoadInt32(stop) == 0 { n = n*6364136223846793005 + 1 }; return }
func tight(n int) (x uint32) { for i := 0; i < n; i++ { x = x*1664525 + 1013904223 }; return }
func try(f func()) (r any) { defer func() { r = recover() }(); f(); return nil }

func main() {
	ch, done := make(chan int), make(chan int); var wg sync.WaitGroup
	for i := 0; i < 200; i++ { wg.Add(1); go func(i int) { defer wg.Done(); for j := 0; j < 50; j++ { ch <- i*j }; runtime.Gosched() }(i) }
	go func() { t := 0; for x := range ch { t += x }; done <- t }(); wg.Wait(); close(ch); fmt.Println(<-done)
	var stop int32; for i := 0; i < 3 && os.Getenv("GODEBUG") == ""; i++ { go busy(&stop) }; time.Sleep(100 * time.Millisecond); t := time.NewTicker(5 * time.Millisecond); for i := 0; i < 10; i++ { <-t.C }; runtime.GC(); atomic.StoreInt32(&stop, 1); fmt.Println("busy done")
	go tight(1 << 27); runtime.Gosched(); s := make([][]byte, 0); for i := 0; i < 2000; i++ { s = append(s, make([]byte, 10000)); if i%500 == 0 { if os.Getenv("GODEBUG") == "" { runtime.GC() } } }; h := sha256.New(); for _, b := range s { h.Write(b) }; fmt.Printf("%x %d\n", h.Sum(nil), tight(1<<20))
	fmt.Println(try(func() { var p *struct{ a [4]int }; fmt.Println(p.a[2]) })); fmt.Println(try(func() { var m map[string]int; m["x"] = 1 })); fmt.Println(try(func() { a := []int{1}; i := 5; fmt.Println(a[i]) }))
	var mu sync.Mutex; codes := map[int]int{}; for i := 0; i < 20; i++ { wg.Add(1); go func(i int) { defer wg.Done(); c := exec.Command("sh", "-c", fmt.Sprintf("exit %d", i)); c.Run(); mu.Lock(); codes[i] = c.ProcessState.ExitCode(); mu.Unlock() }(i) }; wg.Wait(); fmt.Println(codes)
	sig := make(chan os.Signal, 10); signal.Notify(sig, syscall.SIGUSR1); for i := 0; i < 3; i++ { syscall.Kill(os.Getpid(), syscall.SIGUSR1); fmt.Println(<-sig) }
	l, _ := net.Listen("unix", "/tmp/g.sock"); go func() { for { c, err := l.Accept(); if err != nil { return }; go func() { b := make([]byte, 100); n, _ := c.Read(b); c.Write(b[:n]); c.Close() }() } }(); for i := 0; i < 50; i++ { wg.Add(1); go func(i int) { defer wg.Done(); c, err := net.Dial("unix", "/tmp/g.sock"); if err != nil { fmt.Println(err); return }; fmt.Fprint(c, i); b := make([]byte, 10); n, _ := c.Read(b); if string(b[:n]) != fmt.Sprint(i) { fmt.Println("wrong") } }(i) }; wg.Wait(); l.Close()
	fmt.Println(runtime.NumCPU(), runtime.GOMAXPROCS(0)); os.Exit(6)
}
G
go build -o g g.go; echo "build $?"; ./g; echo "status $?"; GODEBUG=asyncpreemptoff=1 ./g; echo "status $?"; GOMAXPROCS=1 ./g | tail -n 1; GOMAXPROCS=8 ./g | head -n 1; GOGC=5 ./g | sha256sum; echo 'package main; func main() { var p *int; *p = 1 }' > nil.go; go build -o nil nil.go; ./nil 2>&1 | grep -E '^(panic|\[signal)'; echo "${PIPESTATUS[0]}"; echo 'package main; func main() { c := make(chan int); <-c }' > dead.go; go run dead.go 2>&1 | head -n 1
