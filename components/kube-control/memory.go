package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How the memory that a burst of work left behind is given back, and kept from
// coming again. Go's own scavenger keeps a tenth more than the next collection
// may need, and never collects early; starting up is such a burst, and most
// control planes do little after it.
const (
	lookEvery = 10 * time.Second
	// quiet is the most that an idle component allocates between two looks.
	quiet = 16 << 20
	// restingPercent is what GOGC is while it is idle: a tenth of a second of
	// collecting every minute.
	restingPercent = 12
)

// giveBack returns free memory to the machine when the component has worked and
// is idle again, and collects sooner for as long as it is.
func giveBack() {
	before, resting, working := allocated(), false, 0
	for range time.Tick(lookEvery) {
		now := allocated()
		isQuiet := now-before < quiet
		switch {
		case isQuiet && !resting:
			working = debug.SetGCPercent(restingPercent)
			debug.FreeOSMemory()
		case !isQuiet && resting:
			debug.SetGCPercent(working)
		}
		before, resting = now, isQuiet
	}
}

// allocated is how many bytes were ever allocated on the heap.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
