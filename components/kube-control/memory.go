package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How the memory that a burst of work left behind is given back. Go's own
// scavenger keeps a tenth more than the next collection may need, and never
// collects early; starting up is such a burst, and most control planes do
// little after it.
const (
	lookEvery = 10 * time.Second
	// quiet is the most that an idle component allocates between two looks.
	quiet = 16 << 20
	// worth is the least allocated since the last time for which a
	// collection and a walk over the heap are worth their processor time.
	worth = 64 << 20
)

// giveBack returns free memory to the machine whenever the component has
// worked and is idle again. It costs an idle component one collection for
// every 64 MiB that it allocates, less than half of what the collector costs
// it anyway.
func giveBack() {
	before, given := allocated(), uint64(0)
	for range time.Tick(lookEvery) {
		now := allocated()
		if now-before < quiet && now-given >= worth {
			debug.FreeOSMemory()
			given = now
		}
		before = now
	}
}

// allocated is how many bytes were ever allocated on the heap.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
