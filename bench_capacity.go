package main

import (
	"maps"
	"math"
	"slices"
	"strings"
)

// parts tells what each process of a fleet spent.
func (d *document) parts(runs []setRun) {
	names := partsOfAll(runs)
	if len(names) == 0 {
		return
	}
	d.line("## What each part spends\n")
	d.line("CPU µs for each operation, from just before the load until the views had caught up, as the kernel counts them.\n")
	d.table(append([]string{"scenario"}, names...)...)
	for _, r := range runs {
		if r.Server == nil || len(r.Server.Parts) == 0 {
			continue
		}
		row := []string{r.Name}
		for _, name := range names {
			v, known := r.Server.Parts[name]
			row = append(row, of(known, "%.0f", v))
		}
		d.line("| %s |", strings.Join(row, " | "))
	}
	d.line("")
}

func partsOfAll(runs []setRun) []string {
	all := map[string]bool{}
	for _, r := range runs {
		if r.Server != nil {
			for name := range r.Server.Parts {
				all[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// What a large shop asks for.
const (
	ordersADay   = 5_000_000
	peakShare    = .1 // of a day's orders come in one hour
	flashAtEdge  = 100_000
	busyCPU      = .6 // how busy a core is planned to be
	coresProcess = 2
)

// lookedAt is how often an order is read in each way in its life.
func lookedAt() map[string]float64 { return map[string]float64{"order": 10, "history": 5, "seller": 2} }

// capacity derives from what each part spends what a large shop needs. It is
// left out where a scenario that it stands on was not run.
func (d *document) capacity(runs []setRun) {
	spent := map[string]map[string]float64{}
	rates := map[string]float64{}
	for _, r := range runs {
		if r.Server != nil && len(r.Server.Parts) > 0 {
			spent[r.Name], rates[r.Name] = r.Server.Parts, r.Rate
		}
	}
	for _, name := range []string{"lifecycle", "flash", "order", "history", "seller"} {
		if spent[name] == nil {
			return
		}
	}
	peak := ordersADay * peakShare / 3600
	d.line("## Capacity on paper\n")
	d.line("%d orders a day are %.0f a second; with a tenth of them in one hour, %.0f at the day's peak. Each is taken to completion (`lifecycle`, %d events), read %.0f times by id, "+
		"%.0f times in its buyer's list and %.0f times in its seller's. A flash sale brings %d requests a second, all of them checkouts, of which one in ten gets a unit (`flash`). "+
		"From the table above, with cores that are planned to be %.0f %% busy; a core is one of this machine's.\n",
		ordersADay, float64(ordersADay)/86400, peak, lifeEvents, lookedAt()["order"], lookedAt()["history"], lookedAt()["seller"], flashAtEdge, 100*busyCPU)
	d.table("part", "cores at the day's peak", "cores more for the flash sale", "processes of 2 cores for both")
	var projecting float64
	for _, part := range partsOfAll(slices.DeleteFunc(slices.Clone(runs), func(r setRun) bool { return strings.HasPrefix(r.Name, "writers-") })) {
		each := spent["lifecycle"][part]
		for name, times := range lookedAt() {
			each += times * spent[name][part]
		}
		day, flash := cores(peak, each), cores(flashAtEdge, spent["flash"][part])
		if part == "project" {
			projecting = day + flash
		}
		d.line("| %s | %.1f | %.1f | %.0f |", part, day, flash, math.Ceil((day+flash)/coresProcess))
	}
	d.line("\n* The event log takes %.0f events a second at the day's peak, and %.0f more while a flash sale places orders.", peak*lifeEvents, flashAtEdge*.1*2)
	d.line("* The bus carries the same. Projectors read it with one goroutine a partition: %.1f busy cores need at least %.0f partitions, and the topic has %d, for ever.",
		projecting, math.Ceil(projecting), partitions)
	if hot := max(rates["hot"], rates["hot-256"]); hot > 0 {
		d.line("* One SKU was sold %.0f times a second, and that is decided in one place, however many processes there are: a flash sale of 10,000 units is sold out after %.1f s. It is the first limit that more machines do not move, unless the SKU is divided into shards, each of which is decided in a place of its own.", hot, 10_000/hot)
	}
	d.line("* Elasticsearch keeps %d documents a day for lists of orders. What archiving moves aside counts no more for the index that is searched (`cartwright archive`).\n", ordersADay)
}

// cores is how many are needed for so many operations a second.
func cores(rate, micros float64) float64 { return rate * micros / 1e6 / busyCPU }
