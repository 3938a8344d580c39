#!/bin/bash
# what: a busy Go program under GODEBUG=asyncpreemptoff=1 that collects garbage (it hangs in gVisor)
# image: languages
# weight: heavy
# memory: 2G
export GOPROXY=off GOCACHE=/tmp/gocache GOPATH=/tmp/gopath CGO_ENABLED=0 GO111MODULE=off
cat > b.go <<'G'
package main

import ("fmt"; "os"; "runtime"; "sync"; "time")

type tree struct{ l, r *tree }

func build(n int) *tree { if n == 0 { return nil }; return &tree{build(n - 1), build(n - 1)} }
func (t *tree) count() int { if t == nil { return 0 }; return 1 + t.l.count() + t.r.count() }
func spin(n int) (x uint32) { for i := 0; i < n; i++ { x = x*1664525 + 1013904223 }; return }

func main() {
	var wg sync.WaitGroup; sums := make([]int, 8); end := time.Now().Add(1500 * time.Millisecond); ticks := 0
	go func() { for range time.Tick(time.Millisecond) { ticks++ } }()
	for i := range sums { wg.Add(1); go func(i int) { defer wg.Done(); for k := 0; k < 3 || time.Now().Before(end); k++ { if c := build(14).count(); k < 3 { sums[i] += c }; spin(1 << 22) } }(i) }
	wg.Wait(); runtime.GC(); fmt.Println(sums, ticks > 0, spin(12345)); var m runtime.MemStats; runtime.ReadMemStats(&m); fmt.Println(m.NumGC > 3); os.Exit(0)
}
G
go build -o b b.go && for _ in 1 2 3; do GODEBUG=asyncpreemptoff=1 ./b; echo "status $?"; done; GODEBUG=asyncpreemptoff=1 GOMAXPROCS=1 ./b; echo "status $?"
