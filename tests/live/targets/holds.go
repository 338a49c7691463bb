// Holds 48 MiB in Go's heap: as a program, or as a library for a program that is not Go's.
package main

import "C"
import "os"

var held [3072][]byte

//export Hold
func Hold() {
	for i := range held {
		held[i] = make([]byte, 16<<10)
		for j := range held[i] {
			held[i][j] = 1
		}
	}
}

func main() {
	Hold()
	os.Stdout.WriteString("ready\n")
	os.Stdin.Read(make([]byte, 1))
	os.Exit(int(held[0][0]) - 1)
}
