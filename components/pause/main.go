// Package main is the pod sandbox's only process: it holds the namespaces of a
// pod open, reaps orphans when it is PID 1 of a shared PID namespace, and ends
// on SIGINT or SIGTERM.
//
// Invariant: it never exits by itself, allocates nothing after start-up and has
// no dependency outside the standard library.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is what the registry's pause image of the same behaviour is called.
var version = "3.10"

// reap collects every child that has ended; ECHILD means there are none left.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "-v" || os.Args[1] == "--version") {
		fmt.Println("pause " + version)
		return
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	reap() // orphans that ended before the handler was there
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		reap()
	}
}
