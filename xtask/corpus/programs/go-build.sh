#!/bin/bash
# what: go build, vet and test of a local module with several packages, a benchmark's check and the race of a select
# image: languages
# weight: heavy
# memory: 2G
# timeout: 240
# files: mod
export GOFLAGS=-mod=mod GOPROXY=off GOCACHE=/tmp/gocache GOPATH=/tmp/gopath GOTOOLCHAIN=local CGO_ENABLED=0
mkdir -p mod/calc mod/cmd/app && cd mod || exit 1
printf 'module example.org/mod\n\ngo 1.19\n' > go.mod
cat > calc/calc.go <<'G'
package calc

import "errors"

var ErrZero = errors.New("zero")

func Div(a, b int) (int, error) {
	if b == 0 {
		return 0, ErrZero
	}
	return a / b, nil
}

func Map[T, U any](in []T, f func(T) U) []U {
	out := make([]U, 0, len(in))
	for _, x := range in {
		out = append(out, f(x))
	}
	return out
}
G
cat > calc/calc_test.go <<'G'
package calc

import ("errors"; "fmt"; "os"; "os/exec"; "path/filepath"; "testing"; "time")

func TestDiv(t *testing.T) { for i := 1; i < 50; i++ { t.Run(fmt.Sprint(i), func(t *testing.T) { t.Parallel(); if r, _ := Div(i*i, i); r != i { t.Fatal(r) } }) } }
func TestZero(t *testing.T) { if _, err := Div(1, 0); !errors.Is(err, ErrZero) { t.Fatal(err) } }
func TestExec(t *testing.T) { out, err := exec.Command("sh", "-c", "echo hi; exit 3").Output(); if string(out) != "hi\n" || err.(*exec.ExitError).ExitCode() != 3 { t.Fatal(out, err) } }
func TestFiles(t *testing.T) { d := t.TempDir(); os.WriteFile(filepath.Join(d, "x"), []byte("y"), 0o600); if s, _ := os.Stat(filepath.Join(d, "x")); s.Size() != 1 { t.Fatal() } }
func TestTimer(t *testing.T) { select { case <-time.After(20 * time.Millisecond): case <-time.After(10 * time.Second): t.Fatal() } }
func TestMap(t *testing.T) { if r := Map([]int{1, 2}, func(i int) string { return fmt.Sprint(i) }); r[1] != "2" { t.Fatal(r) } }
G
cat > cmd/app/main.go <<'G'
package main

import ("crypto/sha256"; "encoding/json"; "fmt"; "os"; "sort"; "example.org/mod/calc")

func main() { m := map[string]int{}; for i := 0; i < 10000; i++ { m[fmt.Sprint("k", i%701)] += i }; k := []string{}; for x := range m { k = append(k, x) }; sort.Strings(k); b, _ := json.Marshal(m); fmt.Printf("%x %d %v\n", sha256.Sum256(b), len(k), calc.Map([]int{1, 2, 3}, func(i int) int { return i * i })); os.Exit(4) }
G
go vet ./...; echo "vet $?"; go build -trimpath -o ../app ./cmd/app; echo "build $?"; ../app; echo "app $?"; go test -v ./... 2>&1 | sed -E 's/\([0-9.]+s\)//; s/\t[0-9.]+s$//; s/\(cached\)//' | grep -E '^(---|ok|FAIL|PASS|\?)' | sort; go list ./...; gofmt -l . | wc -l; go build -trimpath -o ../app2 ./cmd/app && cmp ../app ../app2 && sha256sum ../app
